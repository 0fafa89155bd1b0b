package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
)

// callTimeout is how long one call may take (design §7).
const callTimeout = 30 * time.Second

// maxAnswer is the most that is read of an answer, in bytes.
const maxAnswer = 1 << 20

// client speaks the protocol of package wire. Safe for concurrent use.
type client struct {
	base    string
	version string
	http    *http.Client
}

func newClient(base, version string, h *http.Client) *client {
	if h == nil {
		h = &http.Client{}
	}
	own := *h
	// A redirect would carry the token to wherever it points.
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client{base: strings.TrimRight(base, "/"), version: version, http: &own}
}

// refusal is an answer that is not a success.
type refusal struct {
	status  int
	message string
	after   time.Duration // of Retry-After; 0 if there is none
}

func (r *refusal) Error() string {
	return fmt.Sprintf("the control plane answered %d %s: %s", r.status, http.StatusText(r.status), r.message)
}

// again reports whether the same call may succeed later. What is no refusal is a
// failure of the network or an answer cut short, and passes.
func again(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return !ok || r.status == http.StatusTooManyRequests || r.status == http.StatusRequestTimeout || r.status >= 500
}

func status(err error) int {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status
	}
	return 0
}

// call posts in and decodes the answer into out.
func (c *client) call(ctx context.Context, path string, token muster.Secret, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("call %s: %w", path, err)
	}
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "muster-agent/"+c.version)
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("call %s: %w", path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", path, err)
	}
	if res.StatusCode != http.StatusOK {
		r := &refusal{status: res.StatusCode, after: retryAfter(res.Header.Get("Retry-After"), time.Now())}
		var e wire.Error
		if json.Unmarshal(text, &e) == nil {
			r.message = e.Message
		}
		return r
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("read answer of %s: %w", path, err)
	}
	return nil
}

// retryAfter reads the header: seconds or a date (RFC 9110 §10.2.3), at most an hour.
func retryAfter(header string, now time.Time) time.Duration {
	var d time.Duration
	if s, err := strconv.Atoi(header); err == nil {
		d = time.Duration(min(max(s, 0), 3600)) * time.Second
	} else if at, err := http.ParseTime(header); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), time.Hour)
}

// backoff is how long to wait between tries of one call: 0.5 s, doubled up to
// 30 s, of which a random half is left out, so that agents that lost the same
// control plane do not come back together. Retry-After is a lower bound.
type backoff struct{ tries int }

func (b *backoff) next(err error) time.Duration {
	d := min(500*time.Millisecond<<min(b.tries, 6), 30*time.Second)
	b.tries++
	d = d/2 + below(d/2)
	if r, ok := errors.AsType[*refusal](err); ok && r.after > 0 {
		d += r.after
	}
	return d
}

// below draws from the system. Go's own generator begins with the program, and with
// it the copies of one virtual machine would come back together after all.
func below(d time.Duration) time.Duration {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return time.Duration(binary.NativeEndian.Uint64(b[:]) % uint64(d))
}

func (b *backoff) reset() { b.tries = 0 }

// pause waits, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

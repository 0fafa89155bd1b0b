package github

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	gh "github.com/google/go-github/v88/github"

	"github.com/muster-ci/muster"
)

// download makes a GET whose answer is a file. GitHub sends to another host for
// it, by an address that is valid for a minute and carries its own authorization:
// our credential does not go there.
func (c *Client) download(ctx context.Context, who *identity, r request) (io.ReadCloser, error) {
	if err := who.admit(r.lane, time.Now()); err != nil {
		return nil, c.refuse(r, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	// The timeout is for silence: a long log takes its time.
	silence := time.AfterFunc(c.cfg.Timeout, func() { cancel(context.DeadlineExceeded) })
	give := func(err error) (io.ReadCloser, error) {
		silence.Stop()
		cancel(nil)
		return nil, err
	}
	credential, err := c.credential(ctx, who)
	if err != nil {
		return give(err)
	}
	req, err := c.gh.NewRequest(withCall(ctx, &call{who: who, lane: r.lane, route: r.method + " /" + r.route, credential: credential, file: true}), r.method, r.path, nil)
	if err != nil {
		return give(muster.Errorf(muster.CodeInvalid, "%s: the request cannot be made", r.what))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return give(c.broken(ctx, r, err))
	}
	err = gh.CheckResponse(resp)
	if moved, ok := errors.AsType[*gh.RedirectionError](err); ok && moved.Location != nil {
		resp.Body.Close()
		to := c.base.ResolveReference(moved.Location)
		if !secure(to) {
			return give(muster.Errorf(muster.CodeUnavailable, "%s: GitHub sends to an address without https", r.what))
		}
		if req, err = http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil); err != nil {
			return give(muster.Errorf(muster.CodeUnavailable, "%s: GitHub sends to an address that is none", r.what))
		}
		if resp, err = c.plain.Do(req); err != nil {
			return give(c.broken(ctx, r, err))
		}
		err = gh.CheckResponse(resp)
	}
	if err != nil {
		defer resp.Body.Close()
		return give(c.fail(who, credential, r, resp, err).err)
	}
	return &stream{body: resp.Body, silence: silence, timeout: c.cfg.Timeout, cancel: cancel}, nil
}

// stream is a body that ends when nothing comes for too long.
type stream struct {
	body    io.ReadCloser
	silence *time.Timer
	timeout time.Duration
	cancel  context.CancelCauseFunc
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	s.silence.Reset(s.timeout)
	return s.body.Read(p)
}

// Close implements io.Closer.
func (s *stream) Close() error {
	s.silence.Stop()
	s.cancel(nil)
	return s.body.Close()
}

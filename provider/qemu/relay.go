//go:build linux

package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"github.com/muster-ci/muster/internal/guest"
	"github.com/muster-ci/muster/internal/instancedir"
	"github.com/muster-ci/muster/internal/proc"
)

// agentRoutes are all that a machine reaches of the control plane.
const agentRoutes = "/v1/agent/"

// relay is the host's end of one machine's port.
type relay struct {
	url    string
	egress egress
	http   *http.Client
}

// attach serves a machine's port for as long as QEMU runs, or until Close. Where
// another control plane does so already, QEMU lets us wait until that one has ended.
func (p *Provider) attach(dir, url string, qemu proc.Process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.attached[qemu] || p.ctx.Err() != nil {
		return
	}
	p.attached[qemu] = true
	r := &relay{url: strings.TrimRight(url, "/"), egress: p.rules, http: p.http}
	p.work.Go(func() {
		r.run(p.ctx, dir, qemu)
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.attached, qemu)
	})
}

func (r *relay) run(ctx context.Context, path string, qemu proc.Process) {
	dir, err := os.Open(path)
	if err != nil {
		return // deleted meanwhile
	}
	defer dir.Close()
	for wait := time.Millisecond; qemu.Alive(); wait = min(2*wait, time.Second) {
		c, err := dialIn(ctx, dir, agentSocket)
		if err == nil {
			began := time.Now()
			_ = guest.Serve(ctx, c, r.connect) // ends with QEMU, with the connection, or with us
			if time.Since(began) > time.Second {
				wait = time.Millisecond
			}
		}
		if instancedir.Sleep(ctx, wait) != nil {
			return
		}
	}
}

// connect decides what a stream leads to.
func (r *relay) connect(ctx context.Context, address string) (func(net.Conn), error) {
	if address == guest.ControlPlane && r.url == "" {
		return nil, errors.New("a machine that is kept has no control plane")
	}
	if address == guest.ControlPlane {
		return func(c net.Conn) { r.serve(ctx, c) }, nil
	}
	dialing, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := r.egress.dial(dialing, address)
	if err != nil {
		return nil, err
	}
	return func(c net.Conn) {
		stop := context.AfterFunc(ctx, func() { _ = out.Close() })
		defer stop()
		guest.Splice(c, out)
	}, nil
}

// maxMessage is the most that is passed on of a request or an answer, in bytes.
const maxMessage = 1 << 20

// serve answers the agent's requests on one stream.
func (r *relay) serve(ctx context.Context, c net.Conn) {
	in := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		body, err := io.ReadAll(io.LimitReader(req.Body, maxMessage+1))
		if err != nil {
			return
		}
		res := r.forward(ctx, req, body) //nolint:bodyclose // Write closes it
		if res.Write(c) != nil || req.Close {
			return
		}
	}
}

// forward passes one request on to the control plane.
func (r *relay) forward(ctx context.Context, req *http.Request, body []byte) *http.Response {
	if req.Method != http.MethodPost || req.URL.RawQuery != "" || path.Clean(req.URL.Path) != req.URL.Path || !strings.HasPrefix(req.URL.Path, agentRoutes) {
		return refuse(http.StatusForbidden, "forbidden", "a machine may call the agent's routes only")
	}
	if len(body) > maxMessage {
		return refuse(http.StatusRequestEntityTooLarge, "too_large", "the request has more than 1 MiB")
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+req.URL.Path, bytes.NewReader(body))
	if err != nil {
		return refuse(http.StatusBadGateway, "bad_url", "the control plane's URL is no URL")
	}
	for _, name := range []string{"Authorization", "Content-Type", "User-Agent"} {
		if v := req.Header.Get(name); v != "" {
			out.Header.Set(name, v)
		}
	}
	res, err := r.http.Do(out)
	if err != nil {
		return refuse(http.StatusServiceUnavailable, "unreachable", fmt.Sprintf("the control plane does not answer: %v", errors.Unwrap(err)))
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxMessage))
	if err != nil {
		return refuse(http.StatusBadGateway, "cut_short", "the control plane's answer was cut short")
	}
	return answer(res.StatusCode, text, res.Header, "Content-Type", "Retry-After")
}

func answer(status int, body []byte, from http.Header, names ...string) *http.Response {
	h := http.Header{}
	for _, name := range names {
		if v := from.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	return &http.Response{StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Header: h, ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body))}
}

// refuse answers as the control plane does.
func refuse(status int, code, message string) *http.Response {
	text, _ := json.Marshal(map[string]string{"code": code, "message": message}) // never fails
	return answer(status, text, http.Header{"Content-Type": {"application/json"}}, "Content-Type")
}

package github

import (
	"bytes"
	"container/list"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/muster-ci/muster"
)

// call is what the transport has to know of a request.
type call struct {
	who        *identity
	lane       Lane
	route      string
	credential muster.Secret
	// file is set when a 302 leads to a file that needs no credential.
	file bool
}

type callKey struct{}

func withCall(ctx context.Context, c *call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

// transport authenticates requests, counts them, and answers from memory what
// GitHub says has not changed.
type transport struct {
	client *Client
	base   http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	c := req.Context().Value(callKey{}).(*call)
	req = req.Clone(req.Context()) // a RoundTripper must not change the caller's
	// A redirect must not carry the credential to another host.
	if req.URL.Host == t.client.base.Host && secure(req.URL) {
		req.Header.Set("Authorization", "Bearer "+c.credential.Reveal())
	}
	key := ""
	if req.Method == http.MethodGet {
		key = c.who.account + " " + req.URL.String()
	}
	cached := t.client.etags.get(key)
	if cached != nil {
		req.Header.Set("If-None-Match", cached.header.Get("Etag"))
	}
	start := time.Now()
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		t.client.cfg.Observer.Called(t.client.cfg.Name, c.route, 0, time.Since(start))
		return nil, err
	}
	now := time.Now()
	t.client.cfg.Observer.Called(t.client.cfg.Name, c.route, resp.StatusCode, now.Sub(start))
	if left, limit := c.who.note(c, req.Method, resp, now); limit > 0 {
		t.client.cfg.Observer.Budget(t.client.cfg.Name, left, limit)
	}
	switch {
	case resp.StatusCode == http.StatusNotModified && cached != nil:
		resp.Body.Close()
		return cached.response(resp), nil
	case resp.StatusCode == http.StatusOK && key != "" && resp.Header.Get("Etag") != "":
		return t.client.etags.keep(key, resp)
	}
	return resp, nil
}

const (
	maxPage  = 4 << 20  // the largest answer that is kept, in bytes; a page of 100 runs has more than 1 MiB
	maxPages = 32 << 20 // all that are kept together
)

// etags remembers answers by their ETag: GitHub's "not modified" costs nothing of
// the rate limit. Safe for concurrent use; forgets the least recently used.
type etags struct {
	mu    sync.Mutex
	pages map[string]*list.Element
	order *list.List // most recently used first
	size  int
}

type page struct {
	key    string
	header http.Header
	body   []byte
}

func newETags() *etags { return &etags{pages: map[string]*list.Element{}, order: list.New()} }

func (e *etags) get(key string) *page {
	e.mu.Lock()
	defer e.mu.Unlock()
	el := e.pages[key]
	if el == nil {
		return nil
	}
	e.order.MoveToFront(el)
	return el.Value.(*page)
}

// keep reads the answer, remembers it if it is small enough, and returns it as it was.
func (e *etags) keep(key string, resp *http.Response) (*http.Response, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPage+1))
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	if len(body) > maxPage {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(body), resp.Body), resp.Body}
		return resp, nil
	}
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if usable(body) {
		e.put(&page{key: key, header: resp.Header.Clone(), body: body})
	}
	return resp, nil
}

// usable reports whether an answer may be remembered: one that came without its
// content would come back with every "not modified", for good.
func usable(body []byte) bool {
	switch text := bytes.TrimSpace(body); string(text[:min(len(text), 5)]) {
	case "", "{}", "null":
		return false
	}
	return json.Valid(body)
}

func (e *etags) put(p *page) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if old := e.pages[p.key]; old != nil {
		e.remove(old)
	}
	e.pages[p.key] = e.order.PushFront(p)
	e.size += len(p.body)
	for e.size > maxPages {
		e.remove(e.order.Back())
	}
}

// remove is called with e.mu held.
func (e *etags) remove(el *list.Element) {
	p := e.order.Remove(el).(*page)
	delete(e.pages, p.key)
	e.size -= len(p.body)
}

// response is the remembered answer with the headers of the new one where it has them.
func (p *page) response(fresh *http.Response) *http.Response {
	resp := *fresh
	resp.Status, resp.StatusCode = "200 OK", http.StatusOK
	resp.Header = p.header.Clone()
	for name, values := range fresh.Header {
		if name != "Content-Length" {
			resp.Header[name] = values
		}
	}
	resp.Body = io.NopCloser(bytes.NewReader(p.body))
	resp.ContentLength = int64(len(p.body))
	return &resp
}

package e2e

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"
)

// Exchange is one request and its answer, as both sides saw it.
type Exchange struct {
	Method, Path string
	Request      []byte
	Header       http.Header // of the request
	Status       int         // 0: the connection was cut
	Answer       []byte
}

// watched serves next on a loopback port until the test ends. answer, if set, may
// answer instead; see, if set, is told of every exchange.
func watched(tb testing.TB, next http.Handler, answer func(http.ResponseWriter, *http.Request) bool, see func(Exchange)) (base string) {
	tb.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the caller went away
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		rec := &recorder{ResponseWriter: w}
		if see != nil {
			defer func() {
				see(Exchange{Method: r.Method, Path: r.URL.Path, Request: body, Header: r.Header, Status: rec.status, Answer: rec.body.Bytes()})
			}()
		}
		if answer == nil || !answer(rec, r) {
			next.ServeHTTP(rec, r)
		}
	}))
	tb.Cleanup(srv.Close)
	return srv.URL
}

// recorder keeps what passes through it.
type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	r.body.Write(p)
	return r.ResponseWriter.Write(p)
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// forward passes requests on to base. When nobody answers there, the connection
// is cut, as it would be without this in between.
func forward(base string) http.Handler {
	to, err := url.Parse(base)
	if err != nil {
		panic(err) // the stand's own address
	}
	return &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
}

// patience is how often longer than on a machine with nothing else to do a story waits.
const patience = 3

// eventually asks until ok says true, and fails with what it says last. within is for a
// machine with nothing else to do.
func eventually(tb testing.TB, within time.Duration, ok func() (done bool, state string)) {
	tb.Helper()
	within *= patience
	ctx, cancel := context.WithTimeout(tb.Context(), within)
	defer cancel()
	for {
		done, state := ok()
		if done {
			return
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("after %s: %s", within, state)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

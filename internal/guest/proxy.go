package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
)

// DialFunc opens a stream to an address.
type DialFunc func(ctx context.Context, address string) (net.Conn, error)

// Forward accepts connections until the listener is closed, and joins each to a
// stream to address.
func Forward(ctx context.Context, l net.Listener, address string, dial DialFunc) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		wait.Go(func() {
			s, err := dial(ctx, address)
			if err != nil {
				_ = c.Close()
				return
			}
			stop := context.AfterFunc(ctx, func() { _ = s.Close(); _ = c.Close() })
			defer stop()
			Splice(c, s)
		})
	}
}

// Proxy is an HTTP proxy whose connections are streams of the port: CONNECT for
// anything, and plain HTTP.
func Proxy(dial DialFunc) http.Handler {
	plain := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.Header.Del("Proxy-Connection") },
		Transport: &http.Transport{
			DialContext:        func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, address) },
			DisableCompression: true,
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			if r.URL.Scheme != "http" || r.URL.Host == "" {
				http.Error(w, "this is a proxy", http.StatusBadRequest)
				return
			}
			plain.ServeHTTP(w, r)
			return
		}
		s, err := dial(r.Context(), r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		c, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			_ = s.Close()
			return
		}
		_, err = fmt.Fprint(c, "HTTP/1.1 200 Connection established\r\n\r\n")
		if n := buffered.Reader.Buffered(); n > 0 && err == nil { // a client that did not wait
			early, _ := buffered.Peek(n)
			_, err = s.Write(early)
		}
		if err != nil {
			_ = errors.Join(c.Close(), s.Close())
			return
		}
		Splice(c, s)
	})
}

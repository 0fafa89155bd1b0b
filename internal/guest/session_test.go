package guest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire is a port as the guest sees it: it stays while hosts come and go, and what
// nobody hears is lost.
type wire struct {
	mu     sync.Mutex
	host   net.Conn // nil while the host is away
	came   *sync.Cond
	closed bool
}

func newWire() *wire {
	w := &wire{}
	w.came = sync.NewCond(&w.mu)
	return w
}

// plug returns the end of a new host.
func (w *wire) plug() net.Conn {
	guest, host := net.Pipe()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.host != nil {
		w.host.Close()
	}
	w.host = guest
	w.came.Broadcast()
	return host
}

func (w *wire) current() (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.host == nil && !w.closed {
		w.came.Wait()
	}
	if w.closed {
		return nil, net.ErrClosed
	}
	return w.host, nil
}

func (w *wire) unplug(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.host == c {
		w.host = nil
	}
}

func (w *wire) Read(p []byte) (int, error) {
	for {
		c, err := w.current()
		if err != nil {
			return 0, err
		}
		if n, err := c.Read(p); err == nil {
			return n, nil
		}
		w.unplug(c)
	}
}

func (w *wire) Write(p []byte) (int, error) {
	c, err := w.current()
	if err != nil {
		return 0, err
	}
	_, _ = c.Write(p)
	return len(p), nil
}

func (w *wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.host != nil {
		w.host.Close()
	}
	w.came.Broadcast()
	return nil
}

// echo serves "echo", and refuses everything else.
func echo(_ context.Context, address string) (func(net.Conn), error) {
	if address != "echo" {
		return nil, fmt.Errorf("%s is not for you", address)
	}
	return func(c net.Conn) { _, _ = io.Copy(c, c) }, nil
}

// host serves a wire until the function that it returns is called.
func host(w *wire, connect func(context.Context, string) (func(net.Conn), error)) (leave func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	end := w.plug()
	go func() {
		defer close(done)
		_ = Serve(ctx, end, connect)
	}()
	return func() { cancel(); <-done }
}

func TestStreams(t *testing.T) {
	w := newWire()
	d := NewDialer(w)
	defer d.Close()
	defer host(w, echo)()
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			c, err := d.Dial(t.Context(), "echo")
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			sent := make([]byte, 600<<10+i) // more than a window
			_, _ = rand.Read(sent)
			go func() {
				_, _ = c.Write(sent)
				_ = c.(interface{ CloseWrite() error }).CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("stream %d: %d of %d bytes came back: %v", i, len(got), len(sent), err)
			}
		})
	}
	wait.Wait()
	if _, err := d.Dial(t.Context(), "other"); err == nil || !strings.Contains(err.Error(), "other is not for you") {
		t.Errorf("a refused address: %v", err)
	}
	c, err := d.Dial(t.Context(), "echo")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read after its deadline: %v", err)
	}
	_ = c.Close()
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write after close: %v", err)
	}
}

// A host is killed in the middle of everything, and another takes its place: what was
// open fails at once, what is opened then works, whatever lies in the port.
func TestHostIsReplaced(t *testing.T) {
	w := newWire()
	d := NewDialer(w)
	defer d.Close()
	// Without a host, a dial waits, and gives up when it is told to.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	_, err := d.Dial(ctx, "echo")
	cancel()
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial without a host: %v", err)
	}
	for round := range 5 {
		leave := host(w, echo)
		dialing, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		c, err := d.Dial(dialing, "echo")
		cancel()
		if err != nil {
			// The first dial of a round may still reach the host that left.
			if c, err = d.Dial(t.Context(), "echo"); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if _, err := c.Write([]byte("ping")); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		leave()
		// A host that died in the middle of a frame leaves half of it, and noise.
		half := frame{data, 7, 7, bytes.Repeat([]byte{flagByte, 1}, 100)}.append(nil)
		end := w.plug()
		_, _ = end.Write(half[:len(half)-3])
		_, _ = end.Write([]byte{flagByte, flagByte, escapeByte})
		_ = end.Close()
		next := host(w, echo)
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, errReplaced) {
			t.Errorf("round %d: a stream to the host that left: %v", round, err)
		}
		next()
	}
}

func TestFrames(t *testing.T) {
	for _, f := range []frame{
		{kind: hello, session: 1}, {data, 0x7e7d7e7d, 0x7d7e, []byte{flagByte, escapeByte, 0, 0xff}}, {data, 1, 2, bytes.Repeat([]byte{flagByte}, maxBody)},
	} {
		text := f.append([]byte("noise"))
		var got []frame
		err := readFrames(io.MultiReader(strings.NewReader("\x7eno frame\x7e"), bytes.NewReader(text), bytes.NewReader(text)), func(f frame) { got = append(got, f) })
		if !errors.Is(err, io.EOF) || len(got) != 2 || got[0].session != f.session || got[1].stream != f.stream || !bytes.Equal(got[0].body, f.body) {
			t.Errorf("%+v came as %+v, %v", f, got, err)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(frame{data, 1, 2, []byte("hello")}.append(nil))
	f.Add([]byte{flagByte, escapeByte, flagByte})
	f.Fuzz(func(t *testing.T, text []byte) {
		// Whatever came before, a whole frame is understood.
		whole := frame{data, 3, 4, text[:min(len(text), maxBody)]}
		seen := false
		_ = readFrames(bytes.NewReader(whole.append(append(text, flagByte))), func(f frame) {
			seen = f.kind == data && f.session == 3 && bytes.Equal(f.body, whole.body)
		})
		if !seen {
			t.Errorf("a frame after %q was lost", text)
		}
	})
}

// 4-14: boot data without a seed are refused, and what cannot be read is not shown.
func TestBoot(t *testing.T) {
	line, err := Boot{Token: "secret-token", Seed: make([]byte, SeedBytes), Hostname: "r-1"}.Line()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := ParseBoot(bytes.TrimSpace(line)); err != nil || b.Token != "secret-token" || b.Hostname != "r-1" {
		t.Errorf("%+v, %v", b, err)
	}
	for _, bad := range []string{`{"token":"secret-token"}`, `{"token":"secret-token","seed":"AAAA"}`, `"secret-token`} {
		if _, err := ParseBoot([]byte(bad)); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// The proxy in a machine leads plain HTTP and CONNECT through the port.
func TestProxy(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "origin ", r.URL.Path) }))
	defer origin.Close()
	secure := httptest.NewTLSServer(origin.Config.Handler)
	defer secure.Close()
	w := newWire()
	d := NewDialer(w)
	defer d.Close()
	defer host(w, func(ctx context.Context, address string) (func(net.Conn), error) {
		if strings.HasPrefix(address, "denied") {
			return nil, errors.New("denied by the host")
		}
		out, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		return func(c net.Conn) { Splice(c, out) }, nil
	})()
	dial := func(ctx context.Context, address string) (net.Conn, error) { return d.Dial(ctx, address) }
	proxy := httptest.NewServer(Proxy(dial))
	defer proxy.Close()
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := secure.Client().Transport.(*http.Transport).Clone()
	transport.Proxy = http.ProxyURL(at)
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport}
	for _, from := range []string{origin.URL, secure.URL} {
		res, err := client.Get(from + "/path")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(text) != "origin /path" {
			t.Errorf("%s: %q, %v", from, text, err)
		}
	}
	if _, err := client.Get("https://denied.example/"); err == nil {
		t.Error("a denied tunnel was opened")
	}
	res, err := client.Get("http://denied.example/")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != http.StatusBadGateway || !strings.Contains(string(text), "denied by the host") {
		t.Errorf("a denied address: %s %s", res.Status, text)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Forward(t.Context(), l, origin.Listener.Addr().String(), dial) }()
	direct := &http.Transport{}
	res, err = (&http.Client{Transport: direct}).Get("http://" + l.Addr().String() + "/forwarded")
	if err != nil {
		t.Fatal(err)
	}
	text, _ = io.ReadAll(res.Body)
	res.Body.Close()
	direct.CloseIdleConnections()
	if string(text) != "origin /forwarded" {
		t.Errorf("forwarded: %q", text)
	}
	l.Close()
	transport.CloseIdleConnections()
	origin.CloseClientConnections()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("forward ended with %v", err)
	}
}

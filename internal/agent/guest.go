package agent

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/muster-ci/muster/internal/guest"
	"github.com/muster-ci/muster/internal/wire"
)

// throughPort lets the configuration call the control plane through a virtio port,
// where MUSTER_URL is "virtio:NAME", and opens what leads the runner to the addresses
// that the host allows. The function that it returns closes all of it.
func (c *Config) throughPort() (done func(), err error) {
	name, ok := strings.CutPrefix(c.URL, guest.URLScheme)
	if !ok {
		return func() {}, nil
	}
	port, err := guest.OpenPort(name)
	if err != nil {
		return nil, fmt.Errorf("MUSTER_URL: %w", err)
	}
	dialer := guest.NewDialer(port)
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	var listeners []net.Listener
	done = func() {
		cancel()
		for _, l := range listeners {
			_ = l.Close()
		}
		_ = dialer.Close()
		wait.Wait()
	}
	dial := func(ctx context.Context, address string) (net.Conn, error) { return dialer.Dial(ctx, address) }
	listen := func(address string, serve func(net.Listener) error) {
		l, e := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if e != nil {
			err = errors.Join(err, e)
			return
		}
		listeners = append(listeners, l)
		wait.Go(func() { _ = serve(l) }) // until done closes the listener
	}
	env := map[string]string{}
	for _, e := range c.Environ {
		name, v, _ := strings.Cut(e, "=")
		env[name] = v
	}
	for address := range strings.SplitSeq(env[guest.ListenVariable], ",") {
		if address != "" {
			listen(address, func(l net.Listener) error { return guest.Forward(ctx, l, address, dial) })
		}
	}
	if address := env[guest.ProxyVariable]; address != "" {
		proxy := &http.Server{Handler: guest.Proxy(dial), ReadHeaderTimeout: time.Minute, BaseContext: func(net.Listener) context.Context { return ctx }}
		listen(address, proxy.Serve)
		for _, name := range []string{"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"} {
			c.Environ = append(c.Environ, name+"=http://"+address)
		}
		c.Environ = append(c.Environ, "no_proxy=localhost,127.0.0.1,::1", "NO_PROXY=localhost,127.0.0.1,::1")
	}
	if err != nil {
		done()
		return nil, fmt.Errorf("listen for the runner: %w", err)
	}
	c.URL = "http://" + guest.ControlPlane
	c.HTTP = &http.Client{Transport: overPort(dialer)}
	return done, nil
}

// overPort reaches the control plane through the port, whatever the address.
func overPort(dialer *guest.Dialer) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.Dial(ctx, guest.ControlPlane)
		},
		MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute,
	}
}

// rehearse calls a control plane that is in this program, by the way that the first
// real call goes. A template is made afterwards, so that its copies have in memory
// what the call needs, and do not begin with it. In a template, it opens the recorder too, whose
// programs the kernel verifies for seconds where it is emulated; nil otherwise.
func rehearse(version string, log *slog.Logger) (warm recorder) {
	if guest.Template() {
		var missing string
		if warm, missing = checked(openKernel(recordOptions{log: log, agent: version})); missing != "" {
			log.Info("copies will look for a recorder themselves", "reason", missing)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	near, far := net.Pipe()
	dialer := guest.NewDialer(near)
	var wait sync.WaitGroup
	wait.Go(func() {
		_ = guest.Serve(ctx, far, func(context.Context, string) (func(net.Conn), error) {
			return func(c net.Conn) {
				if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					_, _ = io.Copy(io.Discard, req.Body)
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
				}
			}, nil
		})
	})
	transport := overPort(dialer)
	var boot wire.BootResponse
	_ = newClient("http://"+guest.ControlPlane, version, &http.Client{Transport: transport}).call(ctx, wire.BootPath, "rehearsal", wire.BootRequest{Nonce: rand.Text()}, &boot) // what it says is of no use
	transport.CloseIdleConnections()
	_ = dialer.Close()
	cancel()
	wait.Wait()
	runtime.GC() // not in every copy
	return warm
}

// runKept runs the runner that is registered on the machine's own disk until ctx ends,
// and again whenever it ends by itself.
func runKept(ctx context.Context, cfg Config) error {
	for tries := (backoff{}); ; {
		began := time.Now()
		cmd := exec.Command(filepath.Join(cfg.RunnerDir, "run.sh")) //nolint:noctx // interrupted below, killed only after its grace
		cmd.Dir, cmd.Env = cfg.RunnerDir, append(runnerEnviron(cfg.Environ, os.Getuid() == 0), "RUNNER_MANUALLY_TRAP_SIG=1")
		cmd.Stdout, cmd.Stderr = cfg.Output, cfg.Output
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start runner: %w", err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		var err error
		select {
		case err = <-ended:
		case <-ctx.Done():
			_ = cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-ended: //nolint:errcheck // it was told to end
			case <-time.After(cmp.Or(cfg.StopGrace, defaultStopGrace)):
				_ = cmd.Process.Kill()
				<-ended //nolint:errcheck // it was told to end
			}
			return nil
		}
		cfg.Logger.Warn("runner ended", "error", err)
		if time.Since(began) > time.Minute {
			tries.reset()
		}
		if pause(ctx, tries.next(err)) != nil {
			return nil
		}
	}
}

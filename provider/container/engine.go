package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/muster-ci/muster/provider"
)

// engine is the connection to one engine. It connects with the first call, and again
// after the engine was restarted.
type engine struct {
	*client.Client
	host string
	// isPodman is what the engine's last answer said.
	isPodman atomic.Bool
	direct   *http.Client
}

// inspectAll are the options of an inspection: there are none to choose.
var inspectAll = client.ContainerInspectOptions{}

// findHost is the engine's address: as configured, as the environment says, or the
// first socket that is there.
func findHost(configured string, env func(string) string) string {
	if host := cmp.Or(configured, env("DOCKER_HOST")); host != "" {
		return host
	}
	sockets := []string{"/var/run/docker.sock", "/run/podman/podman.sock"}
	if run := env("XDG_RUNTIME_DIR"); run != "" {
		sockets = append(sockets, filepath.Join(run, "docker.sock"), filepath.Join(run, "podman", "podman.sock"))
	}
	for _, path := range sockets {
		if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
			return "unix://" + path
		}
	}
	return client.DefaultDockerHost
}

func connect(cfg Config) (*engine, error) {
	e := &engine{host: findHost(cfg.Host, os.Getenv)}
	opts := []client.Opt{client.WithHost(e.host), client.WithUserAgent("muster"), client.WithHTTPResponseHook(e.see)}
	if cfg.TLSDir != "" {
		opts = append(opts, client.WithTLSClientConfig(filepath.Join(cfg.TLSDir, "ca.pem"), filepath.Join(cfg.TLSDir, "cert.pem"), filepath.Join(cfg.TLSDir, "key.pem")))
	}
	var err error
	if e.Client, err = client.New(opts...); err != nil {
		return nil, fmt.Errorf("host: %s: %w", e.host, err)
	}
	dial := e.Dialer()
	e.direct = &http.Client{Transport: &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		MaxIdleConns:    4,
		IdleConnTimeout: idleConnection,
	}}
	return e, nil
}

// see looks at every answer for what the engine is.
func (e *engine) see(resp *http.Response) {
	if resp.Header.Get("Server") != "" {
		e.isPodman.Store(resp.Header.Get("Libpod-Api-Version") != "" || strings.HasPrefix(resp.Header.Get("Server"), "Libpod"))
	}
}

func (e *engine) podman() bool { return e.isPodman.Load() }

// local reports whether the engine sees this machine's files.
func (e *engine) local() bool { return strings.HasPrefix(e.host, "unix://") }

// maxAnswer is the most that is read of one answer of Podman's own interface, in bytes.
const maxAnswer = 4 << 20

// raw asks for a path that Docker's interface does not have.
func (e *engine) raw(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", provider.ErrInvalid, err)
	}
	resp, err := e.direct.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: ask the engine for %s: %w", provider.ErrTransient, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: ask the engine for %s: %s: %.200s", provider.ErrTransient, path, resp.Status, text)
	}
	return text, errors.Join(err)
}

func (e *engine) close() {
	_ = e.Close() // closes idle connections, and cannot fail
	e.direct.CloseIdleConnections()
}

// full are the words by which engines, runtimes and file systems say that there is no
// room. Both engines pass them on in the text of a 500.
var full = []string{
	"no space left on device", "disk quota exceeded", "cannot allocate memory", "resource temporarily unavailable",
	"too many open files", "all predefined address pools have been fully subnetted", "could not find free subnet",
	"no available ipv4 addresses", "failed to find free ip address",
}

// never are the words of what asking again does not cure.
var never = []string{
	"unknown or invalid runtime name", "unknown runtime specified", "no command or entrypoint provided", "no command specified",
	"executable file not found", "command that was not found", "unable to find user", "no such file or directory in container",
	"could not select device driver", "unresolvable cdi devices", "minimum memory limit", "range of cpus is from",
	"invalid reference format", "statfs /", "bind source path does not exist", "no such file or directory: oci runtime",
}

// classify gives an error of the engine its class and says what was tried.
func (p *Provider) classify(what string, err error) error {
	if err == nil {
		return nil
	}
	for _, class := range []error{provider.ErrCapacity, provider.ErrQuota, provider.ErrInvalid, provider.ErrNotFound, provider.ErrTransient} {
		if errors.Is(err, class) {
			return err
		}
	}
	text := strings.ToLower(err.Error())
	says := func(words []string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	class := provider.ErrTransient
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
	case client.IsErrConnectionFailed(err), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%w: %s: the engine at %s does not answer: %w", provider.ErrTransient, what, p.engine.host, err)
	case says(full), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		class = provider.ErrCapacity
	case errdefs.IsInvalidArgument(err), says(never):
		class = provider.ErrInvalid
	case errdefs.IsPermissionDenied(err), errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: %s: %w; let the control plane's user use the engine's socket", provider.ErrTransient, what, err)
	}
	return fmt.Errorf("%w: %s: %w", class, what, err)
}

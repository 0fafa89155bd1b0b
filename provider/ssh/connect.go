package ssh

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// host is one machine: the connection to it, and whether it can be had.
type host struct {
	Host
	p    *Provider
	mark string // distinguishes our instances' names on the machine
	// dialing is held by whoever connects, sending by whoever sends the agent.
	dialing, sending chan struct{}
	// sessions are those in use: sshd allows ten on a connection (MaxSessions).
	sessions chan struct{}

	mu       sync.Mutex
	conn     *connection
	failures int
	// until is how long it is passed over, and cause why.
	until time.Time
	cause error
}

const maxSessions = 8

// maxPause is the longest that a host is passed over without another try.
const maxPause = 5 * time.Minute

// connection is one TCP connection with its SSH client, shared by all calls.
type connection struct {
	client *gossh.Client
	via    *gossh.Client // to the jump host; nil without one
	// suspect asks for a try at once.
	suspect chan struct{}

	mu    sync.Mutex
	agent map[string]string // file of the agent on the host, by checksum, once it was seen
}

func (c *connection) close() {
	_ = c.client.Close() // whatever it says, it is closed
	if c.via != nil {
		_ = c.via.Close()
	}
}

// unreached says that a host was not asked at all: nothing can have happened there.
type unreached struct {
	host string
	err  error
}

func (e *unreached) Error() string { return fmt.Sprintf("host %s: %v", e.host, e.err) }
func (e *unreached) Unwrap() error { return e.err }

// connect returns the connection, or makes one. A host that failed is passed over
// for a while; then one call tries, and the others wait for what comes of it.
func (h *host) connect(ctx context.Context) (*connection, error) {
	select {
	case h.dialing <- struct{}{}:
		defer func() { <-h.dialing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	h.mu.Lock()
	conn, until, cause := h.conn, h.until, h.cause
	h.mu.Unlock()
	switch {
	case conn != nil:
		return conn, nil
	case h.p.closing.Err() != nil:
		return nil, &unreached{h.Name, errors.New("this provider was closed")}
	case time.Now().Before(until):
		return nil, &unreached{h.Name, fmt.Errorf("passed over for another %s: %w", time.Until(until).Round(time.Second), cause)}
	}
	limit, cancel := context.WithTimeout(ctx, time.Duration(h.p.cfg.ConnectTimeout))
	defer cancel()
	conn, err := h.dial(limit)
	if err != nil {
		if ctx.Err() == nil { // else it was the caller who had no time
			h.fail(err)
		}
		return nil, &unreached{h.Name, err}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failures > 0 {
		h.p.log.Info("host is back", "host", h.Name)
	}
	h.conn, h.failures, h.until, h.cause = conn, 0, time.Time{}, nil
	h.p.work.Go(func() { h.tend(conn) })
	return conn, nil
}

// fail lets the host be passed over.
func (h *host) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	pause := min(time.Duration(h.p.cfg.RetryAfter)<<min(h.failures, 16), maxPause)
	h.failures++
	h.until, h.cause = time.Now().Add(pause), err
	if h.failures == 1 {
		h.p.log.Warn("host cannot be reached", "host", h.Name, "error", err, "again_in", pause)
	}
}

// dial makes a connection. It ends with ctx at the latest.
func (h *host) dial(ctx context.Context) (*connection, error) {
	auth, done, err := h.p.cfg.login(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	conn := &connection{suspect: make(chan struct{}, 1), agent: map[string]string{}}
	dial := (&net.Dialer{}).DialContext
	if j := h.Jump; j != nil {
		conn.via, err = h.handshake(ctx, dial, auth, j.Address, j.Port, j.User, j.HostKey)
		if err != nil {
			return nil, fmt.Errorf("jump host: %w", err)
		}
		dial = conn.via.DialContext
	}
	if conn.client, err = h.handshake(ctx, dial, auth, h.Address, h.Port, h.User, h.HostKey); err != nil {
		if conn.via != nil {
			_ = conn.via.Close()
		}
		return nil, err
	}
	return conn, nil
}

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// handshake logs in on a host, after it has shown who it is.
func (h *host) handshake(ctx context.Context, dial dialer, auth []gossh.AuthMethod, name string, port int, user, key string) (*gossh.Client, error) {
	address := net.JoinHostPort(name, strconv.Itoa(port))
	want, err := h.p.cfg.prove(h.Name, address, key)
	if err != nil {
		return nil, err
	}
	var stranger error
	for _, algorithms := range want.tries {
		var client *gossh.Client
		client, err = login(ctx, dial, address, &gossh.ClientConfig{User: user, Auth: auth, HostKeyCallback: want.check, HostKeyAlgorithms: algorithms, ClientVersion: "SSH-2.0-muster"})
		if err == nil {
			return client, nil
		}
		if other, ok := errors.AsType[*hostKeyError](err); ok {
			stranger = other
		} else if _, none := errors.AsType[*gossh.AlgorithmNegotiationError](err); !none {
			stranger = nil
			break
		}
	}
	return nil, cmp.Or(stranger, refusedLogin(err, user))
}

func login(ctx context.Context, dial dialer, address string, cfg *gossh.ClientConfig) (*gossh.Client, error) {
	raw, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	// The handshake knows no context.
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	conn, channels, requests, err := gossh.NewClientConn(raw, address, cfg)
	if !stop() || err != nil {
		if conn != nil {
			_ = conn.Close()
		}
		_ = raw.Close()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w in the handshake", address, ctx.Err())
		}
		return nil, err
	}
	return gossh.NewClient(conn, channels, requests), nil
}

// tend tries an idle connection now and then, until it ends.
func (h *host) tend(conn *connection) {
	ended := make(chan struct{})
	h.p.work.Go(func() {
		_ = conn.client.Wait() // why it ended is no news
		close(ended)
	})
	tick := time.NewTicker(time.Duration(h.p.cfg.KeepAlive))
	defer tick.Stop()
	for alive := true; alive; {
		select {
		case <-tick.C:
		case <-conn.suspect:
		case <-ended:
			alive = false
			continue
		case <-h.p.closing.Done():
			alive = false
			continue
		}
		patience := time.AfterFunc(min(time.Duration(h.p.cfg.KeepAlive), 5*time.Second), conn.close)
		_, _, err := conn.client.SendRequest("keepalive@openssh.com", true, nil)
		patience.Stop()
		alive = err == nil
	}
	h.drop(conn)
	<-ended
}

// drop forgets a connection that does not work any more.
func (h *host) drop(conn *connection) {
	conn.close()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn == conn {
		h.conn = nil
	}
}

// slow is after which time a call that was not answered makes us doubt the connection.
const slow = 5 * time.Second

// maxAnswer is the most that is read of an answer, in bytes.
const maxAnswer = 16 << 20

// run runs the program on the host and returns what it answered. The error is an
// *unreached if nothing can have come of it.
func (h *host) run(ctx context.Context, c call) (string, error) {
	text := c.text(h.Root, h.p.element, h.mark)
	out, err := h.exec(ctx, commandRun, bytes.NewReader([]byte(text)))
	if err != nil {
		return "", err
	}
	said, err := answer(out)
	if err != nil {
		return "", fmt.Errorf("%w: host %s: %w", provider.ErrTransient, h.Name, err)
	}
	return said, nil
}

var (
	// errStale says that a connection that was idle turns out to have ended.
	errStale = errors.New("the connection had ended")
	// errBusy says that sshd takes no further session now: those of calls that nobody
	// waits for any more count until their programs end.
	errBusy = errors.New("no session is free")
)

// exec runs a command with an input.
func (h *host) exec(ctx context.Context, command string, in io.Reader) (string, error) {
	stale := false
	for {
		out, err := h.execOnce(ctx, command, in)
		switch { // what is tried again has read nothing of in
		case errors.Is(err, errStale) && !stale && ctx.Err() == nil:
			stale = true
		case errors.Is(err, errBusy) && sleep(ctx, 100*time.Millisecond) == nil:
		default:
			return out, err
		}
	}
}

func (h *host) execOnce(ctx context.Context, command string, in io.Reader) (string, error) {
	conn, err := h.connect(ctx)
	if err != nil {
		return "", h.classify(ctx, err)
	}
	select {
	case h.sessions <- struct{}{}:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	var out, errs limited
	done := make(chan error, 1)
	h.p.work.Go(func() {
		defer func() { <-h.sessions }()
		session, err := conn.client.NewSession()
		if err != nil {
			if _, refused := errors.AsType[*gossh.OpenChannelError](err); refused {
				err = fmt.Errorf("%w: %w", errBusy, err)
			} else {
				h.drop(conn)
				err = fmt.Errorf("%w: %w", errStale, err)
			}
			done <- &unreached{h.Name, fmt.Errorf("open a session: %w", err)}
			return
		}
		defer session.Close()
		stop := context.AfterFunc(ctx, func() { _ = session.Close() })
		defer stop()
		session.Stdin, session.Stdout, session.Stderr = in, &out, &errs
		done <- session.Run(command)
	})
	doubt := time.NewTimer(slow)
	defer doubt.Stop()
	for {
		select {
		case err = <-done:
			if exit, ok := errors.AsType[*gossh.ExitError](err); ok {
				return "", h.classify(ctx, fmt.Errorf("exit status %d: %s", exit.ExitStatus(), errs.last()))
			}
			if err != nil {
				conn.doubt()
				return "", h.classify(ctx, err)
			}
			if out.full {
				return "", h.classify(ctx, fmt.Errorf("it answered more than %d bytes", maxAnswer))
			}
			return out.text.String(), nil
		case <-ctx.Done():
			// Its goroutine ends with the session, or with the connection.
			conn.doubt()
			return "", ctx.Err()
		case <-doubt.C:
			conn.doubt()
		}
	}
}

// doubt has the connection tried now.
func (c *connection) doubt() {
	select {
	case c.suspect <- struct{}{}:
	default: // it is about to be
	}
}

// limited keeps what a command prints, up to maxAnswer.
type limited struct {
	text bytes.Buffer
	full bool
}

func (l *limited) Write(p []byte) (int, error) {
	if room := maxAnswer - l.text.Len(); len(p) > room {
		l.full = true
		l.text.Write(p[:room])
	} else {
		l.text.Write(p)
	}
	return len(p), nil
}

// last is the end of what was printed, on one line.
func (l *limited) last() string {
	text := string(bytes.Join(bytes.Fields(l.text.Bytes()), []byte(" ")))
	if text == "" {
		return "it said nothing"
	}
	return text[max(0, len(text)-400):]
}

// classify gives an error of a host its class and the host's name.
func (h *host) classify(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, class := range []error{provider.ErrCapacity, provider.ErrInvalid, provider.ErrNotFound, provider.ErrTransient} {
		if errors.Is(err, class) {
			return err
		}
	}
	if _, ok := errors.AsType[*unreached](err); ok {
		return fmt.Errorf("%w: %w", provider.ErrTransient, err)
	}
	class := provider.ErrTransient
	for _, full := range []string{"No space left on device", "Disk quota exceeded", "Cannot fork", "Resource temporarily unavailable", "Cannot allocate memory"} {
		if bytes.Contains([]byte(err.Error()), []byte(full)) {
			class = provider.ErrCapacity
		}
	}
	return fmt.Errorf("%w: host %s: %w", class, h.Name, err)
}

// ask is run with what is read from the answer, within the time of one call.
func (h *host) ask(ctx context.Context, operation string, runner muster.RunnerID, args ...string) (shown, error) {
	limit, cancel := context.WithTimeout(ctx, time.Duration(h.p.cfg.CallTimeout))
	defer cancel()
	text, err := h.run(limit, call{operation, runner, args})
	if err != nil {
		if ctx.Err() == nil && limit.Err() != nil {
			err = fmt.Errorf("%w: host %s did not answer within %s", provider.ErrTransient, h.Name, time.Duration(h.p.cfg.CallTimeout))
		}
		return shown{}, err
	}
	s, err := read(text, h.id)
	if err != nil {
		return s, fmt.Errorf("%w: host %s: %w", provider.ErrTransient, h.Name, err)
	}
	return s, nil
}

// id is an instance's name.
func (h *host) id(runner muster.RunnerID) string {
	return string(runner) + "." + h.mark + "@" + h.Name
}

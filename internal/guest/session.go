package guest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// window is how much of a stream may be under way without having been read.
const window = 256 << 10

// maxStreams is how many streams one machine may have open.
const maxStreams = 512

// errReplaced ends the streams of a guest whose host has been replaced.
var errReplaced = errors.New("the host's end of the port was replaced")

// link is one end of a port: its streams and what is to be written.
type link struct {
	port io.ReadWriter

	mu      sync.Mutex
	ready   *sync.Cond // queue or done changed
	session uint32     // 0: none yet
	started chan struct{}
	streams map[uint32]*stream
	last    uint32
	queue   []frame // bounded by the windows of the streams
	done    error
}

func newLink(port io.ReadWriter) *link {
	l := &link{port: port, streams: map[uint32]*stream{}, started: make(chan struct{})}
	l.ready = sync.NewCond(&l.mu)
	return l
}

// send queues a frame and never blocks.
func (l *link) send(f frame) {
	l.queue = append(l.queue, f)
	l.ready.Signal()
}

// write writes what is queued until the link is done.
func (l *link) write() error {
	var out []byte
	for {
		l.mu.Lock()
		for len(l.queue) == 0 && l.done == nil {
			l.ready.Wait()
		}
		if l.done != nil {
			l.mu.Unlock()
			return l.done
		}
		batch := l.queue
		l.queue = nil
		l.mu.Unlock()
		for len(batch) > 0 {
			out = out[:0]
			for len(batch) > 0 && len(out) < 4*maxBody {
				out = batch[0].append(out)
				batch = batch[1:]
			}
			if _, err := l.port.Write(out); err != nil {
				return err
			}
		}
	}
}

// begin starts a session and ends the streams of the one before.
func (l *link) begin(session uint32) {
	for _, s := range l.streams {
		s.fail(errReplaced)
	}
	clear(l.streams)
	l.queue = nil
	if l.session == 0 {
		close(l.started)
	}
	l.session = session
}

// close ends the link and its streams.
func (l *link) close(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done != nil {
		return
	}
	l.done = why
	for _, s := range l.streams {
		s.fail(why)
	}
	clear(l.streams)
	l.ready.Broadcast()
}

// take acts on a frame of a stream of this session.
func (l *link) take(f frame) {
	s := l.streams[f.stream]
	if s == nil {
		if f.kind == data || f.kind == end {
			l.send(frame{reset, l.session, f.stream, []byte("no such stream")})
		}
		return
	}
	switch f.kind {
	case opened:
		s.open = true
	case data:
		if len(s.in)+len(f.body) > window {
			s.fail(errors.New("the other end sends more than it may"))
			s.forget("too much data")
			return
		}
		s.in = append(s.in, f.body...)
	case end:
		s.ended = true
	case credit:
		if len(f.body) == 4 {
			s.credit += int(binary.BigEndian.Uint32(f.body))
		}
	case reset:
		s.fail(fmt.Errorf("refused: %s", f.body))
		delete(l.streams, s.id)
		return
	}
	s.changed.Broadcast()
}

func (l *link) newStream(id uint32, address string) *stream {
	s := &stream{link: l, id: id, address: address, session: l.session, credit: window}
	s.changed = sync.NewCond(&l.mu)
	l.streams[id] = s
	return s
}

// stream is one connection over a port.
type stream struct {
	link    *link
	id      uint32
	session uint32
	address string

	// Under link.mu.
	changed     *sync.Cond
	open        bool
	in          []byte
	unacked     int // read and not yet told
	credit      int
	ended, shut bool
	err         error
	readBy      time.Time
	writeBy     time.Time
}

var _ net.Conn = (*stream)(nil)

func (s *stream) fail(err error) {
	if s.err == nil {
		s.err = err
	}
	s.changed.Broadcast()
}

// forget ends a stream on both ends.
func (s *stream) forget(why string) {
	if s.link.streams[s.id] == s {
		delete(s.link.streams, s.id)
		s.link.send(frame{reset, s.session, s.id, []byte(why)})
	}
}

func (s *stream) Read(p []byte) (int, error) {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(s.in) == 0 {
		switch {
		case s.ended:
			return 0, io.EOF
		case s.err != nil:
			return 0, s.err
		case !s.readBy.IsZero() && !time.Now().Before(s.readBy):
			return 0, os.ErrDeadlineExceeded
		}
		s.changed.Wait()
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	if len(s.in) == 0 {
		s.in = nil
	}
	if s.unacked += n; s.unacked >= window/2 && s.err == nil {
		l.send(frame{credit, s.session, s.id, binary.BigEndian.AppendUint32(nil, uint32(s.unacked))})
		s.unacked = 0
	}
	return n, nil
}

func (s *stream) Write(p []byte) (int, error) {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	total := 0
	for len(p) > 0 {
		switch {
		case s.err != nil:
			return total, s.err
		case s.shut:
			return total, net.ErrClosed
		case !s.writeBy.IsZero() && !time.Now().Before(s.writeBy):
			return total, os.ErrDeadlineExceeded
		case s.credit == 0:
			s.changed.Wait()
			continue
		}
		n := min(len(p), s.credit, maxBody)
		l.send(frame{data, s.session, s.id, append([]byte(nil), p[:n]...)})
		s.credit -= n
		total += n
		p = p[n:]
	}
	return total, nil
}

// CloseWrite tells the other end that no more will come.
func (s *stream) CloseWrite() error {
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	if !s.shut && s.err == nil {
		s.shut = true
		s.link.send(frame{kind: end, session: s.session, stream: s.id})
	}
	return nil
}

// Close ends the stream. What was written before is delivered.
func (s *stream) Close() error {
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	if s.err == nil && !s.shut {
		s.link.send(frame{kind: end, session: s.session, stream: s.id})
	}
	s.shut = true
	s.forget("closed")
	s.fail(net.ErrClosed)
	return nil
}

func (s *stream) deadline(at *time.Time, t time.Time) error {
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	*at = t
	s.changed.Broadcast()
	if !t.IsZero() {
		time.AfterFunc(time.Until(t), func() {
			s.link.mu.Lock()
			defer s.link.mu.Unlock()
			s.changed.Broadcast()
		})
	}
	return nil
}

// SetReadDeadline ends reads at a time.
func (s *stream) SetReadDeadline(t time.Time) error { return s.deadline(&s.readBy, t) }

// SetWriteDeadline ends writes at a time.
func (s *stream) SetWriteDeadline(t time.Time) error { return s.deadline(&s.writeBy, t) }

// SetDeadline ends reads and writes at a time.
func (s *stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// LocalAddr is the port.
func (s *stream) LocalAddr() net.Addr { return portAddr(AgentPort) }

// RemoteAddr is what the stream was opened to.
func (s *stream) RemoteAddr() net.Addr { return portAddr(s.address) }

type portAddr string

func (portAddr) Network() string  { return "virtio" }
func (a portAddr) String() string { return string(a) }

// Dialer is the guest's end of a port.
type Dialer struct {
	link  *link
	close func() error
	wait  sync.WaitGroup
}

// NewDialer serves the guest's end of a port until Close. The port's reads wait while
// the host is away.
func NewDialer(port io.ReadWriteCloser) *Dialer {
	l := newLink(port)
	d := &Dialer{link: l, close: port.Close}
	d.wait.Go(func() { l.close(l.write()) })
	d.wait.Go(func() {
		err := readFrames(port, func(f frame) {
			l.mu.Lock()
			defer l.mu.Unlock()
			switch {
			case f.kind == hello && f.session != 0 && f.session != l.session:
				l.begin(f.session)
				fallthrough
			case f.kind == hello:
				l.send(frame{kind: hello, session: l.session})
			case f.session == l.session:
				l.take(f)
			}
		})
		l.close(fmt.Errorf("port to the host: %w", err))
	})
	return d
}

// Close ends every stream and the port.
func (d *Dialer) Close() error {
	d.link.close(net.ErrClosed)
	err := d.close()
	d.wait.Wait()
	return err
}

// Dial opens a stream to ControlPlane or to a host:port. It waits for a host.
func (d *Dialer) Dial(ctx context.Context, address string) (net.Conn, error) {
	if len(address) > 512 {
		return nil, fmt.Errorf("an address of %d bytes", len(address))
	}
	l := d.link
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, s := range l.streams {
			s.changed.Broadcast()
		}
	})
	defer stop()
	select {
	case <-l.started:
	case <-ctx.Done():
		return nil, fmt.Errorf("open %s: the host is not there: %w", address, ctx.Err())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done != nil {
		return nil, l.done
	}
	if len(l.streams) >= maxStreams {
		return nil, fmt.Errorf("open %s: %d connections are open", address, len(l.streams))
	}
	l.last++
	s := l.newStream(l.last, address)
	l.send(frame{open, l.session, s.id, []byte(address)})
	for !s.open {
		switch {
		case s.err != nil:
			return nil, fmt.Errorf("open %s: %w", address, s.err)
		case ctx.Err() != nil:
			s.forget("given up")
			s.fail(ctx.Err())
			return nil, fmt.Errorf("open %s: %w", address, ctx.Err())
		}
		s.changed.Wait()
	}
	return s, nil
}

// Serve serves the host's end of a port until it or ctx ends, and returns when every
// stream has been let go. connect decides about an address: it refuses with an error,
// whose text the guest gets to see, or returns what serves the stream and closes it.
func Serve(ctx context.Context, port io.ReadWriteCloser, connect func(ctx context.Context, address string) (serve func(net.Conn), err error)) error {
	ctx, cancel := context.WithCancel(ctx)
	l := newLink(port)
	stop := context.AfterFunc(ctx, func() {
		l.close(context.Cause(ctx))
		_ = port.Close()
	})
	var wait sync.WaitGroup
	defer func() {
		cancel()
		stop()
		_ = port.Close()
		wait.Wait()
	}()
	var id [4]byte
	_, _ = rand.Read(id[:]) // never fails
	l.session = max(1, binary.BigEndian.Uint32(id[:]))
	l.send(frame{kind: hello, session: l.session})
	wait.Go(func() {
		l.close(l.write())
		_ = port.Close()
	})
	err := readFrames(port, func(f frame) {
		l.mu.Lock()
		defer l.mu.Unlock()
		switch {
		case f.session != l.session || f.kind == hello:
			// What the guest said to somebody else, or that it has heard us.
		case f.kind == open && l.streams[f.stream] == nil && len(l.streams) < maxStreams && l.done == nil:
			s := l.newStream(f.stream, string(f.body))
			wait.Go(func() { s.serve(ctx, connect) })
		case f.kind == open:
			l.send(frame{reset, l.session, f.stream, []byte("too many connections")})
		default:
			l.take(f)
		}
	})
	l.close(fmt.Errorf("port to the guest: %w", err))
	return err
}

// serve connects one stream.
func (s *stream) serve(ctx context.Context, connect func(context.Context, string) (func(net.Conn), error)) {
	serve, err := connect(ctx, s.address)
	s.link.mu.Lock()
	if err != nil {
		text := err.Error()
		s.forget(text[:min(len(text), 1024)])
		s.fail(err)
		s.link.mu.Unlock()
		return
	}
	s.open = true
	s.link.send(frame{kind: opened, session: s.session, stream: s.id})
	s.link.mu.Unlock()
	serve(s)
	_ = s.Close()
}

// Splice copies between two connections until both directions are over, and closes them.
func Splice(a, b net.Conn) {
	var wait sync.WaitGroup
	one := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
			_ = half.CloseWrite()
			return
		}
		_ = a.Close()
		_ = b.Close()
	}
	wait.Go(func() { one(a, b) })
	wait.Go(func() { one(b, a) })
	wait.Wait()
	_ = a.Close()
	_ = b.Close()
}

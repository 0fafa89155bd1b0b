package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muster-ci/muster/internal/agent/bpf"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/internal/trace"
)

// Limits of what an agent may ask.
const (
	maxRequest = 256 << 10 // bytes; a policy has thousands of entries
	askTimeout = 10 * time.Second
)

// serve lends the recorder until ctx ends.
func (l lending) serve(ctx context.Context, rec recorder, log *slog.Logger) error {
	if err := os.MkdirAll(filepath.Dir(l.socket), 0o755); err != nil {
		return fmt.Errorf("make directory of the socket: %w", err)
	}
	if err := vacant(ctx, l.socket); err != nil {
		return err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: l.socket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen on %s: %w", l.socket, err)
	}
	if err := os.Chmod(l.socket, os.FileMode(l.mode)); err != nil {
		return errors.Join(fmt.Errorf("set permissions of %s: %w", l.socket, err), listener.Close())
	}
	desk := &lendingDesk{lending: l, rec: rec, log: log, users: map[uint32]int{}, idle: stopped()}
	desk.rest()
	ctx, done := context.WithCancel(ctx)
	defer done()
	hangUp := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer hangUp()
	log.Info("recording", "socket", l.socket, "kernel", rec.Describe().Kernel)
	var serving sync.WaitGroup
	defer serving.Wait()
	serving.Go(func() {
		select {
		case <-desk.idle.C:
			log.Info("nothing to record", "for", l.idle)
			done()
		case <-ctx.Done():
		}
	})
	for {
		conn, err := listener.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on %s: %w", l.socket, err)
		}
		serving.Go(func() {
			defer conn.Close()
			leave := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer leave()
			if err := desk.serve(ctx, conn); err != nil {
				log.Warn("agent not served", "error", err)
			}
		})
	}
}

// vacant removes the socket of a recorder that is no more.
func vacant(ctx context.Context, name string) error {
	if _, err := os.Lstat(name); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", name)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("another recorder listens on %s", name)
	}
	if info, err := os.Lstat(name); err == nil && info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("%s is there and no socket", name)
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the socket of a recorder before: %w", err)
	}
	return nil
}

// lendingDesk serves agents. Safe for concurrent use.
type lendingDesk struct {
	lending
	rec recorder
	log *slog.Logger

	idle *time.Timer // runs while nothing is recorded and that is to end

	mu    sync.Mutex
	users map[uint32]int // scopes by user
	all   int
}

// rest starts the time without a job.
func (d *lendingDesk) rest() {
	if d.lending.idle > 0 {
		d.idle.Reset(d.lending.idle)
	}
}

// enter counts a scope of a user, or refuses it.
func (d *lendingDesk) enter(uid uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.users[uid] >= d.perUser:
		return fmt.Errorf("%d jobs of user %d are recorded already", d.perUser, uid)
	case d.all >= d.scopes:
		return fmt.Errorf("%d jobs are recorded already", d.scopes)
	}
	d.users[uid]++
	d.all++
	d.idle.Stop()
	return nil
}

func (d *lendingDesk) leave(uid uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all--; d.all == 0 {
		d.rest()
	}
	if d.users[uid]--; d.users[uid] == 0 {
		delete(d.users, uid)
	}
}

// serve is one connection. The error is of the connection, or of a recorder that failed.
func (d *lendingDesk) serve(ctx context.Context, conn *net.UnixConn) error {
	peer, err := peerOf(conn)
	if err != nil {
		return err
	}
	about := lentAs(d.rec.Describe())
	place, leave := d.place(peer)
	defer leave()
	out := gob.NewEncoder(conn)
	_ = conn.SetDeadline(time.Now().Add(askTimeout))
	if err := out.Encode(lentFrame{About: &about, Place: place}); err != nil {
		return fmt.Errorf("greet process %d: %w", peer.Pid, err)
	}
	req, root, err := hear(conn)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, errSilent) {
		return nil // it only wanted to know
	}
	if err == nil {
		err = theirs(root, int(peer.Pid))
	}
	if err == nil {
		err = d.enter(peer.Uid)
	}
	if err != nil {
		_ = out.Encode(lentFrame{Refused: err.Error()})
		return fmt.Errorf("process %d of user %d asked in vain: %w", peer.Pid, peer.Uid, err)
	}
	defer d.leave(peer.Uid)
	s, err := d.follow(ctx, root, req)
	if err != nil {
		_ = out.Encode(lentFrame{Refused: err.Error()})
		return fmt.Errorf("follow process %d of user %d: %w", root, peer.Uid, err)
	}
	d.log.Info("recording a job", "process", root, "user", peer.Uid)
	followed := lentAs(s.Describe())
	if req.Engines == bpf.EnginesMachine && !d.engines {
		followed.Missing = maps.Clone(followed.Missing)
		if followed.Missing == nil {
			followed.Missing = map[string]string{}
		}
		followed.Missing["engines"] = "the node's recorder was not started with --own-engines"
	}
	err = out.Encode(lentFrame{Followed: &followed})
	_ = conn.SetDeadline(time.Time{})
	return errors.Join(err, lend(conn, out, s, err != nil))
}

// place is where an agent can start what is to be followed, "" if it is to be moved. Only one
// that runs as the recorder does may start anything there.
func (d *lendingDesk) place(peer *unix.Ucred) (dir string, leave func()) {
	p, ok := d.rec.(placer)
	if !ok || peer.Pid <= 0 || int(peer.Uid) != os.Geteuid() {
		return "", func() {}
	}
	return p.Place(int(peer.Pid))
}

// follow follows the process, with its engines if the recorder may.
func (d *lendingDesk) follow(ctx context.Context, root int, req lendRequest) (scope, error) {
	rec, ok := d.rec.(engineFollower)
	if !ok || req.Engines == bpf.EnginesNone || req.Engines == bpf.EnginesMachine && !d.engines {
		return d.rec.Follow(ctx, root, req.Egress)
	}
	return rec.FollowEngines(ctx, root, req.Egress, req.Engines)
}

// lend streams a scope until the agent says to end it, or is gone.
func lend(conn *net.UnixConn, out *gob.Encoder, s scope, gone bool) error {
	closed := make(chan error, 1)
	go func() {
		if !gone {
			_, _ = conn.Read(make([]byte, 1)) // a byte, or its end
		}
		closed <- s.Close()
	}()
	for batch := range s.Events() {
		if gone {
			continue // nobody hears it
		}
		if err := out.Encode(lentFrame{Events: batch, Lost: s.Lost()}); err != nil {
			gone = true
			_ = conn.Close() // which ends the read above, and with it the scope
		}
	}
	_ = conn.SetWriteDeadline(time.Now().Add(askTimeout))
	if !gone {
		_ = out.Encode(lentFrame{Lost: s.Lost(), End: true}) // it may be gone by now
	}
	// A recorder that ended by itself leaves the reader waiting.
	_ = conn.CloseRead()
	return <-closed
}

// lentAs says of a recorder that it is lent: the numbers of processes are the node's.
func lentAs(about trace.Recorder) trace.Recorder {
	about.Extras = append(append([]string(nil), about.Extras...), lentExtra)
	return about
}

// lentExtra stands among the extras of a recorder that a node lends: pids are then those of
// the node, whatever the job's own namespace says.
const lentExtra = "node"

// peerOf is the process at the other end, in this program's numbering.
func peerOf(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("look at the peer: %w", err)
	}
	var peer *unix.Ucred
	var inner error
	if err := raw.Control(func(fd uintptr) { peer, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || inner != nil {
		return nil, fmt.Errorf("look at the peer: %w", errors.Join(err, inner))
	}
	return peer, nil
}

// errSilent is a connection that ended without a request.
var errSilent = errors.New("nothing was asked")

// hear reads the request and the process that comes with it.
func hear(conn *net.UnixConn) (req lendRequest, root int, err error) {
	var text []byte
	root = -1
	buf, oob := make([]byte, 32<<10), make([]byte, 256)
	for !bytes.HasSuffix(text, []byte("\n")) {
		n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
		fds := descriptors(oob[:oobn])
		if len(fds) == 1 && root < 0 {
			root = pidOf(fds[0])
		}
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		if n == 0 || err != nil {
			if len(text) == 0 {
				return req, 0, errSilent
			}
			return req, 0, fmt.Errorf("read request: %w", errors.Join(err, errors.New("it was cut short")))
		}
		if text = append(text, buf[:n]...); len(text) > maxRequest {
			return req, 0, errors.New("the request is too long")
		}
	}
	if err := json.Unmarshal(text, &req); err != nil {
		return req, 0, fmt.Errorf("read request: %w", err)
	}
	switch {
	case req.Protocol != lendProtocol:
		return req, 0, fmt.Errorf("protocol %d is not spoken here, %d is: use agents of the same version", req.Protocol, lendProtocol)
	case root < 0:
		return req, 0, errors.New("no process came with the request")
	case root == 0:
		return req, 0, errors.New("the process is not seen from here: run the recorder in the machine's own pid namespace")
	}
	return req, root, nil
}

// descriptors are the files that came with a message.
func descriptors(oob []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if some, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, some...)
		}
	}
	return fds
}

// pidOf is the process that a pidfd is of, in this program's numbering; 0 if it is not to be
// seen from here, -1 if it is none.
func pidOf(fd int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil || pid < 0 {
				return -1 // it has ended
			}
			return pid
		}
	}
	return -1
}

// theirs refuses a process that does not descend from the one that asks.
func theirs(pid, peer int) error {
	if peer <= 0 {
		return errors.New("the agent is not seen from here: run the recorder in the machine's own pid namespace")
	}
	for p, n := pid, 0; p > 1 && n < 1000; n++ {
		info, err := proc.Read(p)
		if err != nil {
			return fmt.Errorf("look at process %d: %w", p, err)
		}
		if info.PPID == peer {
			return nil
		}
		p = info.PPID
	}
	return fmt.Errorf("process %d does not descend from process %d, which asks for it", pid, peer)
}

// lent is a node's recorder, as an agent has it: for one scope.
type lent struct {
	conn    *net.UnixConn
	in      *gob.Decoder
	agent   string
	engines bpf.Engines
	about   trace.Recorder
	place   string
	events  chan []trace.Event
	closed  chan struct{}
	once    sync.Once
	reading sync.WaitGroup

	mu   sync.Mutex
	lost map[string]int64
}

// dialRecorder reaches the recorder of the node.
func dialRecorder(ctx context.Context, socket string, o recordOptions) (recorder, error) {
	conn, err := (&net.Dialer{Timeout: askTimeout}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("reach the node's recorder: %w", err)
	}
	l := &lent{conn: conn.(*net.UnixConn), in: gob.NewDecoder(bufio.NewReader(conn)), agent: o.agent, engines: o.engines, events: make(chan []trace.Event, 16), closed: make(chan struct{})}
	f, err := l.read()
	if err == nil && f.About == nil {
		err = errors.New(f.Refused)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("reach the node's recorder: %w", err)
	}
	l.about, l.place = *f.About, f.Place
	return l, nil
}

// read waits for a frame that comes at once.
func (l *lent) read() (f lentFrame, err error) {
	_ = l.conn.SetReadDeadline(time.Now().Add(askTimeout))
	err = l.in.Decode(&f)
	_ = l.conn.SetReadDeadline(time.Time{})
	return f, err
}

func (l *lent) Describe() trace.Recorder { return l.about }

// Place implements placer: the recorder has made one for the process that asked it. It goes
// with the connection.
func (l *lent) Place(int) (dir string, leave func()) { return l.place, func() {} }

// Follow asks for the one scope.
func (l *lent) Follow(_ context.Context, root int, egress trace.Egress) (scope, error) {
	fd, err := unix.PidfdOpen(root, 0)
	if err != nil {
		return nil, fmt.Errorf("name process %d to the node's recorder: %w", root, err)
	}
	defer unix.Close(fd)
	text, err := json.Marshal(lendRequest{Protocol: lendProtocol, Agent: l.agent, Egress: egress, Engines: l.engines})
	if err != nil {
		return nil, err
	}
	text = append(text, '\n')
	n, _, err := l.conn.WriteMsgUnix(text, unix.UnixRights(fd), nil)
	if err == nil && n < len(text) {
		_, err = l.conn.Write(text[n:])
	}
	if err != nil {
		return nil, fmt.Errorf("ask the node's recorder: %w", err)
	}
	f, err := l.read()
	if err != nil {
		return nil, fmt.Errorf("ask the node's recorder: %w", err)
	}
	if f.Followed == nil {
		return nil, fmt.Errorf("the node's recorder refuses: %s", f.Refused)
	}
	s := &lentScope{lent: l, about: *f.Followed}
	l.reading.Go(l.stream)
	return s, nil
}

// stream passes on what comes until it ends.
func (l *lent) stream() {
	defer close(l.events)
	for {
		var f lentFrame
		if l.in.Decode(&f) != nil {
			return
		}
		l.mu.Lock()
		l.lost = f.Lost
		l.mu.Unlock()
		if len(f.Events) > 0 {
			select {
			case l.events <- f.Events:
			case <-l.closed:
				return
			}
		}
		if f.End {
			return
		}
	}
}

// Close hangs up.
func (l *lent) Close() error {
	l.once.Do(func() { close(l.closed) })
	err := l.conn.Close()
	l.reading.Wait()
	return err
}

// lentScope is the scope of a recorder that is lent.
type lentScope struct {
	*lent
	about trace.Recorder
}

func (s *lentScope) Describe() trace.Recorder     { return s.about }
func (s *lentScope) Events() <-chan []trace.Event { return s.events }

func (s *lentScope) Lost() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	lost := map[string]int64{}
	for k, v := range s.lost {
		lost[k] = v
	}
	return lost
}

// Close asks for the rest; Events ends with it.
func (s *lentScope) Close() error {
	if _, err := s.conn.Write([]byte{0}); err != nil {
		return fmt.Errorf("tell the node's recorder to end: %w", err)
	}
	return nil
}

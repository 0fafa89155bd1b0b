//go:build linux

package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/muster-ci/muster/internal/instancedir"
)

// monitor is a connection to QEMU's control socket (QMP). Safe for concurrent use.
type monitor struct {
	conn *net.UnixConn
	// events are those that nobody has taken, at most 64.
	events chan event

	mu      sync.Mutex
	last    int
	waiting map[int]chan reply
	err     error
	reading sync.WaitGroup
}

// event is something that QEMU tells by itself.
type event struct {
	Name string `json:"event"`
	Data struct {
		Reason string `json:"reason"`
		ID     string `json:"id"`
		Open   bool   `json:"open"`
	} `json:"data"`
}

type reply struct {
	ID     int             `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// dialMonitor connects to the control socket in a machine's directory as soon as it
// is there, and gives up when ctx ends or alive says that there will be none.
func dialMonitor(ctx context.Context, dir *os.File, alive func() bool) (*monitor, error) {
	for {
		c, err := dialIn(ctx, dir, qmpSocket)
		if err == nil {
			return newMonitor(ctx, c)
		}
		if !alive() {
			return nil, errEnded
		}
		if err := instancedir.Sleep(ctx, time.Millisecond); err != nil {
			return nil, fmt.Errorf("QEMU does not open its control socket: %w", err)
		}
	}
}

var errEnded = errors.New("QEMU has ended")

// dialIn connects to a socket in a directory, whose own path may be longer than the
// address of a socket can be.
func dialIn(ctx context.Context, dir *os.File, name string) (*net.UnixConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name))
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

func newMonitor(ctx context.Context, c *net.UnixConn) (*monitor, error) {
	m := &monitor{conn: c, events: make(chan event, 64), waiting: map[int]chan reply{}}
	m.reading.Go(m.read)
	if _, err := m.do(ctx, "qmp_capabilities", nil); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (m *monitor) close() {
	_ = m.conn.Close()
	m.reading.Wait()
}

func (m *monitor) read() {
	in := bufio.NewScanner(m.conn)
	in.Buffer(nil, 4<<20)
	for in.Scan() {
		var line struct {
			reply
			event
		}
		if json.Unmarshal(in.Bytes(), &line) != nil {
			continue // the greeting of another version
		}
		if line.Name != "" {
			select {
			case m.events <- line.event:
			default: // nobody listens
			}
			continue
		}
		m.mu.Lock()
		if w := m.waiting[line.ID]; w != nil {
			w <- line.reply
			delete(m.waiting, line.ID)
		}
		m.mu.Unlock()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = errEnded
	for _, w := range m.waiting {
		close(w)
	}
	clear(m.waiting)
	close(m.events)
}

// do executes a command; files go with it.
func (m *monitor) do(ctx context.Context, command string, arguments any, files ...*os.File) (json.RawMessage, error) {
	m.mu.Lock()
	if m.err != nil {
		m.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", command, m.err)
	}
	m.last++
	id, answer := m.last, make(chan reply, 1)
	m.waiting[id] = answer
	m.mu.Unlock()
	text, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return nil, err
	}
	var rights []byte
	for _, f := range files {
		rights = append(rights, syscall.UnixRights(int(f.Fd()))...)
	}
	if _, _, err := m.conn.WriteMsgUnix(append(text, '\n'), rights, nil); err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	select {
	case r, ok := <-answer:
		switch {
		case !ok:
			return nil, fmt.Errorf("%s: %w", command, errEnded)
		case r.Error != nil:
			return nil, fmt.Errorf("%s: QEMU says: %s", command, r.Error.Desc)
		}
		return r.Return, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: no answer from QEMU: %w", command, ctx.Err())
	}
}

// ignoreShared keeps memory that lies in a file out of the stream of a migration.
func (m *monitor) ignoreShared(ctx context.Context) error {
	_, err := m.do(ctx, "migrate-set-capabilities", map[string]any{
		"capabilities": []any{map[string]any{"capability": "x-ignore-shared", "state": true}},
	})
	return err
}

// migrated waits for the end of a migration.
func (m *monitor) migrated(ctx context.Context) error {
	for {
		text, err := m.do(ctx, "query-migrate", nil)
		if err != nil {
			return err
		}
		var st struct {
			Status string `json:"status"`
			Desc   string `json:"error-desc"`
		}
		if err := json.Unmarshal(text, &st); err != nil {
			return fmt.Errorf("query-migrate: %w", err)
		}
		switch st.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("QEMU did not load or save the machine's state: %s %s", st.Status, st.Desc)
		}
		if err := instancedir.Sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

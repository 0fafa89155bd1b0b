package instancedir

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/provider"
)

const (
	// StateFile is what is known of an instance, in its directory.
	StateFile = "state.json"
	// EndedFile says how its process ended, where it was our child.
	EndedFile = "ended"
)

// Tag is the variable in the environment of an instance's first process and, unless it
// is removed, of everything that descends from it. Its value is the instance's ID.
const Tag = "MUSTER_INSTANCE"

// Stage is how far a start has come. It is written before the step that it names, so
// that whoever finds the directory after a crash knows what may exist.
type Stage string

const (
	Preparing Stage = "preparing" // no process exists
	Starting  Stage = "starting"  // a process may exist
	Started   Stage = "started"   // the process is recorded
)

// State is what is known of every instance. A provider embeds it in its own.
type State struct {
	Runner    muster.RunnerID `json:"runner,omitempty"`
	Owner     string          `json:"owner,omitempty"`
	Workspace string          `json:"workspace,omitempty"`
	Pool      string          `json:"pool,omitempty"`
	TraceID   string          `json:"trace_id,omitempty"`
	CreatedAt time.Time       `json:"created_at,omitzero"`
	MaxAge    time.Duration   `json:"max_age_ns,omitempty"`
	Stage     Stage           `json:"stage,omitempty"`
	// PID, Start and Boot identify the first process.
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"`
	Boot  string `json:"boot,omitempty"`
	// Told is when it was first asked to end.
	Told time.Time `json:"told,omitzero"`
}

// Begin is the state of an instance that nothing has been done for.
func Begin(spec provider.Spec, owner string, now time.Time) State {
	return State{
		Runner: spec.Runner, Owner: owner, Workspace: spec.Workspace, Pool: spec.Pool, TraceID: spec.TraceID,
		CreatedAt: now.UTC().Truncate(time.Microsecond), MaxAge: spec.MaxAge, Stage: Preparing, Boot: proc.BootID(),
	}
}

// Lost is the state of an instance whose record cannot be read. Whatever is in its
// directory, somebody has to remove it.
func Lost(runner muster.RunnerID, dir string) State {
	st := State{Runner: runner, Stage: Preparing}
	if info, err := os.Stat(dir); err == nil {
		st.CreatedAt = info.ModTime().UTC()
	}
	return st
}

// TooOld reports whether the instance is older than it may become, by more than margin.
func (st State) TooOld(now time.Time, margin time.Duration) bool {
	return st.MaxAge > 0 && now.After(st.CreatedAt.Add(st.MaxAge+margin))
}

// Process is what the first process is known by again.
func (st State) Process() proc.Process { return proc.Process{PID: st.PID, Start: st.Start} }

// Running finds the first process. When the control plane died between its start and its
// record, the tag in its environment tells.
func (st State) Running(tag string) (proc.Process, bool) {
	if st.Boot != proc.BootID() {
		return proc.Process{}, false
	}
	if st.Stage != Starting {
		now, err := proc.Read(st.PID)
		return now, err == nil && st.PID != 0 && now.Start == st.Start && !now.Zombie
	}
	all, _ := proc.All() // unreadable reads as "not running", and the next look sees more
	for _, a := range all {
		// What it started itself leads no session yet: it waits for what tells it to begin.
		if !a.Zombie && a.Session == a.PID && a.HasEnv(Tag+"="+tag) {
			return a, true
		}
	}
	return proc.Process{}, false
}

// Reap collects a first process that has ended and is our child, so that no zombie
// stays, and says how it ended: to the call that learns it and, by a file, to those after
// it. It is "" where nobody knows, as for a process that another program started. What
// names the process: "its agent".
func (st State) Reap(dir, what string) string {
	note := filepath.Join(dir, EndedFile)
	last, err := proc.Read(st.PID)
	if err != nil || last.Start != st.Start || last.PPID != os.Getpid() || !last.Zombie {
		text, _ := os.ReadFile(note)
		return string(text)
	}
	var how syscall.WaitStatus
	pid, err := syscall.Wait4(st.PID, &how, syscall.WNOHANG, nil)
	for tries := 0; err == nil && pid == 0 && tries < 200; tries++ {
		time.Sleep(time.Millisecond) // its first thread has ended, and the others take a moment
		pid, err = syscall.Wait4(st.PID, &how, syscall.WNOHANG, nil)
	}
	if err != nil || pid != st.PID {
		text, _ := os.ReadFile(note) // another call was faster
		return string(text)
	}
	text := fmt.Sprintf("%s ended with code %d", what, how.ExitStatus())
	if how.Signaled() {
		text = fmt.Sprintf("%s was ended by the signal %q", what, how.Signal())
	}
	_ = os.WriteFile(note, []byte(text), 0o600) // without it the reason is lost, and nothing else
	return text
}

// Await waits until a process has ended, or until it is too late. The error is that of ctx.
func Await(ctx context.Context, p proc.Process, until time.Time) error {
	for wait := time.Millisecond; p.Alive() && time.Now().Before(until); wait = min(2*wait, 20*time.Millisecond) {
		if err := Sleep(ctx, wait); err != nil {
			return err
		}
	}
	return nil
}

// Sleep waits for d, or returns the error of ctx.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ReadJSON reads a file. A file that is not there is an fs.ErrNotExist.
func ReadJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// WriteJSON replaces a file at once, so that a reader sees the old or the new one.
func WriteJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// tail returns the last bytes of a file, limit at most.
func tail(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-int64(limit)), int64(limit)))
}

// Detail is what is told of an instance that has ended: the first reason that is known, and
// whether its time was over.
func (st State) Detail(now time.Time, why ...string) string {
	if !st.TooOld(now, 0) {
		return cmp.Or(why...)
	}
	return fmt.Sprintf("%s, at its maximum age of %s", cmp.Or(why...), st.MaxAge)
}

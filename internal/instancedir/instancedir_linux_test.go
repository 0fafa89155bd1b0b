package instancedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/provider"
)

// set opens a set below root whose instances are looked at by their state alone.
func set(t *testing.T, root, owner string) *Set {
	t.Helper()
	var s *Set
	s, err := Open(Settings{
		Root: root, Owner: owner, Mode: 0o700,
		Look: func(runner muster.RunnerID, busy bool) provider.Instance {
			st := Lost(runner, s.Path(runner))
			_ = ReadJSON(filepath.Join(s.Path(runner), StateFile), &st)
			return provider.Instance{ID: s.Name(runner), Runner: runner, State: provider.InstanceEnded, CreatedAt: st.CreatedAt, Detail: fmt.Sprint(busy)}
		},
		Stray: func(pid int) string { return fmt.Sprintf("pid %d", pid) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// record writes a new instance's state.
func record(runner muster.RunnerID) func([]muster.RunnerID, string) error {
	return func(_ []muster.RunnerID, dir string) error {
		return WriteJSON(filepath.Join(dir, StateFile), Begin(provider.Spec{Runner: runner}, "o", time.Now()))
	}
}

func admit(t *testing.T, s *Set, runner muster.RunnerID) {
	t.Helper()
	held, made, err := s.Admit(t.Context(), runner, record(runner))
	if err != nil || !made {
		t.Fatal(made, err)
	}
	held.Close()
}

func listed(t *testing.T, s *Set) (ids []string) {
	t.Helper()
	for inst, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, inst.ID)
	}
	slices.Sort(ids)
	return ids
}

// carrier starts a process in a session of its own that carries a tag.
func carrier(t *testing.T, tag string) proc.Process {
	t.Helper()
	cmd := exec.Command("sleep", "300")
	cmd.Env = []string{Tag + "=" + tag}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // fails where Reap was faster
	})
	p, err := proc.Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// However many calls begin at once, one makes the directory, whole, and the limit holds.
func TestAdmitOnce(t *testing.T) { // 4-51
	s := set(t, t.TempDir(), "o")
	const limit = 5
	var made, full sync.Map
	var all sync.WaitGroup
	for i := range 40 {
		runner := muster.RunnerID(fmt.Sprintf("r-run%d", i%10))
		all.Go(func() {
			held, first, err := s.Admit(t.Context(), runner, func(others []muster.RunnerID, dir string) error {
				if len(others) >= limit {
					return provider.ErrCapacity
				}
				return record(runner)(others, dir)
			})
			if errors.Is(err, provider.ErrCapacity) {
				full.Store(runner, true)
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			defer held.Close()
			if first {
				if _, twice := made.LoadOrStore(runner, true); twice {
					t.Errorf("%s was made twice", runner)
				}
			}
			var st State
			if err := ReadJSON(filepath.Join(s.Path(runner), StateFile), &st); err != nil || st.Runner != runner || st.Stage != Preparing {
				t.Errorf("%s appeared with %+v, %v", runner, st, err)
			}
		})
	}
	all.Wait()
	n := 0
	made.Range(func(any, any) bool { n++; return true })
	if n != limit {
		t.Errorf("%d were made, of %d", n, limit)
	}
	full.Range(func(runner, _ any) bool {
		if _, ok := made.Load(runner); ok {
			t.Errorf("%v was made and refused", runner)
		}
		return true
	})
	if got := listed(t, s); len(got) != limit {
		t.Errorf("listed %v", got)
	}
}

// A control plane that died between the first step and the last leaves nothing that
// hinders the next, and a refusal leaves nothing at all.
func TestAdmitAfterACrash(t *testing.T) { // 4-51
	s := set(t, t.TempDir(), "o")
	if err := errors.Join(os.Mkdir(filepath.Join(s.Dir, ".new"), 0o700), os.WriteFile(filepath.Join(s.Dir, ".new", "rest"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	admit(t, s, "r-run1")
	if _, err := os.Stat(filepath.Join(s.Path("r-run1"), "rest")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what another left came along: %v", err)
	}
	if _, _, err := s.Admit(t.Context(), "r-run2", func([]muster.RunnerID, string) error { return provider.ErrCapacity }); !errors.Is(err, provider.ErrCapacity) {
		t.Error(err)
	}
	entries, err := os.ReadDir(s.Dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// A call that waited for a directory that was deleted meanwhile does not get the old one.
func TestLockIsOfWhatIsThere(t *testing.T) {
	s := set(t, t.TempDir(), "o")
	admit(t, s, "r-run1")
	held, err := s.Lock(t.Context(), "r-run1")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		other, err := s.Lock(t.Context(), "r-run1")
		if err == nil {
			other.Close()
		}
		got <- err
	}()
	if inst, err := s.Get(t.Context(), "r-run1"); err != nil || inst.Detail != "true" {
		t.Errorf("while it is locked: %+v, %v", inst, err) // busy
	}
	if err := os.RemoveAll(s.Path("r-run1")); err != nil {
		t.Fatal(err)
	}
	held.Close()
	if err := <-got; !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("lock of a directory that is gone: %v", err)
	}
	if _, err := s.Get(t.Context(), "r-run1"); !errors.Is(err, provider.ErrNotFound) {
		t.Error(err)
	}
	admit(t, s, "r-run1")
	held, err = s.Lock(t.Context(), "r-run1")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	ended, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := s.Lock(ended, "r-run1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lock: %v", err)
	}
}

// Two owners and two roots share a host and never see each other's.
func TestOwnersApart(t *testing.T) {
	root := t.TempDir()
	a, b, c := set(t, root, "a"), set(t, root, "../a"), set(t, t.TempDir(), "a")
	for _, s := range []*Set{a, b, c} {
		admit(t, s, "r-run1")
	}
	if a.Name("r-run1") == b.Name("r-run1") || a.Name("r-run1") == c.Name("r-run1") || a.Dir == b.Dir {
		t.Error("same names", a.Name("r-run1"), b.Name("r-run1"), c.Name("r-run1"))
	}
	if filepath.Dir(b.Dir) != filepath.Dir(a.Dir) {
		t.Errorf("the owner %q left the root: %s", "../a", b.Dir)
	}
	for owner, fine := range map[string]bool{"": false, strings.Repeat("x", 249): true, strings.Repeat("x", 250): false, strings.Repeat("ü", 80): false} {
		if err := CheckOwner(owner); (err == nil) != fine {
			t.Errorf("owner of %d bytes: %v", len(owner), err)
		}
	}
}

// A process that lost its directory is an instance; one that is no runner's is none.
func TestStrays(t *testing.T) { // 4-51
	s := set(t, t.TempDir(), "o")
	admit(t, s, "r-run1")
	carrier(t, s.Name("r-run1"))
	stray := carrier(t, s.Name("r-run2"))
	carrier(t, s.Other('t', "x"))
	carrier(t, set(t, t.TempDir(), "o").Name("r-run3"))
	want := []string{s.Name("r-run1"), s.Name("r-run2")}
	if got := listed(t, s); !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	inst, err := s.Get(t.Context(), "r-run2")
	if err != nil || inst.State != provider.InstanceRunning || inst.Detail != fmt.Sprintf("pid %d", stray.PID) {
		t.Errorf("%+v, %v", inst, err)
	}
	if _, err := s.Get(t.Context(), "x"); !errors.Is(err, provider.ErrNotFound) {
		t.Errorf("what is no runner's: %v", err)
	}
	if got := s.OtherName('t', s.Other('t', "x")); got != "x" {
		t.Errorf("%q", got)
	}
	for _, tag := range []string{s.Name("r-run1"), s.Other('k', "x"), ""} {
		if got := s.OtherName('t', tag); got != "" {
			t.Errorf("%q is %q", tag, got)
		}
	}
}

// An owner's directory that is gone is an error: an unmounted disk must not read as "no
// instances", which would let everything be made again.
func TestMissingRoot(t *testing.T) {
	s := set(t, t.TempDir(), "o")
	if err := os.RemoveAll(s.Dir); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range s.List(t.Context()) {
		if n++; !errors.Is(err, provider.ErrTransient) || !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
	if n != 1 {
		t.Errorf("%d results", n)
	}
}

// Which process is an instance's, at every stage in which a control plane may have died.
func TestRunning(t *testing.T) { // 4-47
	const tag = "r-run1.mark"
	p := carrier(t, tag)
	now := State{Stage: Started, PID: p.PID, Start: p.Start, Boot: proc.BootID()}
	for name, c := range map[string]struct {
		change func(*State)
		want   bool
	}{
		"recorded":             {func(*State) {}, true},
		"a stage of its own":   {func(st *State) { st.Stage = "born" }, true},
		"not recorded":         {func(st *State) { st.Stage, st.PID, st.Start = Starting, 0, 0 }, true},
		"not begun":            {func(st *State) { st.Stage, st.PID, st.Start = Preparing, 0, 0 }, false},
		"a number given again": {func(st *State) { st.Start-- }, false},
		"an earlier boot":      {func(st *State) { st.Boot = "before" }, false},
		"unrecorded, earlier":  {func(st *State) { st.Stage, st.Boot = Starting, "before" }, false},
	} {
		st := now
		c.change(&st)
		got, ok := st.Running(tag)
		if ok != c.want || ok && got.PID != p.PID {
			t.Errorf("%s: %+v, %t", name, got, ok)
		}
	}
	other := now
	other.Stage = Starting
	if got, ok := other.Running("r-run2.mark"); ok {
		t.Errorf("another's: %+v", got)
	}
}

// How a process ended is told to who learns it and to who asks later; no zombie stays.
func TestReap(t *testing.T) {
	for script, want := range map[string]string{
		"exit 7":         "it ended with code 7",
		"kill -TERM $$":  `it was ended by the signal "terminated"`,
		"exec sleep 300": "",
	} {
		dir := t.TempDir()
		cmd := exec.Command("sh", "-c", script)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		id, err := proc.Read(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		st := State{Stage: Started, PID: id.PID, Start: id.Start, Boot: proc.BootID()}
		if want != "" {
			if err := Await(t.Context(), id, time.Now().Add(10*time.Second)); err != nil || id.Alive() {
				t.Fatal(script, err)
			}
		}
		for range 2 {
			if got := st.Reap(dir, "it"); got != want {
				t.Errorf("%s: %q, want %q", script, got, want)
			}
		}
		if _, err := proc.Read(id.PID); want != "" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a zombie stays: %v", script, err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

func TestAwait(t *testing.T) {
	p := carrier(t, "x")
	if err := Await(t.Context(), p, time.Now().Add(5*time.Millisecond)); err != nil || !p.Alive() {
		t.Errorf("it lives: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Await(ctx, p, time.Now().Add(time.Hour)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestKept(t *testing.T) {
	s, root := set(t, t.TempDir(), "o"), t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "z", "m"), 0o700), os.WriteFile(filepath.Join(root, "z", "m", "run.sh"), nil, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, m := range []provider.Machine{{Name: "m"}, {Zone: "..", Name: "m"}, {Zone: "z", Name: "../z/m"}, {Zone: "z"}, {Zone: "z", Name: "n"}} {
		if _, err := s.Kept(t.Context(), root, "run.sh", m); !errors.Is(err, provider.ErrNotFound) {
			t.Errorf("%+v: %v", m, err)
		}
	}
	if _, err := s.Kept(t.Context(), "", "run.sh", provider.Machine{Zone: "z", Name: "m"}); !errors.Is(err, provider.ErrNotFound) {
		t.Errorf("nothing is kept: %v", err)
	}
	k, err := s.Kept(t.Context(), root, "run.sh", provider.Machine{Zone: "z", Name: "m"})
	if err != nil {
		t.Fatal(err)
	}
	if k.Home != filepath.Join(root, "z", "m") || k.Tag != s.Other('k', "kept.z@m") {
		t.Errorf("%+v", k)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := s.Kept(ctx, root, "run.sh", provider.Machine{Zone: "z", Name: "m"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("twice at once: %v", err)
	}
	k.Close()
	if got := listed(t, s); len(got) != 0 {
		t.Errorf("a kept machine is no instance: %v", got)
	}
}

func TestConsole(t *testing.T) {
	s := set(t, t.TempDir(), "o")
	admit(t, s, "r-run1")
	if _, err := s.Console(t.Context(), "r-run1", "log", 9); !errors.Is(err, provider.ErrNotFound) {
		t.Errorf("nothing was printed: %v", err)
	}
	if err := os.WriteFile(filepath.Join(s.Path("r-run1"), "log"), []byte("one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[int]string{0: "", 4: "two\n", 8: "one\ntwo\n", 1 << 20: "one\ntwo\n"} {
		if got, err := s.Console(t.Context(), "r-run1", "log", limit); err != nil || string(got) != want {
			t.Errorf("%d bytes: %q, %v", limit, got, err)
		}
	}
	if _, err := s.Console(t.Context(), "r-run1", "log", -1); !errors.Is(err, provider.ErrInvalid) {
		t.Error(err)
	}
	for _, runner := range []muster.RunnerID{"", "../r-run1", ".new"} {
		if _, err := s.Console(t.Context(), runner, "log", 9); !errors.Is(err, provider.ErrNotFound) {
			t.Errorf("%q: %v", runner, err)
		}
	}
}

func TestClassify(t *testing.T) {
	for _, c := range []struct{ err, want error }{
		{fmt.Errorf("mkdir: %w", syscall.ENOSPC), provider.ErrCapacity},
		{fmt.Errorf("fork: %w", syscall.EAGAIN), provider.ErrCapacity},
		{errors.New("qemu: Cannot allocate memory"), provider.ErrCapacity},
		{errors.New("resource temporarily unavailable"), provider.ErrTransient},
		{fs.ErrPermission, provider.ErrTransient},
		{fmt.Errorf("%w: %w", provider.ErrInvalid, syscall.ENOSPC), provider.ErrInvalid},
		{context.Canceled, context.Canceled},
	} {
		got := Classify(c.err)
		if !errors.Is(got, c.want) || !errors.Is(got, c.err) {
			t.Errorf("%v became %v, want %v", c.err, got, c.want)
		}
		if errors.Is(c.want, context.Canceled) && errors.Is(got, provider.ErrTransient) {
			t.Errorf("%v became %v", c.err, got)
		}
	}
}

func TestDetail(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	st := State{CreatedAt: at, MaxAge: time.Hour}
	if got := st.Detail(at, "", "it ended"); got != "it ended" {
		t.Errorf("%q", got)
	}
	if got := st.Detail(at.Add(61*time.Minute), "it ended"); got != "it ended, at its maximum age of 1h0m0s" {
		t.Errorf("%q", got)
	}
	if st.TooOld(at.Add(61*time.Minute), 2*time.Minute) || (State{CreatedAt: at}).TooOld(at.Add(1000*time.Hour), 0) {
		t.Error("too old")
	}
}

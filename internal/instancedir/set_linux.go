package instancedir

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/proc"
	"github.com/muster-ci/muster/provider"
)

// Set is the instances of one owner on this host. Make it with Open.
type Set struct {
	// Dir is the owner's directory, without links.
	Dir string

	mark  string // distinguishes our instances' names from those of other owners and roots
	mode  fs.FileMode
	look  func(runner muster.RunnerID, busy bool) provider.Instance
	stray func(pid int) string
}

// Settings are how a provider's instances differ from those of others.
type Settings struct {
	Root  string
	Owner string
	// Mode is that of the directory of an instance, and Others whether other users may
	// pass through the owner's to what is their own.
	Mode   fs.FileMode
	Others bool
	// Look says what an instance does whose directory exists. Busy means that a call is at
	// work on the directory: then what has not begun yet may still begin.
	Look func(runner muster.RunnerID, busy bool) provider.Instance
	// Stray is the detail of an instance of which only a process is left.
	Stray func(pid int) string
}

// CheckOwner says whether an owner can have a directory.
func CheckOwner(owner string) error {
	if owner == "" || len(ownerDir(owner)) > 255 {
		return fmt.Errorf("owner: %q must have between 1 and some 80 characters", owner)
	}
	return nil
}

// Owners are words of the operator; escaped, they are one element of a path each.
func ownerDir(owner string) string { return "owner-" + url.PathEscape(owner) }

// Open makes the owner's directory if it is missing.
func Open(s Settings) (*Set, error) {
	if err := CheckOwner(s.Owner); err != nil {
		return nil, err
	}
	dir := filepath.Join(s.Root, ownerDir(s.Owner))
	mode := fs.FileMode(0o700)
	if s.Others {
		mode = 0o711
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	sum := sha256.Sum256([]byte(real))
	return &Set{Dir: real, mark: hex.EncodeToString(sum[:6]), mode: s.Mode, look: s.Look, stray: s.Stray}, nil
}

// Name is an instance's ID: the runner and the mark of our directory, since two owners
// may use the same runner id on one host.
func (s *Set) Name(runner muster.RunnerID) string { return string(runner) + "." + s.mark }

// Path is an instance's directory.
func (s *Set) Path(runner muster.RunnerID) string { return filepath.Join(s.Dir, string(runner)) }

// Other is the tag of a process that is no runner's, by its kind, one letter, and its
// name. No runner's is like it.
func (s *Set) Other(kind byte, name string) string { return name + "." + string(kind) + s.mark }

// OtherName is the name in a tag that Other made, or "".
func (s *Set) OtherName(kind byte, tag string) string {
	name, ours := strings.CutSuffix(tag, "."+string(kind)+s.mark)
	if !ours {
		return ""
	}
	return name
}

// Runners returns the runners that have a directory. A missing directory of the owner is
// an error: an unmounted disk must not read as "no runners".
func (s *Set) Runners() (all []muster.RunnerID, err error) {
	entries, err := os.ReadDir(s.Dir)
	for _, e := range entries {
		if runner := muster.RunnerID(e.Name()); runner.Valid() {
			all = append(all, runner)
		}
	}
	return all, err
}

// Lock locks a runner's directory for a call that changes it. The error is
// fs.ErrNotExist if there is none.
func (s *Set) Lock(ctx context.Context, runner muster.RunnerID) (*os.File, error) {
	path := s.Path(runner)
	for {
		held, err := proc.Lock(ctx, path, syscall.LOCK_EX, true)
		if err != nil || proc.Current(held, path) {
			return held, err
		}
		held.Close() // deleted while we waited
	}
}

// Admit returns a runner's directory, locked. Where there is none, it makes one if
// record lets it: that is given the runners that have one and writes the new one's
// state. A new directory appears under its name with the lock held and the state in it,
// so that nobody sees less; made says that it is new.
func (s *Set) Admit(ctx context.Context, runner muster.RunnerID, record func(others []muster.RunnerID, dir string) error) (held *os.File, made bool, err error) {
	for {
		held, err := s.Lock(ctx, runner)
		if !errors.Is(err, fs.ErrNotExist) {
			return held, false, err
		}
		held, err = s.claim(ctx, runner, record)
		if !errors.Is(err, fs.ErrExist) { // else another call was faster
			return held, err == nil, err
		}
	}
}

func (s *Set) claim(ctx context.Context, runner muster.RunnerID, record func(others []muster.RunnerID, dir string) error) (*os.File, error) {
	all, err := proc.Lock(ctx, s.Dir, syscall.LOCK_EX, true)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	if _, err := os.Lstat(s.Path(runner)); err == nil {
		return nil, fs.ErrExist
	}
	others, err := s.Runners()
	if err != nil {
		return nil, err
	}
	// A name with a dot is no runner's. Left over by a crash, it is cleared here,
	// because nobody else works on one without the lock that we hold.
	tmp := filepath.Join(s.Dir, ".new")
	if err := errors.Join(os.RemoveAll(tmp), os.Mkdir(tmp, s.mode)); err != nil {
		return nil, err
	}
	if err := record(others, tmp); err != nil {
		return nil, errors.Join(err, os.RemoveAll(tmp))
	}
	held, err := proc.Lock(ctx, tmp, syscall.LOCK_EX, true)
	if err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, s.Path(runner)); err != nil {
		return nil, errors.Join(err, held.Close())
	}
	return held, nil
}

// Get looks at one instance; see provider.Provider.
func (s *Set) Get(ctx context.Context, runner muster.RunnerID) (provider.Instance, error) {
	if err := Valid(ctx, runner); err != nil {
		return provider.Instance{}, err
	}
	inst, err := s.find(ctx, runner)
	if errors.Is(err, fs.ErrNotExist) {
		strays, err := s.strays()
		if err != nil {
			return provider.Instance{}, Classify(err)
		}
		if inst, ok := strays[runner]; ok {
			return inst, nil
		}
		return provider.Instance{}, fmt.Errorf("%w: runner %s has no directory and no process", provider.ErrNotFound, runner)
	}
	if err != nil {
		return provider.Instance{}, Classify(err)
	}
	return inst, nil
}

// find returns a runner's instance from its directory; fs.ErrNotExist without one.
func (s *Set) find(ctx context.Context, runner muster.RunnerID) (provider.Instance, error) {
	path := s.Path(runner)
	held, err := proc.Lock(ctx, path, syscall.LOCK_SH, false)
	busy := errors.Is(err, proc.ErrLocked)
	if err != nil && !busy {
		return provider.Instance{}, err
	}
	if held != nil {
		defer held.Close()
	}
	if _, err := os.Stat(path); err != nil {
		return provider.Instance{}, err
	}
	return s.look(runner, busy), nil
}

// List yields the owner's instances: every directory, and every process that carries our
// tag and has lost its directory; see provider.Provider.
func (s *Set) List(ctx context.Context) iter.Seq2[provider.Instance, error] {
	return func(yield func(provider.Instance, error) bool) {
		fail := func(err error) { yield(provider.Instance{}, Classify(err)) }
		if err := ctx.Err(); err != nil {
			fail(err)
			return
		}
		runners, err := s.Runners()
		if err != nil {
			fail(err)
			return
		}
		for _, runner := range runners {
			if err := ctx.Err(); err != nil {
				fail(err)
				return
			}
			inst, err := s.find(ctx, runner)
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted meanwhile
			}
			if err != nil {
				fail(err)
				return
			}
			if !yield(inst, nil) {
				return
			}
		}
		strays, err := s.strays()
		if err != nil {
			fail(err)
			return
		}
		for runner, inst := range strays {
			if _, err := os.Lstat(s.Path(runner)); err == nil || slices.Contains(runners, runner) {
				continue // yielded, or created after the directory was read
			}
			if !yield(inst, nil) {
				return
			}
		}
	}
}

// strays finds processes with a tag of ours, whether they have a directory or not.
func (s *Set) strays() (map[muster.RunnerID]provider.Instance, error) {
	all, err := proc.All()
	found := map[muster.RunnerID]provider.Instance{}
	for _, a := range all {
		name, ours := strings.CutSuffix(a.Env(Tag), "."+s.mark)
		runner := muster.RunnerID(name)
		if ours && !a.Zombie && runner.Valid() {
			found[runner] = provider.Instance{ID: s.Name(runner), Runner: runner, State: provider.InstanceRunning, Detail: s.stray(a.PID)}
		}
	}
	return found, err
}

// Valid refuses what is no runner's id, and a call that nobody waits for.
func Valid(ctx context.Context, runner muster.RunnerID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !runner.Valid() {
		return fmt.Errorf("%w: %q is no runner id", provider.ErrNotFound, runner)
	}
	return nil
}

// Console returns the end of a file that an instance prints to; see provider.Consoler.
func (s *Set) Console(ctx context.Context, runner muster.RunnerID, file string, limit int) ([]byte, error) {
	if err := Valid(ctx, runner); err != nil {
		return nil, err
	}
	if limit < 0 {
		return nil, fmt.Errorf("%w: the last %d bytes of a console", provider.ErrInvalid, limit)
	}
	text, err := tail(filepath.Join(s.Path(runner), file), limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: runner %s printed nothing", provider.ErrNotFound, runner)
	}
	if err != nil {
		return nil, Classify(err)
	}
	return text, nil
}

// Kept is where a kept machine lies: Home is the operator's directory of it, Dir what we
// know, Tag what its processes carry. It is locked until Close.
type Kept struct {
	Home, Dir, Tag string

	held *os.File
}

// Close lets go of the machine.
func (k Kept) Close() error { return k.held.Close() }

// machineWord is what names and zones are made of. It has no separator, so that it is
// one element of a path.
var machineWord = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\z`)

// Kept finds a kept machine below root, by the file that makes a directory one, and locks
// it. What is known of it lies beside the runners' directories, in ".machines", and
// outlives a control plane as theirs does. The error is provider.ErrNotFound if there is
// no such machine.
func (s *Set) Kept(ctx context.Context, root, file string, m provider.Machine) (Kept, error) {
	if err := ctx.Err(); err != nil {
		return Kept{}, err
	}
	missing := fmt.Errorf("%w: there is no machine %q in zone %q", provider.ErrNotFound, m.Name, m.Zone)
	if root == "" || !machineWord.MatchString(m.Name) || m.Zone != "" && !machineWord.MatchString(m.Zone) {
		return Kept{}, missing
	}
	id := m.Zone + "@" + m.Name
	k := Kept{Home: filepath.Join(root, m.Zone, m.Name), Dir: filepath.Join(s.Dir, ".machines", id), Tag: s.Other('k', "kept."+id)}
	if info, err := os.Stat(filepath.Join(k.Home, file)); err != nil || info.IsDir() {
		return Kept{}, missing
	}
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		return Kept{}, Classify(err)
	}
	held, err := proc.Lock(ctx, k.Dir, syscall.LOCK_EX, true)
	if err != nil {
		return Kept{}, Classify(err)
	}
	k.held = held
	return k, nil
}

// Classify gives an error of the operating system its class; see provider.ErrTransient
// and those beside it. An error that has one keeps it.
func Classify(err error) error {
	for _, class := range []error{provider.ErrCapacity, provider.ErrInvalid, provider.ErrNotFound, provider.ErrTransient, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, class) {
			return err
		}
	}
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE} {
		// Programs say it in words, some with a capital letter. That a resource is
		// unavailable for now is said of too much else.
		if errors.Is(err, full) || !errors.Is(full, syscall.EAGAIN) && strings.Contains(strings.ToLower(err.Error()), full.Error()) {
			return fmt.Errorf("%w: %w", provider.ErrCapacity, err)
		}
	}
	return fmt.Errorf("%w: %w", provider.ErrTransient, err)
}

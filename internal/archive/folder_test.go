package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
)

// chained makes n segments that follow each other, of about size bytes each.
func chained(n, size int) (out []trace.Segment) {
	var head trace.Link
	for seq := 1; seq <= n; seq++ {
		data := bytes.Repeat(fmt.Appendf(nil, "%08d", seq), size/8)
		head = head.Next(seq, data)
		out = append(out, trace.Segment{Seq: seq, Events: 1, Link: head, Data: data})
	}
	return out
}

// whole fails unless all that an archive lists of a trace is whole and follows, and returns
// how many segments that are.
func whole(t *testing.T, a *Archive, id muster.TraceID) int {
	t.Helper()
	seqs, _, err := a.Has(t.Context(), "default", id)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for s, err := range a.Segments(t.Context(), "default", id) {
		if err != nil {
			t.Fatalf("%v are listed, and after %d: %v", seqs, n, err)
		}
		n = s.Seq
	}
	return n
}

var errPower = errors.New("the power is gone")

// disk knows what a disk has: what was synced, and nothing else for certain. After so many
// syncs its power is gone.
type disk struct {
	mu    sync.Mutex
	left  int
	syncs int
	files map[uint64][]byte            // content by inode
	dirs  map[uint64]map[string]uint64 // inodes by name by inode
	isDir map[uint64]bool
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// entries are the names in a directory as they are now.
func (d *disk) entries(dir string) (map[string]uint64, error) {
	out := map[string]uint64{}
	all, err := os.ReadDir(dir)
	for _, e := range all {
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		out[e.Name()] = info.Sys().(*syscall.Stat_t).Ino
		d.isDir[out[e.Name()]] = e.IsDir()
	}
	return out, err
}

func (d *disk) sync(f *os.File) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left--; d.left < 0 {
		return errPower
	}
	d.syncs++
	info, err := f.Stat()
	if err != nil {
		return err
	}
	ino := info.Sys().(*syscall.Stat_t).Ino
	if !info.IsDir() {
		d.files[ino], err = os.ReadFile(f.Name())
		return err
	}
	d.dirs[ino], err = d.entries(f.Name())
	return err
}

// restart writes what the disk has below a directory elsewhere. A disk may also have names
// that nobody asked it to keep: with names, it has all of them. Content it never has unasked.
func (d *disk) restart(t *testing.T, dir, to string, names bool) {
	t.Helper()
	entries := d.dirs[inode(t, dir)]
	if names {
		var err error
		if entries, err = d.entries(dir); err != nil {
			t.Fatal(err)
		}
	}
	for name, ino := range entries {
		from, dest := filepath.Join(dir, name), filepath.Join(to, name)
		if !d.isDir[ino] {
			if err := os.WriteFile(dest, d.files[ino], 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.Mkdir(dest, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(from); err == nil { // else it was removed since, and its content with it
			d.restart(t, from, dest, names)
		}
	}
}

// Whenever the power goes, what was acknowledged is there afterwards, nothing that is half
// there is taken for whole, and the agent can go on. C24 4-45
func TestPowerCut(t *testing.T) {
	one, two := muster.TraceID{Runner: "r-0001", Number: 1}, muster.TraceID{Runner: "r-0001", Number: 2}
	segments := chained(3, 4096)
	for power := 0; ; power++ {
		root := t.TempDir()
		a, err := Open(t.Context(), "file://"+filepath.ToSlash(root)+"?prefix=below/")
		if err != nil {
			t.Fatal(err)
		}
		d := &disk{left: 1 << 30, files: map[uint64][]byte{}, dirs: map[uint64]map[string]uint64{}, isDir: map[uint64]bool{}}
		a.folder = newFolder(root, 0o700, d.sync)
		d.left = power
		acknowledged := map[muster.TraceID]int{}
		sealed := ""
		err = func() error {
			for i, s := range segments {
				for _, id := range []muster.TraceID{one, two} {
					for range 1 + i%2 { // an answer that was lost
						if err := a.PutSegment(t.Context(), "default", id, s); err != nil {
							return err
						}
					}
					acknowledged[id] = s.Seq
				}
				if i == 1 { // its directories go, and are made anew
					delete(acknowledged, two)
					if err := a.Delete(t.Context(), "default", two); err != nil {
						return err
					}
					for _, s := range segments[:2] {
						if err := a.PutSegment(t.Context(), "default", two, s); err != nil {
							return err
						}
						acknowledged[two] = s.Seq
					}
				}
			}
			for _, text := range []string{"first", "second"} {
				if err := a.Put(t.Context(), "default", one, "seal.json", strings.NewReader(text)); err != nil {
					return err
				}
				sealed = text
			}
			return nil
		}()
		if err != nil && (!errors.Is(err, errPower) || muster.CodeOf(err) != muster.CodeUnavailable) {
			t.Fatal(err)
		}
		for _, names := range []bool{false, true} {
			to := t.TempDir()
			d.restart(t, root, to, names)
			b, err := Open(t.Context(), "file://"+filepath.ToSlash(to)+"?prefix=below/")
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range []muster.TraceID{one, two} {
				if n := whole(t, b, id); n < acknowledged[id] {
					t.Fatalf("power for %d syncs, names %v: %d segments of trace %s are there, %d were acknowledged", power, names, n, id, acknowledged[id])
				}
				for _, s := range segments {
					if err := b.PutSegment(t.Context(), "default", id, s); err != nil {
						t.Fatalf("power for %d syncs, names %v: it does not go on: %v", power, names, err)
					}
				}
			}
			if r, err := b.Get(t.Context(), "default", one, "seal.json"); sealed != "" || err == nil {
				if err != nil {
					t.Fatal("the seal: ", err)
				}
				text, err := io.ReadAll(r)
				if got := string(text); err != nil || r.Close() != nil || got != "first" && got != "second" || sealed == "second" && got != sealed {
					t.Fatalf("power for %d syncs: the seal is %q after %q, %v", power, text, sealed, err)
				}
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			if power < 20 {
				t.Fatalf("all of it took %d syncs", power)
			}
			return
		}
	}
}

const killedEnv = "MUSTER_TEST_KILLED"

// A process that is killed between writing a segment and giving it its name leaves nothing
// that is taken for a segment; the next one writes it, and deleting the trace leaves nothing.
func TestKilled(t *testing.T) {
	id := muster.TraceID{Runner: "r-0001", Number: 1}
	segments := chained(6, 64<<10)
	if dir, ok := os.LookupEnv(killedEnv); ok {
		after, _ := strconv.Atoi(os.Getenv(killedEnv + "_AFTER"))
		a, err := Open(context.Background(), "file://"+filepath.ToSlash(dir))
		if err != nil {
			t.Fatal(err)
		}
		a.folder.sync = func(f *os.File) error {
			if after--; after < 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
			return f.Sync()
		}
		for _, s := range segments {
			if err := a.PutSegment(context.Background(), "default", id, s); err != nil {
				t.Fatal(err)
			}
			fmt.Println("acknowledged", s.Seq)
		}
		return
	}
	halves := 0
	for _, after := range []int{0, 1, 4, 6, 7, 8, 9} { // of the first segment: the file, four directories and the root
		dir := t.TempDir()
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$", "-test.count=1")
		child.Env = append(os.Environ(), killedEnv+"="+dir, killedEnv+"_AFTER="+strconv.Itoa(after))
		out, err := child.Output()
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the process was to be killed after %d syncs: %v\n%s", after, err, out)
		}
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if strings.HasSuffix(path, ".tmp") {
				halves++
			}
			return err
		})
		a, err := Open(t.Context(), "file://"+filepath.ToSlash(dir))
		if err != nil {
			t.Fatal(err)
		}
		if n, acknowledged := whole(t, a, id), bytes.Count(out, []byte("acknowledged")); n < acknowledged {
			t.Errorf("killed after %d syncs: %d segments are there, %d were acknowledged", after, n, acknowledged)
		}
		for _, s := range segments {
			if err := a.PutSegment(t.Context(), "default", id, s); err != nil {
				t.Fatal(err)
			}
		}
		if n := whole(t, a, id); n != len(segments) {
			t.Error(n, "segments in the end")
		}
		if err := a.Delete(t.Context(), "default", id); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("killed after %d syncs: %v is left, %v", after, left, err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if halves == 0 {
		t.Error("no process was killed while it wrote")
	}
}

// Of several that write a segment of the same number one is first, and the others are told;
// also where there are no links. Deleting a neighbour meanwhile disturbs nobody.
func TestFirstOne(t *testing.T) {
	dir := t.TempDir()
	f := newFolder(dir, 0o700, (*os.File).Sync)
	for round := range 20 {
		key := fmt.Sprintf("default/r-%04d/1/segments/00000001.zst", round)
		var wg sync.WaitGroup
		var mu sync.Mutex
		var first []string
		for n := range 4 {
			text := strconv.Itoa(n)
			wg.Go(func() {
				err := f.write(t.Context(), key, strings.NewReader(text), true)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					first = append(first, text)
				} else if !errors.Is(err, fs.ErrExist) {
					t.Error(err)
				}
			})
			wg.Go(func() {
				_ = os.Remove(filepath.Dir(f.path(key))) // empty for a moment, if at all
			})
		}
		wg.Wait()
		got, err := os.ReadFile(f.path(key))
		if err != nil || len(first) != 1 || first[0] != string(got) {
			t.Fatalf("%q were first, and %q is there: %v", first, got, err)
		}
	}
	// No link can be made to a file that is not there, as none can where there are no links.
	if err := f.publish(filepath.Join(dir, "none"), f.path("default/r-0000/1/segments/00000001.zst"), true); !errors.Is(err, fs.ErrExist) {
		t.Error("without links:", err)
	}
}

// A write that fails leaves no file and no half of one.
func TestWriteFails(t *testing.T) {
	for at := range 3 {
		dir := t.TempDir()
		n := 0
		f := newFolder(dir, 0o700, func(*os.File) error { return nil })
		f.sync = func(*os.File) error {
			if n++; n == at {
				return errors.New("the disk is broken")
			}
			return nil
		}
		from := io.Reader(strings.NewReader("text"))
		if at == 0 {
			from = io.MultiReader(from, errorReader{})
		}
		if err := f.write(t.Context(), "a/b", from, false); err == nil {
			t.Fatal("it was taken for written")
		}
		all, err := os.ReadDir(filepath.Join(dir, "a"))
		if err != nil || len(all) > 0 && (at < 2 || len(all) > 1 || all[0].Name() != "b") {
			t.Error(at, all, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if err := newFolder(dir, 0o700, (*os.File).Sync).write(ctx, "a/b", strings.NewReader("text"), true); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a", "b")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it was written although nobody waits:", err)
	}
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

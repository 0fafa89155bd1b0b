//go:build linux && (amd64 || arm64)

package bpf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muster-ci/muster/internal/proc"
)

// cgroupMount is where the hierarchy of version 2 is mounted, "" if it is not. The other
// hierarchies are nobody's business here.
func cgroupMount() string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		mount, kind, found := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(mount)
		if found && strings.HasPrefix(kind, "cgroup2 ") && len(fields) > 4 {
			return strings.ReplaceAll(fields[4], `\040`, " ")
		}
	}
	return ""
}

// cgroupOf is the directory of the cgroup that a process is in.
func cgroupOf(mount string, pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if at, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(mount, at), nil
		}
	}
	return "", errors.New("it is in no cgroup of version 2")
}

// cgroupID is the number by which the kernel's programs know a cgroup.
func cgroupID(dir string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

// ownPrefix begins the name of every cgroup that a recorder makes; what follows is who
// made it: pid, start and the number of the scope.
const ownPrefix = "muster-trace-"

func ownName(scope uint32) string {
	me, _ := proc.Read(os.Getpid())
	return fmt.Sprintf("%s%d-%d-%d", ownPrefix, me.PID, me.Start, scope)
}

// orphaned reports whether the name is that of a cgroup whose recorder is no more.
func orphaned(name string) bool {
	rest, own := strings.CutPrefix(name, ownPrefix)
	fields := strings.Split(rest, "-")
	if !own || len(fields) != 3 {
		return false
	}
	pid, err1 := strconv.Atoi(fields[0])
	start, err2 := strconv.ParseUint(fields[1], 10, 64)
	if err1 != nil || err2 != nil {
		return false
	}
	now, err := proc.Read(pid)
	return err != nil || now.Start != start
}

// sweepCgroups removes what recorders have left that were killed. A process in it goes
// to the cgroup above.
func sweepCgroups(mount string) {
	var left []string
	_ = filepath.WalkDir(mount, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fs.SkipDir // it went while we looked
		case d.IsDir() && orphaned(d.Name()):
			left = append(left, p)
			return fs.SkipDir
		}
		return nil
	})
	for _, dir := range left {
		_ = removeCgroup(dir, time.Now().Add(time.Second)) // the next one tries again
	}
}

// removeCgroup moves what is still in a cgroup, or below it, to the one above, and
// removes it. It kills nothing.
func removeCgroup(dir string, deadline time.Time) error {
	for {
		err := emptyCgroup(dir, filepath.Dir(dir))
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		wait := time.NewTimer(5 * time.Millisecond)
		<-wait.C
	}
}

func emptyCgroup(dir, above string) error {
	var below []string
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			below = append(below, p)
		}
		return nil
	})
	var last error
	for _, d := range slices.Backward(below) {
		text, _ := os.ReadFile(filepath.Join(d, "cgroup.procs"))
		for pid := range strings.FieldsSeq(string(text)) {
			_ = os.WriteFile(filepath.Join(above, "cgroup.procs"), []byte(pid), 0) // it may have ended
		}
		if err := unix.Rmdir(d); err != nil {
			last = err
		}
	}
	return last
}

// cgroupPaths knows where cgroups are by their numbers, and what containers they are
// of. It is the reader's own.
type cgroupPaths struct {
	mount *os.File
	root  string
	known map[uint64]cgroupPath
}

type cgroupPath struct {
	path      string // below the mount, "/" is the root; "" if it could not be found
	container string
}

func newCgroupPaths(mount string) *cgroupPaths {
	c := &cgroupPaths{root: mount, known: map[uint64]cgroupPath{}}
	if mount != "" {
		c.mount, _ = os.Open(mount) // without it no path is known
	}
	return c
}

func (c *cgroupPaths) close() {
	if c.mount != nil {
		c.mount.Close()
	}
}

// look finds a cgroup by its number. The kernel opens it by a handle that is nothing
// but the number, wherever it is.
func (c *cgroupPaths) look(id uint64) cgroupPath {
	if p, ok := c.known[id]; ok {
		return p
	}
	var p cgroupPath
	if c.mount != nil {
		var handle [8]byte
		binary.LittleEndian.PutUint64(handle[:], id)
		const kernfs = 0xfe // FILEID_KERNFS
		fd, err := unix.OpenByHandleAt(int(c.mount.Fd()), unix.NewFileHandle(kernfs, handle[:]), unix.O_PATH|unix.O_CLOEXEC)
		if err == nil {
			at, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			unix.Close(fd)
			p.path = "/" + strings.TrimPrefix(strings.TrimPrefix(at, c.root), "/")
			p.container = containerOf(p.path)
		}
	}
	c.known[id] = p
	return p
}

// learn takes a path that the kernel has told: the cgroup may be gone when it is looked
// for.
func (c *cgroupPaths) learn(id uint64, path string) {
	c.known[id] = cgroupPath{path, containerOf(path)}
}

// sweep forgets when too many are known: numbers are not used again.
func (c *cgroupPaths) sweep() {
	if len(c.known) > 4096 {
		clear(c.known)
	}
}

// container is an id of 64 hexadecimal digits as engines and Kubernetes put it into the
// last or next to last name: "docker-ID.scope", "cri-containerd-ID.scope",
// "libpod-ID.scope/container", "/docker/ID", ….
var container = regexp.MustCompile(`(?:^|[-/:_])([0-9a-f]{64})(?:\.scope)?(?:/|$)`)

// built is what BuildKit calls a container in which a step of a build runs.
var built = regexp.MustCompile(`/buildkit/([0-9a-z]{25})(?:/|$)`)

// containerOf is the id of the innermost container that a cgroup is of.
func containerOf(path string) string {
	found := container.FindAllStringSubmatch(path, -1)
	if len(found) == 0 {
		found = built.FindAllStringSubmatch(path, -1)
	}
	if len(found) == 0 {
		return ""
	}
	return found[len(found)-1][1]
}

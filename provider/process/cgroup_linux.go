package process

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/muster-ci/muster/internal/proc"
)

// cgroups is what this machine offers for holding a runner's processes together
// and limiting them. The zero value offers nothing and does nothing.
//
// A machine may have the unified hierarchy (version 2), separate ones for each
// controller (version 1), or both with the controllers in the old ones. Each kind
// is used for what it can do here.
type cgroups struct {
	trees []tree
	// cannot says which limits this machine does not enforce, with the reason.
	cannot []string
}

// tree is one hierarchy, and dir our group in it.
type tree struct {
	dir     string
	unified bool
	// controls are the controllers that work below dir: "memory", "pids", "cpu", "freezer".
	controls []string
}

// limits of one runner; zero means none.
type limits struct {
	memory int64 // bytes
	pids   int
	cpus   float64
}

// detectCgroups finds the hierarchies in which we may make groups below parent.
func detectCgroups(parent string) cgroups {
	if parent == "none" {
		return cgroups{cannot: []string{`memory, pids, cpu: switched off by cgroup: "none"`}}
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return cgroups{cannot: []string{"memory, pids, cpu: " + err.Error()}}
	}
	return findCgroups(string(text), parent)
}

// findCgroups is detectCgroups on the text of a mountinfo file.
func findCgroups(mountinfo, parent string) cgroups {
	var c cgroups
	want := []string{"memory", "pids", "cpu"}
	reasons := map[string]string{}
	var old []tree
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		mount, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(mount) < 5 || len(kind) < 3 {
			continue
		}
		dir := filepath.Join(unescape(mount[4]), parent)
		switch kind[0] {
		case "cgroup2":
			controls, err := prepareUnified(unescape(mount[4]), parent)
			if err != nil {
				reasons["cgroup2"] = err.Error()
				continue
			}
			c.trees = append(c.trees, tree{dir: dir, unified: true, controls: controls})
		case "cgroup":
			for option := range strings.SplitSeq(kind[2], ",") {
				if slices.Contains(want, option) || option == "freezer" {
					old = append(old, tree{dir: dir, controls: []string{option}})
				}
			}
		}
	}
	for _, t := range old {
		control := t.controls[0]
		if c.has(control) || control == "freezer" && len(c.trees) > 0 {
			continue // the unified hierarchy does it better
		}
		if err := prepare(t.dir); err != nil {
			reasons[control] = err.Error()
			continue
		}
		c.trees = append(c.trees, t)
	}
	for _, control := range want {
		if !c.has(control) {
			why := "the machine has no such controller"
			if r := reasons[control]; r != "" {
				why = r
			} else if r := reasons["cgroup2"]; r != "" {
				why = r
			}
			c.cannot = append(c.cannot, control+": "+why)
		}
	}
	return c
}

// prepare makes our group and proves that we may make groups in it.
func prepare(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	probe, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return err
	}
	defer os.Remove(probe)
	const writable = 2 // W_OK
	return syscall.Access(filepath.Join(probe, "cgroup.procs"), writable)
}

// prepareUnified is prepare for version 2. It hands down as many controllers as
// the groups above ours let it.
func prepareUnified(root, parent string) ([]string, error) {
	dir := root
	enable := func() {
		for _, control := range []string{"memory", "pids", "cpu"} {
			// Refused where the group above does not have it or holds processes itself.
			_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+control), 0)
		}
	}
	for part := range strings.SplitSeq(parent, "/") {
		enable()
		dir = filepath.Join(dir, part)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	enable()
	if err := prepare(dir); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	return strings.Fields(string(text)), err
}

// unescape undoes the octal escapes of mountinfo.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

func (c cgroups) has(control string) bool {
	return slices.ContainsFunc(c.trees, func(t tree) bool { return slices.Contains(t.controls, control) })
}

// String says in words what the machine enforces.
func (c cgroups) String() string {
	var can []string
	for _, t := range c.trees {
		version := "v1"
		if t.unified {
			version = "v2"
			can = append(can, "kill as a group (cgroup v2)")
		}
		for _, control := range t.controls {
			if control != "freezer" {
				can = append(can, fmt.Sprintf("%s (cgroup %s)", control, version))
			} else {
				can = append(can, "kill as a group (cgroup v1 freezer)")
			}
		}
	}
	if len(can) == 0 {
		can = []string{"nothing"}
	}
	s := "enforces " + strings.Join(can, ", ")
	if len(c.cannot) > 0 {
		s += "; does not enforce " + strings.Join(c.cannot, "; ")
	}
	return s
}

// create makes a runner's group in every hierarchy and sets the limits that the
// machine can enforce. It is repeatable.
func (c cgroups) create(name string, l limits) error {
	for _, t := range c.trees {
		dir := filepath.Join(t.dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make control group: %w", err)
		}
		for _, control := range t.controls {
			if err := t.limit(dir, control, l); err != nil {
				return fmt.Errorf("limit %s: %w", control, err)
			}
		}
	}
	return nil
}

func (t tree) limit(dir, control string, l limits) error {
	set := func(file, value string) error {
		return os.WriteFile(filepath.Join(dir, file), []byte(value), 0)
	}
	const period = 100_000 // µs, the kernel's own
	switch {
	case control == "memory" && l.memory > 0 && t.unified:
		// Swap would only delay the end. It may not be accounted on this machine.
		defer func() { _ = set("memory.swap.max", "0") }()
		return set("memory.max", strconv.FormatInt(l.memory, 10))
	case control == "memory" && l.memory > 0:
		defer func() { _ = set("memory.memsw.limit_in_bytes", strconv.FormatInt(l.memory, 10)) }()
		return set("memory.limit_in_bytes", strconv.FormatInt(l.memory, 10))
	case control == "pids" && l.pids > 0:
		return set("pids.max", strconv.Itoa(l.pids))
	case control == "cpu" && l.cpus > 0 && t.unified:
		return set("cpu.max", fmt.Sprintf("%d %d", int(l.cpus*period), period))
	case control == "cpu" && l.cpus > 0:
		return set("cpu.cfs_quota_us", strconv.Itoa(int(l.cpus*period)))
	}
	return nil
}

// open returns the unified group of a runner for SysProcAttr.CgroupFD, or nil
// where there is none.
func (c cgroups) open(name string) (*os.File, error) {
	for _, t := range c.trees {
		if t.unified {
			return os.Open(filepath.Join(t.dir, name))
		}
	}
	return nil, nil
}

// enter moves the calling thread into the runner's groups of version 1, in which
// then everything is born that it starts; "" moves it into our own group. The thread must be locked to its
// goroutine and end with it. Moving a thread of one's own takes microseconds;
// moving another process makes the kernel wait for a grace period of RCU, which
// takes longer than starting it.
func (c cgroups) enter(name string) error {
	for _, t := range c.trees {
		if t.unified {
			continue
		}
		if err := os.WriteFile(filepath.Join(t.dir, name, "tasks"), []byte("0"), 0); err != nil {
			return fmt.Errorf("enter control group: %w", err)
		}
	}
	return nil
}

// members returns every process in a runner's groups and in groups below them. A
// process of which some thread is there, and not the first, is no member: it is a
// control plane that starts the runner.
func (c cgroups) members(name string) []proc.Process {
	seen := map[int]bool{}
	var found []proc.Process
	for _, t := range c.trees {
		for _, dir := range subtree(filepath.Join(t.dir, name)) {
			file := "tasks" // threads
			if t.unified {
				file = "cgroup.procs"
			}
			f, err := os.Open(filepath.Join(dir, file))
			if err != nil {
				continue // removed meanwhile
			}
			for s := bufio.NewScanner(f); s.Scan(); {
				pid, err := strconv.Atoi(s.Text())
				if err != nil || seen[pid] {
					continue
				}
				seen[pid] = true
				if p, err := proc.Read(pid); err == nil && !p.Zombie && p.Leader() {
					found = append(found, p)
				}
			}
			f.Close()
		}
	}
	return found
}

// freeze stops a runner's processes so that none can escape by forking, and
// returns what lets them go on. Where a machine cannot, it does nothing.
func (c cgroups) freeze(name string) (thaw func()) {
	for _, t := range c.trees {
		if slices.Contains(t.controls, "freezer") {
			file := filepath.Join(t.dir, name, "freezer.state")
			_ = os.WriteFile(file, []byte("FROZEN"), 0)
			return func() { _ = os.WriteFile(file, []byte("THAWED"), 0) }
		}
	}
	return func() {}
}

// kill kills a whole group at once where the machine can (Linux 5.14 and later).
func (c cgroups) kill(name string) {
	for _, t := range c.trees {
		if t.unified {
			_ = os.WriteFile(filepath.Join(t.dir, name, "cgroup.kill"), []byte("1"), 0)
		}
	}
}

// remove removes a runner's groups; it fails while a process is in one.
func (c cgroups) remove(name string) error {
	for _, t := range c.trees {
		dirs := subtree(filepath.Join(t.dir, name))
		slices.Reverse(dirs) // those below first
		for _, dir := range dirs {
			if err := syscall.Rmdir(dir); err != nil && err != syscall.ENOENT {
				return fmt.Errorf("remove control group %s: %w", dir, err)
			}
		}
	}
	return nil
}

// memoryKills is how many processes the kernel killed at the runner's memory limit.
func (c cgroups) memoryKills(name string) int {
	for _, t := range c.trees {
		if !slices.Contains(t.controls, "memory") {
			continue
		}
		file := "memory.oom_control"
		if t.unified {
			file = "memory.events"
		}
		text, err := os.ReadFile(filepath.Join(t.dir, name, file))
		if err != nil {
			return 0
		}
		for line := range strings.Lines(string(text)) {
			if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
				kills, _ := strconv.Atoi(strings.TrimSpace(n))
				return kills
			}
		}
	}
	return 0
}

// subtree returns dir and all directories below it, each before those in it.
func subtree(dir string) []string {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	return dirs
}

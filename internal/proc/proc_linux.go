package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is one process at the moment at which it was read.
type Process struct {
	PID, PPID int
	// Group and Session are the ids of its process group and session.
	Group, Session int
	// Start is when it started, in clock ticks since the machine booted. With PID
	// it identifies a process for as long as the machine runs.
	Start uint64
	// Zombie is true for a process that has ended and was not waited for.
	Zombie bool
}

// Read returns the process that has the pid now. The error is os.ErrNotExist
// when there is none.
func Read(pid int) (Process, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		if errors.Is(err, syscall.ESRCH) { // it ended between open and read
			err = os.ErrNotExist
		}
		return Process{}, err
	}
	return parseStat(text)
}

// parseStat reads one line of /proc/PID/stat (proc_pid_stat(5)). The command may
// hold spaces and parentheses, so that the fields are counted from the last ')'.
func parseStat(text []byte) (Process, error) {
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 1 || end < open {
		return Process{}, fmt.Errorf("read process state %q: no command", text)
	}
	f := strings.Fields(string(text[end+1:])) // f[0] is field 3
	if len(f) < 20 {
		return Process{}, fmt.Errorf("read process state %q: %d fields", text, len(f))
	}
	pid, err1 := strconv.Atoi(strings.TrimSpace(string(text[:open])))
	ppid, err2 := strconv.Atoi(f[1])
	group, err3 := strconv.Atoi(f[2])
	session, err4 := strconv.Atoi(f[3])
	start, err5 := strconv.ParseUint(f[19], 10, 64)
	return Process{
		PID: pid, PPID: ppid, Group: group, Session: session, Start: start,
		Zombie: f[0] == "Z" || f[0] == "X",
	}, errors.Join(err1, err2, err3, err4, err5)
}

// All returns every process of the machine, zombies included. Processes that end
// while it reads are left out.
func All() ([]Process, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, err := Read(pid); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

// Alive reports whether the same process still runs. A zombie does not.
func (p Process) Alive() bool {
	now, err := Read(p.PID)
	return err == nil && now.Start == p.Start && !now.Zombie
}

// Signal sends sig to this process and to no other: it returns
// os.ErrProcessDone when the process has ended, whoever has its number now.
func (p Process) Signal(sig syscall.Signal) error {
	// The handle (a pidfd where the kernel has it) is taken before the identity
	// is checked: if the check passes, the handle is of the right process.
	h, err := os.FindProcess(p.PID)
	if err != nil {
		return err
	}
	defer func() { _ = h.Release() }()
	if !p.Alive() {
		return os.ErrProcessDone
	}
	return h.Signal(sig)
}

// HasEnv reports whether the process was started with the environment entry
// "NAME=value". It is false for processes that the caller may not look into.
func (p Process) HasEnv(entry string) bool {
	for e := range bytes.SplitSeq(Environ(p.PID), []byte{0}) {
		if string(e) == entry {
			return true
		}
	}
	return false
}

// Env returns the value with which the process was started for a variable, "" if
// it has none or if the caller may not look into it.
func (p Process) Env(name string) string {
	for e := range bytes.SplitSeq(Environ(p.PID), []byte{0}) {
		if v, ok := bytes.CutPrefix(e, []byte(name+"=")); ok {
			return string(v)
		}
	}
	return ""
}

// execLooks bounds how often a process is looked at that is in the middle of an
// execve, a millisecond apart. The kernel is in there for some tens of
// microseconds; on a busy machine it may be preempted meanwhile.
const execLooks = 200

// Environ returns the environment with which a process was started, its entries
// separated by zero bytes; it is empty when the process has none, has ended or is
// not the caller's to look into. While an execve replaces the memory of a process
// the kernel shows none, and who looked then would take it for somebody else's:
// so it is looked at again.
func Environ(pid int) []byte {
	dir := "/proc/" + strconv.Itoa(pid)
	for range execLooks {
		text, err := os.ReadFile(dir + "/environ")
		if err != nil {
			return nil // ended, or not ours to read
		}
		if len(text) > 0 || !inExec(dir) {
			return text
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// inExec reports whether the process has a program whose code is not there yet:
// field 27 of its state is written after the environment (load_elf_binary of
// fs/binfmt_elf.c). Kernel threads and zombies have no program. A process that
// finished its execve between two looks is in it, too, so that its environment is
// read once more.
func inExec(dir string) bool {
	if _, err := os.Readlink(dir + "/exe"); err != nil {
		return false
	}
	text, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return false
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // f[0] is field 3
	return len(f) > 48 && (f[24] == "0" || f[47] != f[48])               // 50 and 51 enclose the environment
}

// Descendants returns those of all that are children of pid, their children, and
// so on; pid itself is not among them.
func Descendants(all []Process, pid int) []Process {
	children := map[int][]Process{}
	for _, p := range all {
		children[p.PPID] = append(children[p.PPID], p)
	}
	var found []Process
	for next := children[pid]; len(next) > 0; {
		p := next[0]
		next = next[1:]
		found = append(found, p)
		next = append(next, children[p.PID]...)
	}
	return found
}

// BootID names this boot of the machine: start times of two boots must not be compared.
func BootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// Leader reports whether the number is a process's and not that of one of its
// further threads, for which Read answers too.
func (p Process) Leader() bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/status")
	if err != nil {
		return false
	}
	_, after, _ := bytes.Cut(text, []byte("\nTgid:"))
	line, _, _ := bytes.Cut(after, []byte("\n"))
	return string(bytes.TrimSpace(line)) == strconv.Itoa(p.PID)
}

package runner

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type ending int

const (
	endedItself ending = iota
	endedByCancel
	endedByTimeout
)

// streamGrace is how long output is still read after the process ended, because
// a background process of it may hold the pipe (actions/runner waits 5 s, too).
const streamGrace = 5 * time.Second

// maxLine splits longer lines of output, in bytes.
const maxLine = 64 << 10

// spawn runs a command in its own process group and gives every line of its
// output to line, from one goroutine. When stop is closed or the time is over,
// the group gets SIGINT, then SIGTERM, then is killed.
func (j *job) spawn(p process, env []string, line func(string), stop <-chan struct{}) (code int, how ending, err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return 0, how, fmt.Errorf("make pipe: %w", err)
	}
	defer read.Close()
	cmd := exec.Command(p.args[0], p.args[1:]...) //nolint:noctx // ended by its group, as the real runner does
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.dir, env, write, write
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	write.Close()
	if err != nil {
		return 0, how, fmt.Errorf("An error occurred trying to start process '%s' with working directory '%s'. %w", p.args[0], p.dir, err) //nolint:staticcheck // the real runner's words
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		lines := bufio.NewReaderSize(read, maxLine)
		for {
			text, _, err := lines.ReadLine()
			if err != nil {
				return
			}
			line(string(text))
		}
	}()
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()

	var timeout <-chan time.Time
	if p.timeout > 0 {
		timer := time.NewTimer(p.timeout)
		defer timer.Stop()
		timeout = timer.C
	}
	var waitErr error
	select {
	case waitErr = <-exited:
	case <-stop:
		how = endedByCancel
		waitErr = j.end3(cmd.Process.Pid, exited)
	case <-timeout:
		how = endedByTimeout
		waitErr = j.end3(cmd.Process.Pid, exited)
	}
	grace := time.NewTimer(streamGrace)
	defer grace.Stop()
	select {
	case <-drained:
	case <-grace.C:
		read.Close()
		<-drained
	}
	if exit, ok := errors.AsType[*exec.ExitError](waitErr); ok {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal()), how, nil
		}
		return exit.ExitCode(), how, nil
	}
	return 0, how, waitErr
}

// end3 ends a process group: SIGINT, SIGTERM after Knobs.Interrupt, SIGKILL after Knobs.Terminate.
func (j *job) end3(pid int, exited <-chan error) error {
	for _, s := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGINT, j.knobs.Interrupt}, {syscall.SIGTERM, j.knobs.Terminate}} {
		_ = syscall.Kill(-pid, s.signal) // a group that is gone is what we want
		timer := time.NewTimer(s.wait)
		select {
		case err := <-exited:
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	return <-exited
}

// orphan is a process that a job left behind.
type orphan struct {
	pid  int
	name string
}

func (o orphan) kill() { _ = syscall.Kill(o.pid, syscall.SIGKILL) }

// orphans finds the processes that still carry a job's tracking id. Where there
// is no /proc it finds none.
func orphans(tracking string) []orphan {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []orphan
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		if !strings.Contains("\x00"+environ(dir), "\x00RUNNER_TRACKING_ID="+tracking+"\x00") {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		out = append(out, orphan{pid, strings.TrimSpace(string(comm))})
	}
	return out
}

// environ is the environment of a process, "" of one that has ended or that is
// somebody else's. In the middle of an execve the kernel shows none, so that a
// step's background process, which has just been started, would be left behind:
// then it looks again, for at most 200 ms.
func environ(dir string) string {
	for range 200 {
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || len(env) > 0 {
			return string(env)
		}
		if _, err := os.Readlink(filepath.Join(dir, "exe")); err != nil {
			return "" // a thread of the kernel, or it has ended
		}
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			return ""
		}
		// After the name: field 27 is the end of the code, which execve sets last; 50 and 51
		// enclose the environment (proc_pid_stat(5)).
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(f) <= 48 || f[24] != "0" && f[47] == f[48] {
			return "" // it has an empty one
		}
		time.Sleep(time.Millisecond)
	}
	return ""
}

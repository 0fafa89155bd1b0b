//go:build unix

package agent

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// script is run.sh or config.sh in a process group of its own.
type script struct {
	cmd  *exec.Cmd
	out  *os.File // our end
	done chan int
	wait sync.WaitGroup
	tree tree // everything that descends from it
}

// startRunner starts a script of the runner. Its standard input is empty.
func startRunner(c command) (runner, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	s := &script{out: out, done: make(chan int, 1)}
	err = adoptOrphans()
	var gate *os.File
	if err == nil {
		gate, err = s.begin(c, in)
	}
	if err != nil {
		out.Close()
		return nil, err // names the program and not its arguments
	}
	if gate != nil {
		defer gate.Close()
		if err := c.follow(s.cmd.Process.Pid); err != nil {
			_ = gate.Close() // and so it ends without having begun
			_ = s.cmd.Wait()
			out.Close()
			return nil, err
		}
		_, _ = gate.Write([]byte("\n")) // a process that has ended needs none
	}
	s.tree.watch(s.cmd.Process.Pid)
	s.wait.Go(func() {
		err := s.cmd.Wait()
		var exit *exec.ExitError
		switch {
		case err == nil:
			s.done <- 0
		case errors.As(err, &exit) && exit.ExitCode() >= 0:
			s.done <- exit.ExitCode()
		case errors.As(err, &exit):
			s.done <- 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
		default:
			s.done <- -1
		}
	})
	return s, nil
}

// begin starts the process, behind a gate if it is to be followed, and in its place if that
// can be: a system call may be forbidden here, or the cgroup not seen.
func (s *script) begin(c command, in *os.File) (gate *os.File, err error) {
	cgroup := openPlace(c.place)
	if cgroup != nil {
		defer cgroup.Close()
		if gate, err = s.beginIn(c, in, cgroup); err == nil {
			return gate, nil
		}
	}
	return s.beginIn(c, in, nil)
}

func (s *script) beginIn(c command, in, cgroup *os.File) (gate *os.File, err error) {
	s.cmd = exec.Command(filepath.Join(c.dir, cmp.Or(c.program, "run.sh")), c.args...) //nolint:noctx // it outlives the call and is ended by its group
	s.cmd.Dir, s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = c.dir, c.env, in, in
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if cgroup != nil {
		startIn(s.cmd.SysProcAttr, cgroup)
	}
	if c.follow != nil {
		if gate, err = behindGate(s.cmd); err != nil {
			return nil, err
		}
		defer closeAll(s.cmd.ExtraFiles)
	}
	if err := s.cmd.Start(); err != nil {
		if gate != nil {
			gate.Close()
		}
		return nil, err
	}
	return gate, nil
}

// behindGate has a command wait for a line before it becomes its program, so that its
// process is there and has not begun. Where the agent ends first, it never does.
func behindGate(cmd *exec.Cmd) (gate *os.File, err error) {
	shell, err := exec.LookPath("sh")
	if err != nil {
		return nil, fmt.Errorf("start behind a gate: %w", err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start behind a gate: %w", err)
	}
	cmd.Args = append([]string{"sh", "-c", `read -r _ <&3 || exit 1; exec "$0" "$@" 3<&-`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = shell
	cmd.ExtraFiles = []*os.File{out} // number 3
	return in, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

func (s *script) output() io.Reader  { return s.out }
func (s *script) exited() <-chan int { return s.done }
func (s *script) interrupt()         { s.tree.signal(syscall.SIGINT) }

// readAfter is how long output is read after everything was killed. Only a
// process that could not be killed still has it open then.
const readAfter = time.Second

func (s *script) kill() {
	s.tree.kill()
	_ = s.out.SetReadDeadline(time.Now().Add(readAfter))
}

// hideToken starts this program again without the boot token in its environment,
// which others can read in /proc as it was at the start, whatever the program
// removes later (4-14). It returns only if there is nothing to hide, or cannot.
func hideToken(environ []string) error {
	var kept []string
	token, file := "", false
	for _, e := range environ {
		if v, ok := strings.CutPrefix(e, "MUSTER_BOOT_TOKEN="); ok {
			token = v
			continue
		}
		file = file || strings.HasPrefix(e, "MUSTER_BOOT_TOKEN_FILE=")
		kept = append(kept, e)
	}
	if token == "" {
		return nil
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("hide boot token: %w", err)
	}
	if !file {
		fd, err := inPipe(token)
		if err != nil {
			return fmt.Errorf("hide boot token: %w", err)
		}
		kept = append(kept, fmt.Sprintf("MUSTER_BOOT_TOKEN_FILE=/dev/fd/%d", fd))
	}
	return fmt.Errorf("hide boot token: %w", syscall.Exec(exe, os.Args, kept))
}

// inPipe returns the number of an open file that yields the line and stays open
// over exec.
func inPipe(line string) (int, error) {
	if len(line) > 32<<10 { // a pipe takes that much without a reader
		return 0, errors.New("it has more than 32 KiB and is no token")
	}
	out, in, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer in.Close()
	defer out.Close()
	if _, err := in.WriteString(line + "\n"); err != nil {
		return 0, err
	}
	return syscall.Dup(int(out.Fd())) // unlike out, the copy does not close on exec
}

package agent

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/muster-ci/muster/internal/proc"
)

// tree is everything that descends from the runner. The agent has declared itself
// the one to whom orphans go, so that a process that leaves its group, its session
// and its parent is still a descendant of the agent's.
type tree struct {
	root int // pid of run.sh

	once sync.Once
	end  chan struct{}
	reap sync.WaitGroup
}

// adoptOrphans makes the agent the parent of every descendant whose own has ended.
func adoptOrphans() error {
	const subreaper = 36 // PR_SET_CHILD_SUBREAPER
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, subreaper, 1, 0); errno != 0 {
		return os.NewSyscallError("prctl", errno)
	}
	return nil
}

// watch collects orphans that end, until kill.
func (t *tree) watch(root int) {
	t.root, t.end = root, make(chan struct{})
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	t.reap.Go(func() {
		defer signal.Stop(died)
		for {
			select {
			case <-died:
			case <-t.end:
				return
			}
			t.collect()
			// A job may start thousands of short processes; looking once a second is enough.
			wait := time.NewTimer(time.Second)
			select {
			case <-wait.C:
			case <-t.end:
			}
			wait.Stop()
		}
	})
}

// collect waits for orphans that have ended. run.sh has its own waiter.
func (t *tree) collect() {
	all, _ := proc.All()
	for _, p := range all {
		if p.PPID == os.Getpid() && p.Zombie && p.PID != t.root {
			_, _ = syscall.Wait4(p.PID, nil, syscall.WNOHANG, nil)
		}
	}
}

// signal signals the process group of run.sh.
func (t *tree) signal(sig syscall.Signal) {
	all, _ := proc.All()
	for _, p := range proc.Descendants(all, os.Getpid()) {
		if p.Group == t.root {
			_ = p.Signal(sig) // one that has ended needs none
		}
	}
}

// kill kills every descendant of the agent until none is left, for at most 5 s:
// what can fork faster than that is the provider's to end.
func (t *tree) kill() {
	deadline := time.Now().Add(5 * time.Second)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		all, _ := proc.All()
		left := false
		for _, p := range proc.Descendants(all, os.Getpid()) {
			if p.Signal(syscall.SIGKILL) == nil {
				left = true
			}
		}
		t.collect()
		if !left || time.Now().After(deadline) {
			break
		}
		time.Sleep(wait) // for the kernel, which needs a moment to end them
	}
	t.once.Do(func() {
		close(t.end)
		t.reap.Wait()
	})
}

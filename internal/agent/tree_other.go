//go:build unix && !linux

package agent

import "syscall"

// tree is the process group of the runner. What leaves it cannot be found on this
// system.
type tree struct{ root int }

func adoptOrphans() error { return nil }

func (t *tree) watch(root int) { t.root = root }

func (t *tree) signal(sig syscall.Signal) { _ = syscall.Kill(-t.root, sig) }

func (t *tree) kill() { _ = syscall.Kill(-t.root, syscall.SIGKILL) }

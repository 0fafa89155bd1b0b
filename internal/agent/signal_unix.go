//go:build unix

package agent

import (
	"os"
	"os/signal"
	"syscall"
)

// whenContinued yields when this program goes on after it was stopped.
func whenContinued() (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGCONT)
	return c, func() { signal.Stop(c) }
}

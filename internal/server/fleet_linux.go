package server

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lockDir makes sure that one run uses a directory. The lock ends with the
// process, however it ends.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errors.New("another muster github-runner run uses it: end that one, or name another --data-dir")
		}
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), d.Close())
	}
	return func() { _ = d.Close() }, nil // which gives the lock up
}

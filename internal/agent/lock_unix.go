//go:build unix

package agent

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// lockDir waits until no other agent of this machine has the directory locked. Where
// it cannot be locked, nobody waits.
func lockDir(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.Open(name)
	if err != nil {
		return func() {}, nil //nolint:nilerr // the download that follows says what is wrong
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) {
			return func() { f.Close() }, nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			f.Close()
			return nil, err
		}
	}
}

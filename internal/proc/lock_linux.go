package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// ErrLocked is what Lock returns where it is not to wait.
var ErrLocked = errors.New("locked by another call")

// Lock takes the flock(2) of a directory or file; how is syscall.LOCK_SH or LOCK_EX. It
// holds until the file is closed or this program ends, however it ends; programs that
// are started do not inherit it. With waiting false it returns ErrLocked at once
// instead of waiting; otherwise it waits until ctx ends.
func Lock(ctx context.Context, path string, how int, waiting bool) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case !errors.Is(err, syscall.EWOULDBLOCK):
			err = fmt.Errorf("lock %s: %w", path, err)
		case !waiting:
			err = ErrLocked
		default:
			select {
			case <-time.After(pause):
				continue
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		return nil, errors.Join(err, f.Close())
	}
}

// Current reports whether the directory or file that f has open is still the one at path.
func Current(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

//go:build unix

package agent

import (
	"errors"
	"os"
	"syscall"
)

// openRegular opens a file that the job may have put there: no link, no pipe that would
// be waited for, no device.
func openRegular(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(errors.New("not a regular file"), err, f.Close())
	}
	return f, nil
}

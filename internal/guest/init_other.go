//go:build !linux

package guest

import (
	"errors"
	"io"
)

// Booting is false: guests run Linux.
func Booting() bool { return false }

// Init is refused.
func Init(func()) ([]string, error) { return nil, errors.ErrUnsupported }

// Template is false.
func Template() bool { return false }

// OpenPort is refused.
func OpenPort(string) (io.ReadWriteCloser, error) { return nil, errors.ErrUnsupported }

// PowerOff does nothing.
func PowerOff() {}

// OnPowerButton does nothing.
func OnPowerButton(func()) {}

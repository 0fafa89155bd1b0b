//go:build !linux

package proc

import (
	"errors"
	"os"
	"syscall"
)

// Process is one process; on this system none can be read.
type Process struct {
	PID, PPID, Group, Session int
	Start                     uint64
	Zombie                    bool
}

// Read returns os.ErrNotExist.
func Read(int) (Process, error) { return Process{}, os.ErrNotExist }

// All returns nothing.
func All() ([]Process, error) { return nil, nil }

// Alive is false.
func (p Process) Alive() bool { return false }

// Signal is refused: without a start time the process cannot be told from another.
func (p Process) Signal(syscall.Signal) error { return errors.ErrUnsupported }

// HasEnv is false.
func (p Process) HasEnv(string) bool { return false }

// Leader is false.
func (p Process) Leader() bool { return false }

// Env is empty.
func (p Process) Env(string) string { return "" }

// Environ returns nothing.
func Environ(int) []byte { return nil }

// Descendants returns nothing.
func Descendants([]Process, int) []Process { return nil }

// BootID is empty.
func BootID() string { return "" }

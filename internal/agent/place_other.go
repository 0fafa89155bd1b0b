//go:build unix && !linux

package agent

import (
	"os"
	"syscall"
)

// openPlace returns nil: this system has no cgroups.
func openPlace(string) *os.File { return nil }

func startIn(*syscall.SysProcAttr, *os.File) {}

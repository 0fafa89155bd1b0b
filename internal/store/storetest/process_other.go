//go:build !unix

package storetest

import "syscall"

// attributes has nothing to say where there are no Unix users.
func attributes(int, int) *syscall.SysProcAttr { return nil }

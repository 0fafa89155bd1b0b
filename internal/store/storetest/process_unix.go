//go:build unix && !linux

package storetest

import "syscall"

// attributes makes a process run as a user (-1: as ours).
func attributes(uid, gid int) *syscall.SysProcAttr {
	if uid < 0 {
		return nil
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

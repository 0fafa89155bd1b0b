package agent

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// openPlace opens a cgroup by its name, nil if there is none of that name here: a recorder
// may see another file system than this program.
func openPlace(dir string) *os.File {
	if dir == "" {
		return nil
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		f.Close()
		return nil
	}
	return f
}

// startIn has a process begin in a cgroup.
func startIn(attr *syscall.SysProcAttr, cgroup *os.File) {
	attr.UseCgroupFD, attr.CgroupFD = true, int(cgroup.Fd())
}

//go:build linux

package qemu

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// writeInitramfs writes the trees, one over the other, as the archive that Linux
// unpacks into its first file system (the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst). Everything belongs to
// root, so that no privilege is needed to make one.
func writeInitramfs(path string, trees ...string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	a := &archive{w: bufio.NewWriterSize(f, 1<<20)}
	for _, tree := range trees {
		err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name, err := filepath.Rel(tree, path)
			if err != nil || name == "." {
				return err
			}
			return a.add(name, path, d)
		})
		if err != nil {
			return err
		}
	}
	a.head("TRAILER!!!", 0, 0, 0)
	return errors.Join(a.err, a.w.Flush(), f.Close())
}

type archive struct {
	w    *bufio.Writer
	n    int64
	last int
	err  error
}

func (a *archive) write(text string) {
	n, err := a.w.WriteString(text)
	a.n += int64(n)
	a.err = errors.Join(a.err, err)
}

// pad fills up to a multiple of four.
func (a *archive) pad() {
	for a.n%4 != 0 {
		a.write("\x00")
	}
}

func (a *archive) head(name string, mode uint32, links int, size int64) {
	a.last++
	a.write(fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.last, mode, 0, 0, links, 0, size, 0, 0, 0, 0, len(name)+1, 0))
	a.write(name + "\x00")
	a.pad()
}

func (a *archive) add(name, path string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	const directory, regular, link = 0o040000, 0o100000, 0o120000
	mode := uint32(info.Mode().Perm())
	if info.Mode()&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	if info.Mode()&fs.ModeSetuid != 0 {
		mode |= 0o4000
	}
	switch {
	case d.IsDir():
		a.head(name, directory|mode, 2, 0)
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		a.head(name, link|mode, 1, int64(len(target)))
		a.write(target)
		a.pad()
	case info.Mode().IsRegular():
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		a.head(name, regular|mode, 1, info.Size())
		n, err := io.CopyN(a.w, f, info.Size())
		a.n += n
		if err != nil {
			return fmt.Errorf("%s changed while it was read: %w", path, err)
		}
		a.pad()
	}
	return a.err // sockets and devices are made by those who need them
}

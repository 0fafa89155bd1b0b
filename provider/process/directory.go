//go:build linux

package process

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/muster-ci/muster/internal/instancedir"
)

// A runner's directory, below Root and the owner's directory:
//
//	state.json   what this provider knows; the control plane's alone
//	agent.log    what the agent and the runner print
//	runner/      the runner's own tree, with its work directory
//	home/ tmp/   HOME and TMPDIR
const logFile = "agent.log"

// state is the file in a runner's directory.
type state struct {
	instancedir.State
	MemoryMiB int64 `json:"memory_mib,omitempty"`
}

func readState(dir string) (state, error) {
	var st state
	err := instancedir.ReadJSON(filepath.Join(dir, instancedir.StateFile), &st)
	return st, err
}

func (st state) write(dir string) error {
	return instancedir.WriteJSON(filepath.Join(dir, instancedir.StateFile), st)
}

// smallFile is up to where a file at the top of the runner is copied. Those are
// scripts and settings, which are rewritten in place (run.sh copies run-helper.sh
// at every start): through a hard link, that would change them under another
// runner. Large ones and everything below are only read, and linking is faster.
const smallFile = 1 << 20

// leftOut are the names at the top of a runner's directory that belong to one
// registration or one job.
func leftOut(name string) bool {
	switch name {
	case ".runner", ".credentials", ".credentials_rsaparams", ".jitconfig", ".runner_migrated", ".credentials_migrated", ".service":
		return true
	}
	return strings.HasPrefix(name, "_") // _work, _diag, _tool, _update
}

// farm gives dst its own tree of src, owned by uid and gid if uid is not -1.
func farm(ctx context.Context, src, dst string, uid, gid int) error {
	return farmDir(ctx, src, dst, true, uid, gid)
}

func farmDir(ctx context.Context, src, dst string, top bool, uid, gid int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	mode := fs.FileMode(0o755)
	if top {
		mode = 0o700 // the runner writes its credentials here
	}
	if err := os.Mkdir(dst, mode); err != nil {
		return err
	}
	if err := own(dst, uid, gid); err != nil {
		return err
	}
	entries, err := os.ReadDir(src)
	if err != nil {
		return err
	}
	for _, e := range entries {
		from, to := filepath.Join(src, e.Name()), filepath.Join(dst, e.Name())
		switch {
		case top && leftOut(e.Name()):
		case top && e.Name() == "externals" && e.IsDir():
			// Thousands of files (whole Node.js trees) that are only ever read. bin must
			// be real: the runner finds its root by the real path of its program.
			err = os.Symlink(from, to)
		case e.IsDir():
			err = farmDir(ctx, from, to, false, uid, gid)
		case e.Type()&fs.ModeSymlink != 0:
			var target string
			if target, err = os.Readlink(from); err == nil {
				err = os.Symlink(target, to)
			}
		case e.Type().IsRegular():
			err = farmFile(from, to, top, uid, gid)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func farmFile(from, to string, top bool, uid, gid int) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	// A link is refused across file systems and, by fs.protected_hardlinks, to
	// somebody else's file; a copy always works.
	if (!top || info.Size() > smallFile) && os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close(), own(to, uid, gid))
}

func own(path string, uid, gid int) error {
	if uid < 0 {
		return nil
	}
	return os.Lchown(path, uid, gid)
}

// removeTree removes a directory that a job has filled, which may hold directories
// without permissions. state.json goes last, so that an interrupted removal is still
// an instance that can be found.
func removeTree(ctx context.Context, dir string) error {
	if err := empty(ctx, dir, instancedir.StateFile); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, instancedir.StateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Remove(dir)
}

func empty(ctx context.Context, dir, except string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrPermission) {
		if err = os.Chmod(dir, 0o700); err == nil {
			entries, err = os.ReadDir(dir)
		}
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.Name() == except {
			continue
		}
		if e.IsDir() {
			if err := empty(ctx, path, ""); err != nil {
				return err
			}
		}
		err := os.Remove(path)
		if errors.Is(err, fs.ErrPermission) && os.Chmod(dir, 0o700) == nil {
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

package archive

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"gocloud.dev/blob"

	"github.com/muster-ci/muster"
)

// folder writes the files of a bucket that is a directory. gocloud.dev gives files their
// names without a word to the disk, so that a power cut takes back what was acknowledged
// minutes before. Here a file gets its name when all of it is on the disk, and a write
// returns when the name is too. Reading is gocloud.dev's.
type folder struct {
	root string
	mode fs.FileMode // of directories
	// sync brings to the disk what a file or a directory holds.
	sync func(*os.File) error

	temps atomic.Uint64

	mu sync.Mutex
	// named are directories whose own names are on the disk, and those above them too.
	named map[string]bool
}

// maxNamed bounds how many directories are remembered; forgetting costs a sync.
const maxNamed = 10_000

// newFolder is a folder that exists. The names that lead to it are brought to the disk as
// far as that is allowed.
func newFolder(root string, mode fs.FileMode, sync func(*os.File) error) *folder {
	f := &folder{root: root, mode: mode, sync: sync, named: map[string]bool{}}
	for dir := filepath.Dir(root); f.syncDir(dir) == nil && dir != filepath.Dir(dir); {
		dir = filepath.Dir(dir)
	}
	return f
}

// write makes a file of what it reads. Readers see all of it or nothing, and so does
// whoever comes after a crash; when it returns nil, it outlives one. With once, a file that
// is there stays, and the error matches fs.ErrExist.
func (f *folder) write(ctx context.Context, key string, from io.Reader, once bool) error {
	path := f.path(key)
	temp, err := f.stage(ctx, path, from)
	if err != nil {
		return err
	}
	err = f.publish(temp, path, once)
	if e := os.Remove(temp); !errors.Is(e, fs.ErrNotExist) { // it was renamed
		err = errors.Join(err, e)
	}
	if err != nil {
		return err
	}
	return f.name(filepath.Dir(path))
}

func (f *folder) path(key string) string { return filepath.Join(f.root, filepath.FromSlash(key)) }

// stage writes a file under a name that no object has, and brings it to the disk.
func (f *folder) stage(ctx context.Context, path string, from io.Reader) (temp string, err error) {
	file, err := f.create(path)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(file, from)
	if err == nil {
		err = f.sync(file)
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), nil
}

// create opens a new file beside the place of another one.
func (f *folder) create(path string) (*os.File, error) {
	for tries := 0; ; tries++ {
		if err := f.mkdir(filepath.Dir(path)); err != nil {
			return nil, err
		}
		name := path + "." + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatUint(f.temps.Add(1), 16) + ".tmp"
		file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		switch {
		case err == nil:
			return file, nil
		// Whoever deleted the trace before took the directory along, or another machine's
		// process with our number left a file.
		case tries < 100 && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist)):
		default:
			return nil, err
		}
	}
}

// mkdir makes a directory and those above it, below the root.
func (f *folder) mkdir(dir string) error {
	err := os.Mkdir(dir, f.mode)
	if errors.Is(err, fs.ErrNotExist) && dir != f.root {
		if err := f.mkdir(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, f.mode)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was taken away again; whoever needs it sees
		}
	}
	if err == nil {
		f.forget(dir)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// publish gives a file its name.
func (f *folder) publish(temp, path string, once bool) error {
	if !once {
		return os.Rename(temp, path)
	}
	err := os.Link(temp, path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	// Not all file systems have links. Without them, two processes could both find the
	// name free.
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := os.Lstat(path); err == nil {
		return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	return os.Rename(temp, path)
}

// settle brings to the disk what is there under a key already: whoever wrote it may have
// died before it could.
func (f *folder) settle(key string) error {
	path := f.path(key)
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := errors.Join(f.sync(file), file.Close()); err != nil {
		return err
	}
	return f.name(filepath.Dir(path))
}

// name brings the names in a directory to the disk, and its own and those of the directories
// above it that may not be there yet.
func (f *folder) name(dir string) error {
	var fresh []string
	for {
		if err := f.syncDir(dir); err != nil {
			return err
		}
		f.mu.Lock()
		known := dir == f.root || f.named[dir]
		f.mu.Unlock()
		if known {
			break
		}
		fresh = append(fresh, dir)
		dir = filepath.Dir(dir)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.named) >= maxNamed {
		clear(f.named)
	}
	for _, dir := range fresh {
		f.named[dir] = true // not sooner: others take it for the whole way up
	}
	return nil
}

// forget says that a directory's name is not on the disk.
func (f *folder) forget(dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.named, dir)
}

func (f *folder) syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // it has no such thing, and orders its names itself
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.sync(d)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // a file system that cannot, such as some that are remote
	}
	return errors.Join(err, d.Close())
}

// put writes an object whose key is checked: to a folder in our way, else in the bucket's.
func (a *Archive) put(ctx context.Context, key string, from io.Reader, once bool) error {
	if a.folder != nil {
		return a.folder.write(ctx, a.under+key, from, once)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := a.bucket.NewWriter(ctx, key, &blob.WriterOptions{
		ContentType: "application/octet-stream", // nothing is guessed from what hostile jobs say
		IfNotExist:  once,
	})
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, from); err != nil {
		cancel() // or else Close would keep the half that was copied
		return errors.Join(err, w.Close())
	}
	return w.Close()
}

// dirMode reads the mode of directories that a URL may have.
func dirMode(text string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(text, 0, 32)
	if err != nil || fs.FileMode(n)&^fs.ModePerm != 0 {
		return 0, muster.Errorf(muster.CodeInvalid, "dir_file_mode=%s is no mode of a directory; write dir_file_mode=0700", text)
	}
	return fs.FileMode(n), nil
}

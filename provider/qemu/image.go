//go:build linux

package qemu

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/muster-ci/muster/internal/instancedir"
	"github.com/muster-ci/muster/internal/proc"
)

// Files of an image.
const (
	manifestFile = "image.json"
	kernelPart   = "kernel"
	initrdPart   = "initrd"
	diskPart     = "disk.qcow2" // missing where the root file system lies in the initrd
)

var imageName = regexp.MustCompile(`\A[a-z0-9][a-z0-9._-]{0,62}\z`)

// Images lists the images in a directory by name.
func Images(dir string) ([]Image, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Image
	for _, e := range entries {
		if !e.IsDir() || !imageName.MatchString(e.Name()) {
			continue
		}
		img, err := readImage(dir, e.Name())
		if err != nil {
			img = Image{Name: e.Name(), State: ImageFailed, Error: err.Error()}
		}
		all = append(all, img)
	}
	return all, nil
}

// readImage reads an image's record. A build that nobody is at any more has failed.
func readImage(dir, name string) (Image, error) {
	if !imageName.MatchString(name) {
		return Image{}, fmt.Errorf("%q is no name of an image: use lower-case letters, digits, dots and dashes", name)
	}
	img := Image{dir: filepath.Join(dir, name)}
	err := instancedir.ReadJSON(filepath.Join(img.dir, manifestFile), &img)
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, fmt.Errorf("there is no image %q in %s: make one with `muster image build`", name, dir)
	}
	if err != nil {
		return Image{}, err
	}
	img.Name = name
	if img.State == ImageQueued || img.State == ImageBuilding {
		held, err := proc.Lock(context.Background(), img.dir, syscall.LOCK_SH, false)
		if err == nil {
			held.Close()
			img.State, img.Error = ImageFailed, "its build was interrupted: build it again"
		}
	}
	return img, nil
}

// path of a part.
func (img Image) path(part string) string { return filepath.Join(img.dir, part) }

func (img Image) hasDisk() bool { _, ok := img.Parts[diskPart]; return ok }

// stamp is what the files look like from outside: it changes with every change of one
// that does not hide itself, and costs no reading.
func (img Image) stamp() (string, error) {
	var b strings.Builder
	for _, part := range slices.Sorted(maps.Keys(img.Parts)) {
		info, err := os.Stat(img.path(part))
		if err != nil {
			return "", fmt.Errorf("image %s: %w", img.Name, err)
		}
		fmt.Fprintf(&b, "%s %d %d %s\n", part, info.Size(), info.ModTime().UnixNano(), inode(info))
	}
	return b.String(), nil
}

// VerifyImage computes the checksums of an image's files again and compares them with
// its record. The error names every file that differs.
func VerifyImage(ctx context.Context, dir, name string) (Image, error) {
	img, err := readImage(dir, name)
	if err != nil {
		return img, err
	}
	return img, img.verify(ctx)
}

func (img Image) verify(ctx context.Context) error {
	if img.State != ImageReady {
		return fmt.Errorf("image %s is %s and not ready: %s", img.Name, img.State, cmp.Or(img.Error, "wait for its build"))
	}
	parts, err := sum(ctx, img.dir)
	if err != nil {
		return err
	}
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(img.Parts)) {
		switch now, ok := parts[name]; {
		case !ok:
			problems = append(problems, fmt.Errorf("image %s: %s is missing", img.Name, name))
		case now != img.Parts[name]:
			problems = append(problems, fmt.Errorf("image %s: %s has changed: it was %d bytes with sha256 %s and is %d bytes with sha256 %s", img.Name, name, img.Parts[name].Size, img.Parts[name].SHA256, now.Size, now.SHA256))
		}
	}
	if digest(img.Parts) != img.Digest {
		problems = append(problems, fmt.Errorf("image %s: its record does not fit its digest", img.Name))
	}
	return errors.Join(problems...)
}

// sum computes the checksums of the parts in a directory.
func sum(ctx context.Context, dir string) (map[string]ImagePart, error) {
	parts := map[string]ImagePart{}
	for _, name := range []string{kernelPart, initrdPart, diskPart} {
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		h := sha256.New()
		n, err := io.Copy(h, readerUntil{ctx, f})
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		parts[name] = ImagePart{n, hex.EncodeToString(h.Sum(nil))}
	}
	return parts, nil
}

// readerUntil ends with a context, as io.Reader has none.
type readerUntil struct {
	ctx context.Context //nolint:containedctx // of one read of one file
	r   io.Reader
}

func (r readerUntil) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

func digest(parts map[string]ImagePart) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		fmt.Fprintf(h, "%s %d %s\n", name, parts[name].Size, parts[name].SHA256)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

func inode(info fs.FileInfo) string {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return strconv.FormatUint(st.Ino, 10)
	}
	return ""
}

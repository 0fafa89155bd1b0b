package agent

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/muster-ci/muster/internal/wire"
)

// Limits of an archive. GitHub's runner has some 200 MB packed, 600 MB unpacked
// and 7,000 files.
const (
	maxArchive  = 1 << 30
	maxUnpacked = 4 << 30
	maxEntries  = 100_000
)

var sha256Hex = regexp.MustCompile(`\A[0-9a-fA-F]{64}\z`)

// offeredVersion finds the version in an archive's name.
var offeredVersion = regexp.MustCompile(`-(\d+\.\d+\.\d+)\.tar\.gz\z`)

// fetch puts the runner into its directory, unless it is there in the version that
// is offered (S1-10). A directory that the agent may not download into, or one
// whose version cannot be told, stays as it is.
func (a *agent) fetch(ctx context.Context, d *wire.Download, version func(context.Context) string) error {
	_, err := os.Stat(filepath.Join(a.cfg.RunnerDir, "run.sh"))
	there := err == nil
	if there {
		if d == nil || !a.cfg.Download {
			return nil
		}
		offered := offeredVersion.FindStringSubmatch(d.Filename)
		if offered == nil {
			return nil
		}
		have := version(ctx)
		if have == "" || have == offered[1] {
			return nil
		}
		a.log.Info("runner replaced", "version", have, "by", offered[1])
	}
	if d == nil {
		return errors.New("there is no run.sh, and the control plane names no download")
	}
	if !sha256Hex.MatchString(d.SHA256) {
		return fmt.Errorf("download of %q has no SHA-256 checksum and is refused", d.Filename)
	}
	if !strings.HasSuffix(d.Filename, ".tar.gz") {
		return fmt.Errorf("download %q is no .tar.gz", d.Filename)
	}
	if u, err := url.Parse(d.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("download of %q has no http or https address", d.Filename)
	}
	sum := strings.ToLower(d.SHA256)
	dir := a.cfg.CacheDir
	if dir == "" {
		tmp, err := os.MkdirTemp("", "muster-runner-")
		if err != nil {
			return fmt.Errorf("make download directory: %w", err)
		}
		defer os.RemoveAll(tmp)
		dir = tmp
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make download directory: %w", err)
	}
	archive := filepath.Join(dir, sum+".tar.gz")
	// Of several agents that share the directory, one downloads (S1-10).
	unlock, err := lockDir(ctx, dir)
	if err != nil {
		return err
	}
	unlock = sync.OnceFunc(unlock)
	defer unlock()
	// A cached archive is checked like a fresh one: a job may have had the directory.
	if err := verify(archive, sum); err != nil {
		var tries backoff
		for {
			if err = a.download(ctx, d.URL, archive, sum); err == nil {
				break
			}
			if tries.tries == 4 || !again(err) || errors.Is(err, errChecksum) {
				return err
			}
			a.log.Warn("download failed", "error", err)
			if err := pause(ctx, tries.next(err)); err != nil {
				return err
			}
		}
	}
	unlock()
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	place := unpack
	if there {
		place = replace
	}
	if err := place(f, a.cfg.RunnerDir); err != nil {
		return fmt.Errorf("unpack %s: %w", d.Filename, err)
	}
	if _, err := os.Stat(filepath.Join(a.cfg.RunnerDir, "run.sh")); err != nil {
		return fmt.Errorf("there is no run.sh in %s", d.Filename)
	}
	return nil
}

var errChecksum = errors.New("checksum differs")

// verify checks a file's checksum.
func verify(file, sum string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return fmt.Errorf("%w: it is %s and must be %s", errChecksum, got, sum)
	}
	return nil
}

// download fetches from into file, which appears complete and verified or not at all.
func (a *agent) download(ctx context.Context, from, file, sum string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return fmt.Errorf("download: %w", err)
	}
	// Redirects are followed here: there is no token to lose, and the checksum decides.
	res, err := (&http.Client{Transport: a.client.http.Transport}).Do(req)
	if err != nil {
		return fmt.Errorf("download: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return &refusal{status: res.StatusCode, message: "download of the runner"}
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".download-")
	if err != nil {
		return fmt.Errorf("download: %w", err)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	n, err := io.Copy(tmp, io.LimitReader(res.Body, maxArchive+1))
	if err != nil {
		return fmt.Errorf("download: %w", err)
	}
	if n > maxArchive {
		return fmt.Errorf("%w: the download has more than %d bytes", errChecksum, maxArchive)
	}
	if err := verify(tmp.Name(), sum); err != nil {
		return fmt.Errorf("download of the runner: %w", err)
	}
	return os.Rename(tmp.Name(), file)
}

// replace unpacks beside what is in dir and then puts each file and directory of
// the archive in the place of the old one. The rest stays: work, and settings that
// the machine's owner made.
func replace(r io.Reader, dir string) error {
	fresh, err := os.MkdirTemp(dir, ".fresh-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	if err := unpack(r, fresh); err != nil {
		return err
	}
	entries, err := os.ReadDir(fresh)
	if err != nil {
		return err
	}
	for _, e := range entries {
		at := filepath.Join(dir, e.Name())
		if err := errors.Join(os.RemoveAll(at), os.Rename(filepath.Join(fresh, e.Name()), at)); err != nil {
			return err
		}
	}
	return nil
}

// unpack unpacks a .tar.gz into dir. Nothing is written outside of dir, whatever
// the archive says: os.Root follows no link that leaves it.
func unpack(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	zip, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	budget := int64(maxUnpacked)
	in := tar.NewReader(zip)
	for entries := 0; ; entries++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if entries >= maxEntries {
			return fmt.Errorf("the archive has more than %d entries", maxEntries)
		}
		name := path.Clean(h.Name)
		if name == "." {
			continue
		}
		if !filepath.IsLocal(name) {
			return fmt.Errorf("entry %q leaves the directory", h.Name)
		}
		if budget -= h.Size; budget < 0 || h.Size < 0 {
			return fmt.Errorf("the archive unpacks to more than %d bytes", int64(maxUnpacked))
		}
		if err := unpackEntry(root, in, h, name); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
}

func unpackEntry(root *os.Root, in io.Reader, h *tar.Header, name string) error {
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	mode := fs.FileMode(h.Mode) & 0o755 // never set-user-id, never writable by others
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, mode|0o700)
	case tar.TypeReg:
		out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode|0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	case tar.TypeSymlink:
		if path.IsAbs(h.Linkname) || !filepath.IsLocal(path.Join(path.Dir(name), h.Linkname)) {
			return fmt.Errorf("link to %q leaves the directory", h.Linkname)
		}
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		target := path.Clean(h.Linkname)
		if !filepath.IsLocal(target) {
			return fmt.Errorf("link to %q leaves the directory", h.Linkname)
		}
		return root.Link(target, name)
	case tar.TypeXGlobalHeader:
		return nil
	}
	return fmt.Errorf("type %q is not allowed", h.Typeflag)
}

package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/muster-ci/muster/internal/wire"
)

// archive packs entries into a .tar.gz and returns it with its checksum.
func archive(t *testing.T, entries ...tar.Header) ([]byte, string) {
	t.Helper()
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	out := tar.NewWriter(zip)
	for _, h := range entries {
		content := []byte("#!/bin/sh\n")
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		if err := out.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := out.Write(content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(out.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(buf.Bytes())
	return buf.Bytes(), hex.EncodeToString(sum[:])
}

func good(t *testing.T) ([]byte, string) {
	return archive(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./run.sh", Mode: 0o4777},
		tar.Header{Name: "bin/deep/Runner.Listener", Mode: 0o755},
		tar.Header{Name: "bin/link", Typeflag: tar.TypeSymlink, Linkname: "../run.sh"},
		tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "run.sh"},
	)
}

func downloader(t *testing.T, cache string) *agent {
	t.Helper()
	a := &agent{
		cfg: Config{RunnerDir: t.TempDir(), CacheDir: cache, Download: true}, client: newClient("http://plane", "test", nil),
		log: slog.New(slog.DiscardHandler),
	}
	t.Cleanup(a.client.http.CloseIdleConnections)
	return a
}

func TestDownload(t *testing.T) {
	text, sum := good(t)
	calls := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls++; r.Header.Get("Authorization") != "" {
			t.Error("the download got a token")
		}
		if calls == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = w.Write(text)
	}))
	defer srv.Close()
	d := &wire.Download{URL: srv.URL + "/runner.tar.gz", Filename: "actions-runner-linux-x64-2.336.0.tar.gz", SHA256: strings.ToUpper(sum)}
	cache := t.TempDir()
	a := downloader(t, cache)
	if err := a.fetch(t.Context(), d, noVersion); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(a.cfg.RunnerDir, "run.sh")); err != nil || info.Mode() != 0o755 {
		t.Errorf("run.sh: %v, %v", info.Mode(), err)
	}
	if target, err := os.Readlink(filepath.Join(a.cfg.RunnerDir, "bin/link")); err != nil || target != "../run.sh" {
		t.Errorf("link: %q, %v", target, err)
	}
	if err := a.fetch(t.Context(), d, noVersion); err != nil || calls != 2 {
		t.Errorf("with a run.sh in place: %v, %d calls", err, calls)
	}
	// The next runner takes the archive from the cache …
	if err := downloader(t, cache).fetch(t.Context(), d, noVersion); err != nil || calls != 2 {
		t.Errorf("from the cache: %v, %d calls", err, calls)
	}
	// … unless a job has been at it.
	if err := os.WriteFile(filepath.Join(cache, sum+".tar.gz"), []byte("tampered"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := downloader(t, cache).fetch(t.Context(), d, noVersion); err != nil || calls != 3 {
		t.Errorf("from a spoilt cache: %v, %d calls", err, calls)
	}
}

func TestDownloadRefused(t *testing.T) {
	text, sum := good(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(text)
	}))
	defer srv.Close()
	for name, d := range map[string]*wire.Download{
		"nothing named":  nil,
		"no checksum":    {URL: srv.URL, Filename: "r.tar.gz"},
		"short checksum": {URL: srv.URL, Filename: "r.tar.gz", SHA256: sum[:40]},
		"other checksum": {URL: srv.URL, Filename: "r.tar.gz", SHA256: strings.Repeat("0", 64)},
		"zip":            {URL: srv.URL, Filename: "r.zip", SHA256: sum},
		"missing":        {URL: srv.URL + "/missing", Filename: "r.tar.gz", SHA256: sum},
		"no url":         {URL: "::", Filename: "r.tar.gz", SHA256: sum},
	} {
		cache := t.TempDir()
		a := downloader(t, cache)
		if err := a.fetch(t.Context(), d, noVersion); err == nil {
			t.Errorf("%s: accepted", name)
		}
		for _, dir := range []string{cache, a.cfg.RunnerDir} {
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("%s: %v is left", name, left)
			}
		}
	}
}

func TestUnpackStaysInside(t *testing.T) {
	for name, entries := range map[string][]tar.Header{
		"parent":           {{Name: "../evil"}},
		"deep parent":      {{Name: "a/../../evil"}},
		"absolute":         {{Name: "/tmp/evil"}},
		"absolute link":    {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}},
		"leaving link":     {{Name: "a/l", Typeflag: tar.TypeSymlink, Linkname: "../../x"}},
		"through a link":   {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "a/.."}, {Name: "a/b", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "a/b/../../../evil"}},
		"leaving hardlink": {{Name: "l", Typeflag: tar.TypeLink, Linkname: "../evil"}},
		"device":           {{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
		"pipe":             {{Name: "fifo", Typeflag: tar.TypeFifo}},
		"twice":            {{Name: "run.sh"}, {Name: "run.sh"}},
		"link then file":   {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "in"}, {Name: "out/evil"}},
	} {
		text, _ := archive(t, entries...)
		parent := t.TempDir()
		dir := filepath.Join(parent, "a", "runner")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unpack(bytes.NewReader(text), dir); err == nil {
			t.Errorf("%s: accepted", name)
		}
		_ = filepath.WalkDir(parent, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && !strings.HasPrefix(path, dir+"/") {
				t.Errorf("%s: wrote %s", name, path)
			}
			return nil
		})
	}
	if err := unpack(strings.NewReader("no archive"), t.TempDir()); err == nil {
		t.Error("nonsense was accepted")
	}
}

func TestUnpackIsBounded(t *testing.T) {
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	out := tar.NewWriter(zip)
	if err := out.WriteHeader(&tar.Header{Name: "bomb", Typeflag: tar.TypeReg, Size: maxUnpacked + 1}); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unpack(&buf, t.TempDir()); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a bomb: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte("x"), "run.sh", "")
	f.Add([]byte("x"), "../run.sh", "..")
	f.Fuzz(func(t *testing.T, content []byte, name, link string) {
		var buf bytes.Buffer
		zip := gzip.NewWriter(&buf)
		out := tar.NewWriter(zip)
		_ = out.WriteHeader(&tar.Header{Name: name + "l", Typeflag: tar.TypeSymlink, Linkname: link})
		_ = out.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(content)), Mode: 0o644})
		_, _ = out.Write(content)
		_ = out.Close()
		_ = zip.Close()
		parent := t.TempDir()
		dir := filepath.Join(parent, "runner")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = unpack(&buf, dir)
		entries, err := os.ReadDir(parent)
		if err != nil || len(entries) != 1 {
			t.Errorf("%q left the directory: %v, %v", name, entries, err)
		}
	})
}

func noVersion(context.Context) string { return "" }

func TestDownloadIfNeeded(t *testing.T) { // S1-10
	text, sum := good(t)
	for name, c := range map[string]struct {
		have  string // version, "" for no runner
		calls int
	}{"Absent": {"", 1}, "OldVersion": {"2.335.1", 1}, "NewerThanOffered": {"2.337.0", 1}, "RightVersion": {"2.336.0", 0}} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				calls++
				_, _ = w.Write(text)
			}))
			defer srv.Close()
			d := &wire.Download{URL: srv.URL, Filename: "actions-runner-linux-x64-2.336.0.tar.gz", SHA256: sum}
			a := downloader(t, "")
			write := func(name string) {
				t.Helper()
				if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(a.cfg.RunnerDir, name)), 0o755), os.WriteFile(filepath.Join(a.cfg.RunnerDir, name), []byte("old"), 0o755)); err != nil {
					t.Fatal(err)
				}
			}
			if c.have != "" {
				for _, name := range []string{"run.sh", "bin/old", "_work/kept", ".env"} {
					write(name)
				}
			}
			if err := a.fetch(t.Context(), d, func(context.Context) string { return c.have }); err != nil {
				t.Fatal(err)
			}
			run, err := os.ReadFile(filepath.Join(a.cfg.RunnerDir, "run.sh"))
			if err != nil || calls != c.calls || (string(run) == "old") != (c.calls == 0) {
				t.Errorf("%d downloads, run.sh %q, %v", calls, run, err)
			}
			if c.have == "" {
				return
			}
			for name, stays := range map[string]bool{"_work/kept": true, ".env": true, "bin/old": c.calls == 0} {
				if _, err := os.Stat(filepath.Join(a.cfg.RunnerDir, name)); (err == nil) != stays {
					t.Errorf("%s: %v", name, err)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(a.cfg.RunnerDir, ".fresh-*")); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
		})
	}
}

// S1-10: runners that start at once on one machine, with one cache, download once.
func TestDownloadOnce(t *testing.T) {
	text, sum := good(t)
	var calls atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		_, _ = w.Write(text)
	}))
	defer srv.Close()
	d := &wire.Download{URL: srv.URL + "/runner.tar.gz", Filename: "actions-runner-linux-x64-2.336.0.tar.gz", SHA256: sum}
	cache := t.TempDir()
	var all sync.WaitGroup
	for range 4 {
		a := downloader(t, cache)
		all.Go(func() {
			if err := a.fetch(t.Context(), d, noVersion); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := calls.Load(); n != 1 {
		t.Errorf("%d downloads", n)
	}
}

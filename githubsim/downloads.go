package githubsim

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	program "github.com/muster-ci/muster/githubsim/runner"
)

// runnerArchive is the runner directory that the downloads route points to.
type runnerArchive struct {
	once sync.Once
	data []byte
	sum  string
	err  error
}

// build makes the archive once, from the program of Config.RunnerProgram.
func (a *runnerArchive) build(find func() (string, error)) error {
	a.once.Do(func() {
		a.data, a.err = packRunner(find)
		sum := sha256.Sum256(a.data)
		a.sum = hex.EncodeToString(sum[:])
	})
	return a.err
}

func packRunner(find func() (string, error)) ([]byte, error) {
	if find == nil {
		return nil, nil
	}
	path, err := find()
	if err != nil {
		return nil, fmt.Errorf("find the runner program: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the runner program: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open the runner program: %w", err)
	}
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	tw := tar.NewWriter(zw)
	add := func(name string, size int64, from io.Reader) error {
		head := &tar.Header{Name: name, Mode: 0o755, Size: size, ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg}
		if err := tw.WriteHeader(head); err != nil {
			return err
		}
		_, err := io.Copy(tw, from)
		return err
	}
	scripts := program.Scripts("")
	for _, name := range slices.Sorted(maps.Keys(scripts)) {
		err = errors.Join(err, add(name, int64(len(scripts[name])), strings.NewReader(scripts[name])))
	}
	err = errors.Join(err, add("bin/Runner.Listener", info.Size(), f), tw.Close(), zw.Close())
	if err != nil {
		return nil, fmt.Errorf("pack the runner: %w", err)
	}
	return b.Bytes(), nil
}

func (s *Server) prepareDownloads(*call) error {
	if err := s.archive.build(s.cfg.RunnerProgram); err != nil {
		s.cfg.Logger.Warn("runner archive", "error", err)
	}
	return nil
}

var architectures = map[string]string{"amd64": "x64", "arm64": "arm64", "arm": "arm"}

// archiveName is the file that GitHub would offer for this machine.
func (s *Server) archiveName() (system, architecture, name string) {
	system = map[string]string{"linux": "linux", "darwin": "osx", "windows": "win"}[runtime.GOOS]
	architecture = architectures[runtime.GOARCH]
	return system, architecture, fmt.Sprintf("actions-runner-%s-%s-%s.tar.gz", system, architecture, s.cfg.RunnerVersion)
}

func (s *Server) listDownloads(*call) (reply, error) {
	if len(s.archive.data) == 0 {
		return ok([]object{})
	}
	system, architecture, name := s.archiveName()
	return ok([]object{{
		"os": system, "architecture": architecture, "filename": name, "sha256_checksum": s.archive.sum,
		"download_url": fmt.Sprintf("%s/actions/runner/releases/download/v%s/%s", s.html(), s.cfg.RunnerVersion, name),
	}})
}

func (s *Server) serveArchive(w http.ResponseWriter, r *http.Request) {
	_, _, name := s.archiveName()
	if err := s.archive.build(s.cfg.RunnerProgram); err != nil || len(s.archive.data) == 0 || r.PathValue("file") != name {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(s.archive.data))
}

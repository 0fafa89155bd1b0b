package githubsim

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// content is a file or a folder, read before the lock is taken.
type content struct {
	path    string
	data    []byte
	entries []fs.DirEntry // of a folder
	sizes   []int64
}

func (s *Server) readContents(c *call) error {
	s.mu.Lock()
	files := c.repo.files
	s.mu.Unlock()
	name := strings.Trim(path.Clean("/"+c.r.PathValue("path")), "/")
	if files == nil {
		return notFound()
	}
	got := &content{path: name}
	c.made = got
	if name == "" {
		name = "."
	}
	info, err := fs.Stat(files, name)
	if err != nil {
		return notFound()
	}
	if !info.IsDir() {
		got.data, err = fs.ReadFile(files, name)
		return err
	}
	if got.entries, err = fs.ReadDir(files, name); err != nil {
		return err
	}
	for _, e := range got.entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		got.sizes = append(got.sizes, info.Size())
	}
	return nil
}

func (s *Server) getContents(c *call) (reply, error) {
	got := c.made.(*content)
	if got.data != nil {
		view := s.contentView(c.repo, got.path, "file", int64(len(got.data)), blobSHA(got.data))
		view["encoding"], view["content"] = "base64", wrap64(got.data)
		return ok(view)
	}
	list := []object{}
	for i, e := range got.entries {
		kind := "file"
		if e.IsDir() {
			kind = "dir"
		}
		name := path.Join(got.path, e.Name())
		list = append(list, s.contentView(c.repo, name, kind, got.sizes[i], blobSHA([]byte(name))))
	}
	return ok(list)
}

func (s *Server) contentView(r *repository, name, kind string, size int64, sha string) object {
	self := fmt.Sprintf("%s/repos/%s/contents/%s?ref=main", s.api(), r.fullName(), name)
	git := fmt.Sprintf("%s/repos/%s/git/blobs/%s", s.api(), r.fullName(), sha)
	html := fmt.Sprintf("%s/%s/blob/main/%s", s.html(), r.fullName(), name)
	var download any = fmt.Sprintf("%s/raw/%s/main/%s", s.html(), r.fullName(), name)
	if kind == "dir" {
		size, download = 0, nil
	}
	return object{
		"type": kind, "name": path.Base(name), "path": name, "size": size, "sha": sha,
		"url": self, "git_url": git, "html_url": html, "download_url": download,
		"_links": object{"self": self, "git": git, "html": html},
	}
}

// blobSHA is git's name for a blob.
func blobSHA(data []byte) string {
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", len(data))
	h.Write(data)
	return hex.EncodeToString(h.Sum(nil))
}

// wrap64 is base64 in lines of 60 characters, as GitHub sends file contents.
func wrap64(data []byte) string {
	text := base64.StdEncoding.EncodeToString(data)
	var b strings.Builder
	for len(text) > 60 {
		b.WriteString(text[:60])
		b.WriteByte('\n')
		text = text[60:]
	}
	b.WriteString(text)
	b.WriteByte('\n')
	return b.String()
}

// Files makes a file system of paths and texts, for RepositoryOptions.
func Files(texts map[string]string) (fs.FS, error) {
	var b bytes.Buffer
	zw := zip.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		w, err := zw.Create(name)
		if err != nil {
			return nil, fmt.Errorf("add file %s: %w", name, err)
		}
		_, _ = io.WriteString(w, texts[name])
	}
	if err := zw.Close(); err != nil {
		return nil, fmt.Errorf("make files: %w", err)
	}
	return zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
}

// writeArchive writes the files as a tar.gz without a leading folder. Equal files
// give equal bytes.
func writeArchive(w io.Writer, files fs.FS) error {
	zw := gzip.NewWriter(w)
	tw := tar.NewWriter(zw)
	err := fs.WalkDir(files, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		return addToArchive(tw, files, name, info)
	})
	return errors.Join(err, tw.Close(), zw.Close())
}

func addToArchive(tw *tar.Writer, files fs.FS, name string, info fs.FileInfo) error {
	if !info.IsDir() && !info.Mode().IsRegular() {
		return nil
	}
	// In-memory file systems leave the permissions empty; git knows only two.
	head := &tar.Header{Name: name, Mode: 0o644, Size: info.Size(), ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg}
	if info.Mode()&0o111 != 0 {
		head.Mode = 0o755
	}
	if info.IsDir() {
		head.Name, head.Mode, head.Size, head.Typeflag = name+"/", 0o755, 0, tar.TypeDir
		return tw.WriteHeader(head)
	}
	if err := tw.WriteHeader(head); err != nil {
		return err
	}
	f, err := files.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(tw, f)
	return err
}

package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
)

// image writes an image of one layer, as `docker save` would, for `ctr images import`:
//
//	lab image -o FILE -t NAME [-user UID] [-entrypoint PROGRAM] PATH=SOURCE… PATH@TARGET… PATH/
//
// A source that is a directory goes in with all below it, TARGET makes a symbolic link, PATH/ a directory that everyone may write to.
func image(args []string) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	out := flags.String("o", "", "the archive's file")
	name := flags.String("t", "", "the image's name")
	user := flags.String("user", "", "whom it runs as")
	entrypoint := flags.String("entrypoint", "", "program and arguments, separated by blanks")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *out == "" || *name == "" {
		return errors.New("image needs -o and -t")
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, entry := range flags.Args() {
		var err error
		if dest, target, ok := strings.Cut(entry, "@"); ok {
			err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: strings.TrimPrefix(dest, "/"), Linkname: target, Mode: 0o777})
		} else if dest, source, ok := strings.Cut(entry, "="); ok {
			err = add(w, dest, source)
		} else if strings.HasSuffix(entry, "/") {
			err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(entry, "/"), Mode: 0o1777})
		} else {
			err = fmt.Errorf("%q is none of PATH=SOURCE, PATH@TARGET and PATH/", entry)
		}
		if err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": "1970-01-01T00:00:00Z",
		"config": map[string]any{"User": *user, "Entrypoint": strings.Fields(*entrypoint), "Env": []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/runner"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes()))}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{*name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	f, err := os.Create(*out)
	if err != nil {
		return err
	}
	defer f.Close()
	archive := tar.NewWriter(f)
	for _, part := range []struct {
		name string
		data []byte
	}{{"config.json", config}, {"layer.tar", layer.Bytes()}, {"manifest.json", manifest}} {
		if err := archive.WriteHeader(&tar.Header{Name: part.name, Size: int64(len(part.data)), Mode: 0o644}); err != nil {
			return err
		}
		if _, err := archive.Write(part.data); err != nil {
			return err
		}
	}
	return errors.Join(archive.Close(), f.Close())
}

func add(w *tar.Writer, dest, source string) error {
	return filepath.WalkDir(source, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, file)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Join(dest, filepath.ToSlash(rel)), "/")
		if info.IsDir() {
			// The runner writes beside its program, whoever it runs as.
			return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o777})
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(data)), Mode: int64(info.Mode().Perm() | 0o444)}); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
}

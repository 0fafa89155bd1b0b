package demo

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/muster-ci/muster/githubsim/runner"
)

// What is in an image of the demo, and as whom it runs.
const (
	imageHome  = "/home/runner"
	imageAgent = "/muster-agent"
	imageUser  = 1001
)

// tools are the programs of this machine that the demo's workflows use.
var tools = []string{
	"sh", "bash", "basename", "cat", "chmod", "cp", "cut", "date", "dirname", "env", "false", "grep", "head", "id", "ln", "ls", "mkdir", "mv", "paste",
	"rm", "sed", "sha256sum", "sleep", "sort", "tail", "tar", "test", "touch", "tr", "true", "uname", "wc",
}

// image is a container image of one layer: this machine's shell and tools, the agent,
// and the simulated GitHub's runner where GitHub's image has its own.
type image struct {
	// name tells one content from another, so that an older one is not taken for it.
	name string
	// archive is as `docker save` would write it.
	archive []byte
}

// makeImage makes an image of files of this machine, and of nothing else.
func makeImage(agent, runnerProgram string, look func(string) (string, error)) (image, error) {
	root := rootfs{files: map[string]entry{}}
	for _, name := range tools {
		if err := root.tool(name, look); err != nil {
			return image{}, err
		}
	}
	err := errors.Join(root.file(imageAgent, agent), root.file(imageHome+"/bin/Runner.Listener", runnerProgram))
	if err != nil {
		return image{}, err
	}
	for name, text := range runner.Scripts("") {
		root.files[imageHome+"/"+name] = entry{mode: 0o755, text: []byte(text)}
	}
	root.files["/etc/passwd"] = entry{mode: 0o644, text: []byte("root:x:0:0:root:/root:/bin/sh\nrunner:x:1001:1001::/home/runner:/bin/sh\n")}
	root.files["/etc/group"] = entry{mode: 0o644, text: []byte("root:x:0:\nrunner:x:1001:\n")}
	for _, dir := range []string{"/dev/", "/proc/", "/root/", "/run/", "/sys/", imageHome + "/", imageHome + "/bin/"} {
		root.files[dir] = entry{mode: 0o755}
	}
	root.files["/tmp/"] = entry{mode: 0o1777}
	layer, err := root.layer()
	if err != nil {
		return image{}, err
	}
	return pack(layer)
}

func pack(layer []byte) (image, error) {
	sum := sha256.Sum256(layer)
	img := image{name: fmt.Sprintf("localhost/muster-demo:%x", sum[:6])}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": "1970-01-01T00:00:00Z",
		"config": map[string]any{"User": fmt.Sprint(imageUser), "WorkingDir": imageHome, "Cmd": []string{"/bin/sh"}, "Env": []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + imageHome}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sum)}},
	})
	if err != nil {
		return image{}, err
	}
	configName := fmt.Sprintf("%x.json", sha256.Sum256(config))
	manifest, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": []string{img.name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return image{}, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range []struct {
		name string
		text []byte
	}{{configName, config}, {"layer.tar", layer}, {"manifest.json", manifest}} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.text))}); err != nil {
			return image{}, err
		}
		if _, err := w.Write(f.text); err != nil {
			return image{}, err
		}
	}
	err = w.Close()
	img.archive = out.Bytes()
	return img, err
}

// entry is a file, a link, or, by a name that ends in a slash, a directory.
type entry struct {
	mode int64
	text []byte
	link string
}

// rootfs is what an image holds, by absolute path.
type rootfs struct{ files map[string]entry }

// tool adds a program where it really is on this machine, and a link below /bin.
// Programs of many names are in the image once.
func (r rootfs) tool(name string, look func(string) (string, error)) error {
	at, err := look(name)
	if err == nil {
		at, err = filepath.EvalSymlinks(at)
	}
	if err != nil {
		return fmt.Errorf("the runners' image is made of this machine's tools, and %s is not here: %w", name, err)
	}
	if bin := "/bin/" + name; at != bin {
		r.files[bin] = entry{link: at}
	}
	return r.program(at)
}

// program adds a program at its own path, with its interpreter and all libraries.
func (r rootfs) program(at string) error {
	if _, there := r.files[at]; there {
		return nil
	}
	if err := r.file(at, at); err != nil {
		return err
	}
	f, err := elf.Open(at)
	if err != nil {
		return fmt.Errorf("read %s: %w", at, err)
	}
	defer f.Close()
	var loader string
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			text, err := io.ReadAll(p.Open())
			if err != nil {
				return fmt.Errorf("read %s: %w", at, err)
			}
			loader = strings.TrimRight(string(text), "\x00")
		}
	}
	if loader == "" {
		return nil // it needs nothing
	}
	return errors.Join(r.file(loader, loader), r.libraries(at, f, loader))
}

// libraries adds what a program or library names as needed, and what that needs.
func (r rootfs) libraries(of string, f *elf.File, loader string) error {
	needed, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("read %s: %w", of, err)
	}
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		lists, err := f.DynString(tag)
		if err != nil {
			continue // the file says nothing of directories
		}
		for _, list := range lists {
			for d := range strings.SplitSeq(list, ":") {
				dirs = append(dirs, strings.NewReplacer("$ORIGIN", filepath.Dir(of), "${ORIGIN}", filepath.Dir(of)).Replace(d))
			}
		}
	}
	// Where every system's loader looks: beside itself, first of all.
	if real, err := filepath.EvalSymlinks(loader); err == nil {
		dirs = append(dirs, filepath.Dir(real))
	}
	dirs = append(dirs, "/lib", "/usr/lib", "/lib64", "/usr/lib64")
	for _, name := range needed {
		if path.Base(loader) == name {
			continue
		}
		i := slices.IndexFunc(dirs, func(d string) bool {
			_, err := os.Stat(filepath.Join(d, name))
			return err == nil
		})
		if i < 0 {
			return fmt.Errorf("%s needs %s, which is in none of %s", of, name, strings.Join(dirs, ", "))
		}
		at := filepath.Join(dirs[i], name)
		if _, there := r.files[at]; there {
			continue
		}
		if err := r.file(at, at); err != nil {
			return err
		}
		lib, err := elf.Open(at)
		if err != nil {
			return fmt.Errorf("read %s: %w", at, err)
		}
		err = r.libraries(at, lib, loader)
		if err := errors.Join(err, lib.Close()); err != nil {
			return err
		}
	}
	return nil
}

// file adds a program or library of this machine.
func (r rootfs) file(name, from string) error {
	text, err := os.ReadFile(from)
	r.files[name] = entry{mode: 0o755, text: text}
	return err
}

// layer is the files as a tar whose bytes depend on nothing else.
func (r rootfs) layer() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(r.files)) {
		e := r.files[name]
		h := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(name, "/"), Mode: e.mode, Size: int64(len(e.text))}
		switch {
		case e.link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.link, 0o777
		case strings.HasSuffix(name, "/"):
			h.Typeflag = tar.TypeDir
		}
		if name == imageHome+"/" || strings.HasPrefix(name, imageHome+"/") {
			h.Uid, h.Gid = imageUser, imageUser
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.text); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

// writeImage is `muster demo --write-image`.
func writeImage(file string, out io.Writer) error {
	agent, program, err := programs()
	if err != nil {
		return err
	}
	img, err := makeImage(agent, program, exec.LookPath)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, img.archive, 0o644); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s is in %s\n", img.name, file)
	return err
}

package demo

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// The image is the same for the same files, and has all that the tools need.
func TestImage(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	one, err := makeImage(self, self, exec.LookPath)
	if err != nil {
		t.Fatal(err)
	}
	two, err := makeImage(self, self, exec.LookPath)
	if err != nil || one.name != two.name || !bytes.Equal(one.archive, two.archive) {
		t.Errorf("%v: made again, %s is %s", err, one.name, two.name)
	}
	outer := members(t, bytes.NewReader(one.archive))
	if !strings.Contains(string(outer["manifest.json"].text), one.name) {
		t.Errorf("the manifest does not name %s: %s", one.name, outer["manifest.json"].text)
	}
	inner := members(t, bytes.NewReader(outer["layer.tar"].text))
	for _, name := range []string{"bin/sh", "bin/bash", "bin/tar", "muster-agent", "home/runner/run.sh", "home/runner/bin/Runner.Listener", "tmp/"} {
		if _, there := inner[name]; !there {
			t.Errorf("the image has no %s: %v", name, slices.Sorted(maps.Keys(inner)))
		}
	}
	for name, e := range inner {
		if _, there := inner[strings.TrimPrefix(e.link, "/")]; e.link != "" && !there {
			t.Errorf("%s leads to %s, which is not in the image", name, e.link)
		}
	}
	// What the tools run with is only in the image: it works without the rest of this machine.
	if os.Getuid() == 0 {
		root := t.TempDir()
		unpack(t, root, inner)
		cmd := exec.CommandContext(t.Context(), "/usr/sbin/chroot", root, "/bin/sh", "-c", "echo a-b | cut -d- -f2 | tr b c; printf x | sha256sum | grep -c . && tar --version | head -1 | sed 's/ .*//'")
		cmd.Env = []string{"PATH=/usr/bin:/bin"}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "c\n1\n") {
			t.Errorf("inside the image: %v: %s", err, out)
		}
	}
	_, err = makeImage(self, self, func(name string) (string, error) {
		if name == "paste" {
			return "", exec.ErrNotFound
		}
		return exec.LookPath(name)
	})
	if err == nil || !strings.Contains(err.Error(), "paste is not here") {
		t.Errorf("without a tool: %v", err)
	}
}

// members are the entries of a tar.
func members(t *testing.T, r io.Reader) map[string]entry {
	t.Helper()
	all := map[string]entry{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = entry{mode: h.Mode, text: text, link: h.Linkname}
	}
}

func unpack(t *testing.T, root string, all map[string]entry) {
	t.Helper()
	for name, e := range all {
		at := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(at), 0o755)
		switch {
		case strings.HasSuffix(name, "/"):
			err = errors.Join(err, os.MkdirAll(at, 0o755))
		case e.link != "":
			err = errors.Join(err, os.Symlink(e.link, at))
		default:
			err = errors.Join(err, os.WriteFile(at, e.text, os.FileMode(e.mode)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The user's own keys win over the stage's, and a stage whose section cannot be
// written is taken down again.
func TestOwnKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "own.yaml")
	if err := os.WriteFile(file, []byte("max: 3\nlabels: {team: ci}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	own, err := ownKeys(file)
	if err != nil {
		t.Fatal(err)
	}
	ended := 0
	text := "max: 8\ngrace: 1s\n"
	s := stage{build: func(context.Context, props) (built, error) {
		return built{section: text, end: func(context.Context) error { ended++; return nil }}, nil
	}}
	b, err := s.make(t.Context(), props{own: own})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]any{}
	if err := yaml.Unmarshal([]byte(b.section), &got); err != nil {
		t.Fatal(err)
	}
	if got["max"] != uint64(3) || got["grace"] != "1s" || got["labels"] == nil || ended != 0 {
		t.Errorf("%d ends; the section is %v", ended, got)
	}
	text = "max: [\n"
	if _, err := s.make(t.Context(), props{own: own}); err == nil || ended != 1 {
		t.Errorf("%d ends after %v", ended, err)
	}
	if err := os.WriteFile(file, []byte("- max\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ownKeys(file); err == nil || !strings.Contains(err.Error(), "key: value") {
		t.Errorf("a list instead of keys: %v", err)
	}
	if own, err := ownKeys(""); own != nil || err != nil {
		t.Errorf("no file: %v %v", own, err)
	}
}

// Where nothing is present, a stage says what would help.
func TestStagesWithoutPlatform(t *testing.T) {
	nothing := func(string) string { return "" }
	if _, err := kubeconfig("/none-such", nothing); err == nil || !strings.Contains(err.Error(), "KUBECONFIG") {
		t.Errorf("kubernetes: %v", err)
	}
	t.Setenv("DOCKER_HOST", "unix:///none-such/socket")
	if _, err := buildContainers(t.Context(), props{}); err == nil || !strings.Contains(err.Error(), "does not answer") || !strings.Contains(err.Error(), "DOCKER_HOST") {
		t.Errorf("container: %v", err)
	}
	if host := engineHost("tcp://192.0.2.1:2376", nothing); host != "tcp://192.0.2.1:2376" {
		t.Errorf("the host that is written is not taken: %s", host)
	}
	if _, err := buildKubernetes(t.Context(), props{control: "127.0.0.1:8080"}); err == nil || !strings.Contains(err.Error(), "--listen ADDRESS:8080") {
		t.Errorf("kubernetes on the loopback interface: %v", err)
	}
}

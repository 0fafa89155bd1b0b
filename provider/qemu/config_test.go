package qemu

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-ci/muster/provider"
)

// S4-51: every problem of a section is told at once, with its key.
func TestConfigTellsEveryProblem(t *testing.T) {
	_, err := Kind().Read(json.RawMessage(`{"qemu": "no-such-qemu", "accel": "hvf", "image": "", "machines_dir": "nowhere", "max": 0, "cpus": 0,
		"memory_mib": 8, "egress": ["nonsense"], "taps": ["much-too-long-a-name"], "grace": "-1s", "colour": "red", "warm": "yes"}`),
		provider.Env{Name: "vm", Owner: "test", DataDir: t.TempDir(), Dir: t.TempDir()})
	for _, key := range []string{"qemu:", "accel:", "image:", "machines_dir:", "max:", "cpus:", "memory_mib:", "egress:", "taps:", "grace:", "colour:", "warm:"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s is missing in %v", key, err)
		}
	}
}

func TestConfigPaths(t *testing.T) {
	data, dir := t.TempDir(), t.TempDir()
	tools := t.TempDir()
	for _, name := range []string{"qemu-system-x86_64", "qemu-img"} {
		if err := os.WriteFile(filepath.Join(tools, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "boxes"), 0o755); err != nil {
		t.Fatal(err)
	}
	section, err := json.Marshal(map[string]any{"qemu": filepath.Join(tools, "qemu-system-x86_64"), "machines_dir": "boxes", "egress": []string{"*.example.com:443"}, "taps": []string{"tap0"}, "max": 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Kind().Read(section, provider.Env{Name: "vm", Owner: "test", DataDir: data, Dir: dir}); err != nil {
		t.Errorf("a good section: %v", err)
	}
}

// The pages that operators read are made of this.
func TestDescription(t *testing.T) {
	d := Kind().Description
	if d.Kind != "qemu" || len(d.Settings) == 0 || d.Example == "" || !strings.Contains(d.Guide, "## When it fails") {
		t.Errorf("%+v", d)
	}
}

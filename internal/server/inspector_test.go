package server

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/secretbox"
	"github.com/muster-ci/muster/internal/trace/attest"
)

// The keys of attestations rotate with the box's: a new one signs, the older ones still verify.
func TestAttestationKeys(t *testing.T) {
	ids := func(keys ...byte) (out []string) {
		t.Helper()
		var raw [][]byte
		for _, k := range keys {
			raw = append(raw, bytes.Repeat([]byte{k}, secretbox.KeySize))
		}
		box, err := secretbox.New(raw...)
		if err != nil {
			t.Fatal(err)
		}
		made, err := attestationKeys(box)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range made {
			out = append(out, attest.KeyID(k.Public().(ed25519.PublicKey)))
		}
		return out
	}
	before, after := ids(1), ids(2, 1)
	if len(before) != 1 || len(after) != 2 || after[0] == before[0] || after[1] != before[0] {
		t.Errorf("%v, then %v", before, after)
	}
}

// Rules of one's own are read beside the shipped ones, and what is wrong with them is told.
func TestDetectionRules(t *testing.T) {
	shipped, err := detectionRules(config.Traces{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "own.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("rules:\n  - name: own\n    title: own\n    severity: low\n    on: [net_connect]\n    when: port == 1\n    explanation: x\n    remedy: y\n")
	if all, err := detectionRules(config.Traces{Rules: dir}); err != nil || len(all.List()) != len(shipped.List())+1 {
		t.Error(err)
	}
	write("rules:\n  - name: own\n    when: prot == 1\n")
	if _, err := detectionRules(config.Traces{Rules: dir}); err == nil || !strings.Contains(err.Error(), "traces.rules") {
		t.Error(err)
	}
	if _, err := detectionRules(config.Traces{Rules: filepath.Join(dir, "none")}); err == nil || !strings.Contains(err.Error(), "is no folder") {
		t.Error(err)
	}
}

package server

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
)

func TestUnsupported(t *testing.T) {
	kept := muster.Pool{Name: "vms-fine", Lifecycle: muster.LifecycleKept, Registration: muster.RegistrationPreregistered, Machine: "vm"}
	nameless, jit, byHand, token := kept, kept, muster.Pool{Name: "by-hand", Registration: muster.RegistrationPreregistered}, kept
	token.Name, token.Registration = "token", muster.RegistrationToken
	fine := muster.Pool{Name: "registers-itself", Labels: muster.Labels{"linux"}, Registration: muster.RegistrationToken} // C4
	hostile := fine
	hostile.Name, hostile.Labels = "hostile", muster.Labels{"--replace"} // 4-32
	nameless.Name, nameless.Machine = "nameless", ""
	jit.Name, jit.Registration = "jit", muster.RegistrationJIT
	if err := unsupported(config.Config{Pools: []muster.Pool{muster.Pool{Name: "fine"}.WithDefaults(), kept, fine.WithDefaults()}}); err != nil {
		t.Error(err)
	}
	for _, p := range []muster.Pool{nameless, jit, byHand, token, hostile} {
		if err := unsupported(config.Config{Pools: []muster.Pool{p.WithDefaults(), kept}}); err == nil || !strings.Contains(err.Error(), "pool "+p.Name+": ") || strings.Contains(err.Error(), "fine") {
			t.Errorf("%s: got %v", p.Name, err)
		}
	}
}

func TestCheckTellsEverythingAtOnce(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	write("app.pem", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	write("hook", "a webhook secret of some length")
	write("muster.yaml", `apps: [{name: main, id: 1, private_key_file: app.pem, webhook_secret_file: hook}]
providers:
  - {name: a, kind: teleporter}
  - name: b
    kind: process
    config: {runner_dirr: x, max: -1}
offerings: [{name: small, cpus: 1}]
pools: [{name: p, scope: acme, labels: [x], provider: b, offering: small, lifecycle: kept, scaling: {max_runners: 1}}]
`)
	cfg, err := config.Load(filepath.Join(dir, "muster.yaml"), func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	err = Check(cfg)
	problems, ok := errors.AsType[config.Problems](err)
	if !ok || len(problems) < 4 {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{`kind "teleporter" is unknown`, "runner_dirr", "max", "lifecycle kept"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing is said of %q in:\n%v", want, err)
		}
	}
	for _, p := range problems[:3] {
		if p.Line == 0 {
			t.Errorf("no line in %v", p)
		}
	}
}

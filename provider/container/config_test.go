package container

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
)

func TestDescription(t *testing.T) { providertest.Describe(t, Kind()) }

func TestEveryProblemAtOnce(t *testing.T) {
	section := `{
		"host": "ssh://there", "agent": "agent", "pull": "sometimes", "pull_timeout": "1ms", "runner_dir": "home", "user": "a b",
		"env": {"MUSTER_URL": "x", "1x": "y"}, "cpus": -1, "memory_mib": 4, "pids": 3, "capabilities": ["CAP_SYS_ADMIN"],
		"network": "a b", "internal": true, "hosts": ["nothing"], "isolation": "jail", "gpus": ["0", "0"], "sidecar": {"image": "A b"},
		"max": 0, "grace": "2m", "image": "B a", "unknown": 1,
		"registries": [{"host": "https://x", "kind": "azure"}, {"host": "r:5000", "kind": "custom", "username": "u"}, {"host": "e", "kind": "aws", "username": "me"}]
	}`
	_, err := Kind().Read(json.RawMessage(section), provider.Env{Name: "x", Owner: "muster", Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		t.Fatal("it is taken")
	}
	for _, key := range []string{
		"host:", "agent:", "pull:", "pull_timeout:", "runner_dir:", "user:", "env: MUSTER_URL", `env: "1x"`, "cpus:", "memory_mib:", "pids:", "capabilities:",
		"network:", "internal:", "hosts:", "isolation:", "gpus:", "sidecar:", "max:", "grace:", "image:", "unknown:",
		"registries: https://x", "kind: \"azure\"", "r:5000", "registries: e: aws needs", "knows only AWS",
	} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("nothing is said of %s in\n%v", key, err)
		}
	}
}

func TestSettings(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"agent", "key.json", "password"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	env := provider.Env{Name: "x", Owner: "muster", Dir: dir, Logger: slog.New(slog.DiscardHandler)}
	read := func(section string) error {
		open, err := Kind().Read(json.RawMessage(section), env)
		if err != nil {
			return err
		}
		p, err := open()
		if err == nil {
			err = p.(*Provider).Close()
		}
		return err
	}
	for _, good := range []string{
		`{"agent": "agent"}`,
		`{"agent": "agent", "host": "tcp://engine:2375"}`,
		`{"agent": "agent", "isolation": "gvisor", "runtime": "runsc-kvm"}`,
		`{"agent": "agent", "network": "workspace", "internal": true, "hosts": ["muster:host-gateway"]}`,
		`{"agent": "agent", "registries": [{"host": "eu.gcr.io", "kind": "gcp", "key_file": "key.json"}, {"host": "1.dkr.ecr.eu-west-1.amazonaws.com", "kind": "aws", "helper": ["x"]}, {"host": "r:5", "kind": "custom", "username": "u", "password_file": "password"}]}`,
		`{"agent": "agent", "sidecar": {"image": "docker:dind", "privileged": true}}`,
	} {
		if err := read(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, word := range map[string]string{
		`{"agent": "agent", "isolation": "gvisor", "runtime": "runc"}`:                                                                           "gives isolation runc",
		`{"agent": "agent", "host": "tcp://engine:2375", "read_only_root": true}`:                                                                "read_only_root",
		`{"agent": "agent", "tls_dir": "tls"}`:                                                                                                   "tls_dir",
		`{"agent": "agent", "network": "none", "sidecar": {"image": "docker:dind"}}`:                                                             "sidecar",
		`{"agent": "agent", "registries": [{"host": "r", "kind": "custom", "username": "u", "password_file": "gone"}]}`:                          "no such file",
		`{"agent": "agent", "registries": [{"host": "r", "kind": "gcp", "key_file": "key.json", "helper": ["x"]}]}`:                              "exclude each other",
		`{"agent": "agent", "registries": [{"host": "r", "kind": "aws", "helper": ["x"]}, {"host": "r", "kind": "aws", "helper": ["x"]}]}`:       "twice",
		`{"agent": "agent", "registries": [{"host": "r", "kind": "custom", "username": "u", "password_file": "password", "password_env": "X"}]}`: "keep one",
		`{"agent": "agent", "registries": [{"host": "r", "kind": "custom", "username": "u", "password": "written here"}]}`:                       "password",
		`{"agent": "agent", "registries": [{"host": "r", "kind": "gcp", "username": "u", "password_env": "X"}]}`:                                 "has its own",
	} {
		if err := read(bad); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestFindHost(t *testing.T) {
	env := func(vars map[string]string) func(string) string {
		return func(name string) string { return vars[name] }
	}
	if got := findHost("unix:///a", env(map[string]string{"DOCKER_HOST": "unix:///b"})); got != "unix:///a" {
		t.Errorf("configured: %s", got)
	}
	if got := findHost("", env(map[string]string{"DOCKER_HOST": "unix:///b"})); got != "unix:///b" {
		t.Errorf("DOCKER_HOST: %s", got)
	}
	if got := findHost("", env(nil)); !strings.HasPrefix(got, "unix:///") {
		t.Errorf("by itself: %s", got)
	}
}

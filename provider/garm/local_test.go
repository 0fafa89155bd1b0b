package garm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
)

var built struct {
	sync.Once
	dir string
	err error
}

// executable is an external provider that was written on garm-provider-common, the
// library of GARM's own providers. Its cloud is this machine.
func executable(t testing.TB) string {
	t.Helper()
	built.Do(func() {
		if runtime.GOOS != "linux" {
			built.err = fmt.Errorf("its cloud is a Linux machine, and this one is %s", runtime.GOOS)
			return
		}
		var errs bytes.Buffer
		cmd := exec.Command("../../internal/tools/garmproviders/build.sh")
		cmd.Stderr = &errs
		out, err := cmd.Output()
		built.dir = strings.TrimSpace(string(out))
		if err != nil {
			built.err = fmt.Errorf("build GARM's providers: %w\n%s", err, errs.Bytes())
		}
	})
	if built.err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(built.err)
		}
		t.Skipf("no external provider: %v", built.err)
	}
	return filepath.Join(built.dir, "garm-provider-local")
}

// settings are the executable's own configuration; see its config.
type settings map[string]any

// local is a cloud: a directory with its machines.
type local struct {
	exe, dir string
}

func newLocal(t testing.TB) local {
	l := local{exe: executable(t), dir: t.TempDir()}
	t.Cleanup(func() {
		for _, m := range l.machines(t) {
			m.kill()
		}
	})
	return l
}

// config is a provider's configuration with a cloud's settings.
func (l local) config(t interface{ Fatalf(string, ...any) }, owner string, own settings) Config {
	all := settings{"root": filepath.Join(l.dir, "cloud"), "journal": filepath.Join(l.dir, "journal")}
	for k, v := range own {
		all[k] = v
	}
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatalf("settings: %v", err)
	}
	f, err := os.CreateTemp(l.dir, "config-*.json")
	if err != nil {
		t.Fatalf("settings: %v", err)
	}
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		t.Fatalf("settings: %v", err)
	}
	c := Defaults()
	c.Executable, c.ConfigFile, c.Owner, c.Name, c.Dir = l.exe, f.Name(), owner, "local", filepath.Join(l.dir, "records")
	c.Max, c.Settle = 1000, 0
	c.Environ = []string{"PATH=" + os.Getenv("PATH"), "SECRET_OF_THE_HOST=" + hostSecret}
	c.EnvironmentVariables = []string{"PATH"}
	return c
}

const hostSecret = "canary-of-the-host-90d1"

func open(t interface{ Fatalf(string, ...any) }, c Config) *Provider {
	p, err := New(c)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return p
}

// vm is a machine as the cloud keeps it.
type vm struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Controller string `json:"controller"`
	Pool       string `json:"pool"`
	Image      string `json:"image"`
	Flavor     string `json:"flavor"`
	PID        int    `json:"pid"`
	Start      string `json:"start"`
	dir        string
}

func (l local) machines(t interface{ Fatalf(string, ...any) }) (out []vm) {
	files, err := filepath.Glob(filepath.Join(l.dir, "cloud", "machines", "*", "machine.json"))
	if err != nil {
		t.Fatalf("machines: %v", err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			continue
		}
		v := vm{dir: filepath.Dir(name)}
		if err == nil {
			err = json.Unmarshal(text, &v)
		}
		if err != nil {
			t.Fatalf("machine %s: %v", name, err)
		}
		out = append(out, v)
	}
	return out
}

// of are the machines of a runner, by the name that p gives them.
func (l local) of(t interface{ Fatalf(string, ...any) }, p *Provider, id muster.RunnerID) (out []vm) {
	for _, m := range l.machines(t) {
		if m.Name == p.prefix+string(id) {
			out = append(out, m)
		}
	}
	return out
}

func (v vm) alive() bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(v.PID) + "/stat")
	if err != nil {
		return false
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	return len(f) > 19 && f[19] == v.Start && f[0] != "Z"
}

func (v vm) kill() {
	if v.alive() {
		_ = syscall.Kill(v.PID, syscall.SIGKILL) // it may have ended
	}
}

// put makes a machine that exists already and is stopped.
func (l local) put(t providertest.T, name string) {
	dir := filepath.Join(l.dir, "cloud", "machines", "kept-"+name)
	text, err := json.Marshal(map[string]any{"id": "kept-" + name, "name": name})
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "machine.json"), text, 0o644)
	}
	if err != nil {
		t.Fatalf("make machine %s: %v", name, err)
	}
}

// entry is one call in the executable's journal.
type entry struct {
	Command string   `json:"command"`
	Env     []string `json:"env"`
	PID     int      `json:"pid"`
}

func (l local) journal(t interface{ Fatalf(string, ...any) }) (out []entry) {
	text, err := os.ReadFile(filepath.Join(l.dir, "journal"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatalf("journal: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("journal: %v", err)
		}
		out = append(out, e)
	}
	return out
}

func spec(id muster.RunnerID) provider.Spec {
	return provider.Spec{Runner: id, Owner: "tests", Workspace: "default", Pool: "linux", Boot: provider.Boot{URL: "http://127.0.0.1:9/", Token: providertest.Token}}
}

// eventually polls what another process changes.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatalf("after a minute: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// open files that others than their owner may read, below dir.
func readable(dir string, into map[string]string) {
	_ = filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // it went away meanwhile
		}
		if info, err := d.Info(); err == nil && info.Mode()&0o044 != 0 && info.Size() < 1<<20 {
			if text, err := os.ReadFile(name); err == nil {
				into[name] = string(text)
			}
		}
		return nil
	})
}

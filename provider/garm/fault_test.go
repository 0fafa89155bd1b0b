package garm

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
)

// stub is an executable of a few lines of shell. It may use $DIR.
func stub(t testing.TB, script string) Config {
	t.Helper()
	dir := t.TempDir()
	exe := filepath.Join(dir, "garm-provider-stub")
	text := "#!/bin/sh\nPATH=/usr/bin:/bin\nDIR='" + dir + "'\n" + script
	if err := errors.Join(os.WriteFile(exe, []byte(text), 0o755), os.WriteFile(filepath.Join(dir, "config"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	c := Defaults()
	c.Executable, c.ConfigFile, c.Owner, c.Name, c.Dir, c.Settle = exe, filepath.Join(dir, "config"), "tests", "stub", filepath.Join(dir, "records"), 0
	c.Environ = []string{"PATH=/nowhere", "HOME=/root", "CLOUD_KEY=for-the-cloud", "GARM_SECRET=x", "SECRET_OF_THE_HOST=" + hostSecret, "https_proxy=http://proxy:3128"}
	return c
}

// cleared removes a runner and demands that nothing is left.
func cleared(t *testing.T, p *Provider, id muster.RunnerID) {
	t.Helper()
	eventually(t, string(id)+" is not gone", func() bool {
		err := p.Delete(t.Context(), id)
		if err != nil && !errors.Is(err, provider.ErrNotFound) {
			t.Fatalf("delete: %v", err)
		}
		return err != nil
	})
	if _, err := p.Get(t.Context(), id); !errors.Is(err, provider.ErrNotFound) {
		t.Errorf("get after delete: %v", err)
	}
	files, _ := filepath.Glob(filepath.Join(p.dir, p.prefix+"*"))
	if len(files) > 0 {
		t.Errorf("left: %v", files)
	}
}

// The environment is the interface's, and nothing else of the host's gets out.
func TestEnvironment(t *testing.T) {
	for _, c := range []struct {
		version, command string
		want             []string
	}{
		{Version010, cmdCreate, []string{"GARM_POOL_ID"}},
		{Version010, cmdList, []string{"GARM_POOL_ID"}},
		{Version010, cmdGet, []string{"GARM_INSTANCE_ID"}},
		{Version010, cmdDelete, []string{"GARM_INSTANCE_ID"}},
		{Version010, cmdRemoveAll, nil},
		{Version011, cmdCreate, []string{"GARM_POOL_ID", "GARM_POOL_EXTRASPECS"}},
		{Version011, cmdList, []string{"GARM_POOL_ID", "GARM_POOL_EXTRASPECS"}},
		{Version011, cmdGet, []string{"GARM_POOL_ID", "GARM_INSTANCE_ID", "GARM_POOL_EXTRASPECS"}},
		{Version011, cmdDelete, []string{"GARM_POOL_ID", "GARM_INSTANCE_ID", "GARM_POOL_EXTRASPECS"}},
		{Version011, cmdStart, []string{"GARM_POOL_ID", "GARM_INSTANCE_ID", "GARM_POOL_EXTRASPECS"}},
		{Version011, cmdStop, []string{"GARM_POOL_ID", "GARM_INSTANCE_ID", "GARM_POOL_EXTRASPECS"}},
		{Version011, cmdRemoveAll, []string{"GARM_POOL_EXTRASPECS"}},
		{Version011, cmdValidate, []string{"GARM_POOL_ID", "GARM_POOL_EXTRASPECS"}},
	} {
		cfg := stub(t, `env > "$DIR/env"; cat > "$DIR/stdin"; echo "args: $#" >> "$DIR/env"`)
		cfg.InterfaceVersion = c.version
		cfg.EnvironmentVariables = []string{"CLOUD_"}
		cfg.ExtraSpecs = map[string]json.RawMessage{"network": json.RawMessage(`"x"`)}
		p := open(t, cfg)
		if _, err := p.call(t.Context(), time.Minute, c.command, "machine", nil, ""); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(filepath.Dir(cfg.Executable), "env"))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for line := range strings.Lines(string(text)) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			got[k] = v
		}
		want := append([]string{
			"GARM_COMMAND", "GARM_CONTROLLER_ID", "GARM_PROVIDER_CONFIG_FILE", "GARM_INTERFACE_VERSION", "CLOUD_KEY", "https_proxy", "args: 0",
		}, c.want...)
		for name := range got {
			if !slices.Contains(want, name) && name != "PATH" && name != "PWD" && name != "OLDPWD" && name != "SHLVL" && name != "_" {
				t.Errorf("%s %s: %s is set", c.version, c.command, name)
			}
		}
		for _, name := range want {
			if _, ok := got[name]; !ok {
				t.Errorf("%s %s: %s is not set", c.version, c.command, name)
			}
		}
		if got["GARM_COMMAND"] != c.command || got["GARM_INTERFACE_VERSION"] != c.version || got["GARM_CONTROLLER_ID"] != p.controller {
			t.Errorf("%s %s: %v", c.version, c.command, got)
		}
		if specs, ok := got["GARM_POOL_EXTRASPECS"]; ok {
			if b, err := base64.StdEncoding.DecodeString(specs); err != nil || string(b) != `{"network":"x"}` {
				t.Errorf("extra specs %q, %v", b, err)
			}
		}
	}
}

// What CreateInstance reads is what the interface says, key by key; labels and names
// that an attacker may choose are in none of it (4-32).
func TestBootstrap(t *testing.T) {
	cfg := stub(t, `cat > "$DIR/stdin"; echo '{"provider_id": "i-1", "name": "'"$(sed 's/.*"name":"\([^"]*\)".*/\1/' "$DIR/stdin")"'", "status": "running"}'`)
	cfg.Image, cfg.Flavors = "default-image", map[string]string{"small": "m1.small"}
	cfg.ExtraPackages, cfg.NoProxy = []string{"git"}, "127.0.0.1"
	p := open(t, cfg)
	s := spec("r-boot")
	s.Pool, s.Workspace, s.TraceID = "$(evil)", "`evil`", "\"evil\""
	s.Offering = muster.Offering{Name: "small", Image: "debian:12"}
	s.Build = muster.BuildRequest{GitHubURL: "https://github.com/acme", Labels: "evil", Owner: "evil"}
	s.Boot.URL = "https://muster.example.com/"
	// GetInstance and ListInstances answer like CreateInstance here, so that the machine
	// would be found; what is tested is what was read.
	if _, err := p.make(t.Context(), s, record{Runner: s.Runner, Name: p.prefix + "r-boot"}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(cfg.Executable), "stdin"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "evil") {
		t.Errorf("foreign text in %s", text)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	tools, _ := got["tools"].([]any)
	delete(got, "tools")
	want := map[string]any{
		"name": p.prefix + "r-boot", "repo_url": "https://github.com/acme", "callback-url": "https://muster.example.com/api/v1/callbacks",
		"metadata-url": "https://muster.example.com/api/v1/metadata", "instance-token": providertest.Token, "ssh-keys": nil,
		"extra_specs": map[string]any{}, "github-runner-group": "", "ca-cert-bundle": nil, "arch": "amd64", "os_type": "linux",
		"flavor": "m1.small", "image": "debian:12", "labels": []any{}, "pool_id": p.pool, "jit_config_enabled": true,
		"user_data_options": map[string]any{"disable_updates_on_boot": false, "extra_packages": []any{"git"}, "enable_boot_debug": false},
		"proxy_config":      map[string]any{"http_proxy": "", "https_proxy": "", "no_proxy": "127.0.0.1"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if len(tools) != 6 {
		t.Fatalf("%d tools", len(tools))
	}
	if one, _ := tools[0].(map[string]any); one["os"] != "linux" || one["architecture"] != "x64" || one["filename"] != "actions-runner-linux-x64.tar.gz" ||
		one["download_url"] != "https://muster.example.com/api/v1/metadata/tools/runner/linux/x64" || one["temp_download_token"] != providertest.Token {
		t.Errorf("%v", one)
	}
}

// Creation refused: each way of saying no has its class, in the platform's words, and
// leaves nothing once it was deleted.
func TestCreateRefused(t *testing.T) {
	long := strings.Repeat("x", 1<<20) + " the cause stands at the end"
	for name, c := range map[string]struct {
		fault settings
		class error
		words string
		never string
	}{
		"quota":         {settings{"exit": 1, "stderr": "Quota exceeded for cores"}, provider.ErrQuota, "Quota exceeded for cores", ""},
		"vcpu limit":    {settings{"exit": 1, "stderr": "VcpuLimitExceeded: you have requested more vCPU capacity"}, provider.ErrQuota, "", ""},
		"no host":       {settings{"exit": 1, "stderr": "No valid host was found"}, provider.ErrCapacity, "", ""},
		"no capacity":   {settings{"exit": 1, "stderr": "InsufficientInstanceCapacity: We currently do not have"}, provider.ErrCapacity, "", ""},
		"rate limit":    {settings{"exit": 1, "stderr": "RequestLimitExceeded"}, provider.ErrTransient, "", ""},
		"invalid":       {settings{"exit": 1, "stderr": "InvalidParameterValue: flavor"}, provider.ErrInvalid, "", ""},
		"anything else": {settings{"exit": 1, "stderr": "connection reset"}, provider.ErrTransient, "connection reset", ""},
		"stdout only":   {settings{"exit": 1, "stdout": "said on standard output"}, provider.ErrTransient, "said on standard output", ""},
		"no such image": {settings{"exit": 30, "stderr": "image not found"}, provider.ErrInvalid, "image not found", ""},
		"duplicate":     {settings{"exit": 31, "stderr": "exists"}, provider.ErrTransient, "exists", ""},
		"another code":  {settings{"exit": 77}, provider.ErrTransient, "77", ""},
		"escapes":       {settings{"exit": 1, "stderr": "\x1b[31mred\x1b[0m\n\x00two\u202elines"}, provider.ErrTransient, "red twolines", "\x1b"},
		"long":          {settings{"exit": 1, "stderr": long}, provider.ErrTransient, "the cause stands at the end", strings.Repeat("x", 2000)},
		"token":         {settings{"exit": 1, "stderr": "bad bootstrap {instance-token: " + providertest.Token + "}"}, provider.ErrTransient, "withheld", providertest.Token},
		"token encoded": {settings{"exit": 1, "stderr": base64.StdEncoding.EncodeToString([]byte("BEARER_TOKEN=\"" + providertest.Token + "\"\n"))}, provider.ErrTransient, "withheld", "QkVBUk"},
		"no JSON":       {settings{"stdout": "<html>gateway timeout</html>"}, provider.ErrTransient, "gateway timeout", ""},
		"two values":    {settings{"stdout": `{"provider_id": "a"} {"b": 1}`}, provider.ErrTransient, "not the JSON", ""},
		"no id":         {settings{"stdout": `{"name": "x", "status": "running"}`}, provider.ErrTransient, "provider_id", ""},
		"other name":    {settings{"stdout": `{"provider_id": "i-1", "name": "of-somebody-else", "status": "running"}`}, provider.ErrTransient, "of-somebody-else", ""},
		"in error": {settings{"stdout": `{"provider_id": "i-1", "name": "x", "status": "error", "provider_fault": "` + base64.StdEncoding.EncodeToString([]byte("No valid host was found")) + `"}`},
			provider.ErrCapacity, "No valid host", ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLocal(t)
			p := open(t, l.config(t, "tests", settings{"faults": settings{cmdCreate: c.fault}}))
			_, err := p.Create(t.Context(), spec("r-one"))
			if !errors.Is(err, c.class) {
				t.Errorf("not %v: %v", c.class, err)
			}
			if text := fmt.Sprint(err); !strings.Contains(text, c.words) || c.never != "" && strings.Contains(text, c.never) || len(text) > 4<<10 {
				t.Errorf("%.3000q", text)
			}
			in, err := p.Get(t.Context(), "r-one")
			if err != nil || in.State != provider.InstanceEnded && in.State != provider.InstanceStarting {
				t.Errorf("a creation that failed is cleaned up by Delete: %+v, %v", in, err)
			}
			cleared(t, p, "r-one")
			if left := l.machines(t); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
	providertest.Survived(t, "garm", "creation refused: quota, capacity, invalid parameters, an answer that is no answer")
}

// 4-51: creation lost. The machine is made and the executable fails, prints nothing
// of use, hangs until it is killed, or the control plane dies: it is found again, and
// there is one.
func TestCreateLost(t *testing.T) {
	for name, f := range map[string]settings{
		"fails after":        {"after": true, "exit": 1, "stderr": "timeout while waiting for ACTIVE"},
		"answers with noise": {"after": true, "stdout": "WARNING: this is not JSON\n"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLocal(t)
			f["once"] = filepath.Join(l.dir, "once")
			cfg := l.config(t, "tests", settings{"faults": settings{cmdCreate: f}})
			if in, err := open(t, cfg).Create(t.Context(), spec("r-one")); err == nil {
				t.Fatalf("%+v", in)
			}
			p := open(t, cfg) // a new control plane
			again, err := p.Create(t.Context(), spec("r-one"))
			if err != nil || again.State != provider.InstanceRunning || len(l.of(t, p, "r-one")) != 1 {
				t.Errorf("%+v, %v, %d machines", again, err, len(l.of(t, p, "r-one")))
			}
			cleared(t, p, "r-one")
		})
	}
	providertest.Survived(t, "garm", "creation lost and retried")
}

// A call that hangs ends with its context or its own limit, and the executable with
// all its helpers; what it had made is found and deleted.
func TestHangs(t *testing.T) {
	l := newLocal(t)
	never := filepath.Join(l.dir, "never")
	cfg := l.config(t, "tests", settings{"faults": settings{cmdCreate: settings{"after": true, "hang": never}}})
	p := open(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := p.Create(ctx, spec("r-one")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("create: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	own := 0
	for _, e := range l.journal(t) {
		eventually(t, "the executable lives", func() bool { _, err := os.Stat("/proc/" + strconv.Itoa(e.PID)); return err != nil })
		own += groupOf(t, e.PID)
	}
	if own > 0 {
		t.Errorf("%d helpers of the executable live", own)
	}
	cleared(t, open(t, cfg), "r-one")
	if left := l.machines(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	cfg = l.config(t, "tests", settings{"faults": settings{cmdList: settings{"hang": never}, cmdGet: settings{"hang": never}, cmdDelete: settings{"hang": never}}})
	cfg.ExecTimeout = provider.Duration(time.Second)
	p = open(t, cfg)
	if _, err := p.Get(t.Context(), "r-two"); !errors.Is(err, provider.ErrTransient) {
		t.Errorf("get: %v", err)
	}
	if err := p.Delete(t.Context(), "r-two"); !errors.Is(err, provider.ErrTransient) {
		t.Errorf("delete: %v", err)
	}
	for _, err := range p.List(t.Context()) {
		if !errors.Is(err, provider.ErrTransient) {
			t.Errorf("list: %v", err)
		}
	}
	providertest.Survived(t, "garm", "a hanging executable, killed with its helpers")
}

// groupOf counts the processes of a process group that live.
func groupOf(t *testing.T, group int) (n int) {
	t.Helper()
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range all {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(f) > 2 && f[2] == strconv.Itoa(group) && f[0] != "Z" {
			n++
		}
	}
	return n
}

// An outcome that is not known keeps a runner from being proven gone for as long as
// the platform may still come up with its machine.
func TestSettles(t *testing.T) {
	l := newLocal(t)
	never := filepath.Join(l.dir, "never")
	cfg := l.config(t, "tests", settings{"faults": settings{cmdCreate: settings{"hang": never}}})
	cfg.Settle = provider.Duration(8 * time.Second) // two calls come within it
	p := open(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := p.Create(ctx, spec("r-one")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err := p.Delete(t.Context(), "r-one"); err != nil {
		t.Errorf("it is said to be gone at once: %v", err)
	}
	if in, err := p.Get(t.Context(), "r-one"); err != nil || in.State != provider.InstanceStarting {
		t.Errorf("%+v, %v", in, err)
	}
	cleared(t, p, "r-one")
}

// 4-51: the control plane was killed between made and recorded, or its records are
// lost: machines are found by the platform's list, and are not made twice.
func TestRecordsLost(t *testing.T) {
	l := newLocal(t)
	cfg := l.config(t, "tests", nil)
	p := open(t, cfg)
	first, err := p.Create(t.Context(), spec("r-one"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(p.dir); err != nil {
		t.Fatal(err)
	}
	p = open(t, cfg)
	seen := 0
	for in, err := range p.List(t.Context()) {
		if err != nil || in.ID != first.ID || in.Runner != "r-one" || in.State != provider.InstanceRunning || time.Since(in.CreatedAt) > time.Minute {
			t.Errorf("%+v, %v", in, err)
		}
		seen++
	}
	if again, err := p.Create(t.Context(), spec("r-one")); err != nil || again.ID != first.ID || seen != 1 {
		t.Errorf("%+v, %v; %d listed", again, err, seen)
	}
	cleared(t, p, "r-one")
	providertest.Survived(t, "garm", "control plane killed between made and recorded; its records lost")
}

// A platform that made a machine twice has one instance for us, and none after Delete.
func TestDoubles(t *testing.T) {
	l := newLocal(t)
	p := open(t, l.config(t, "tests", settings{"doubles": true}))
	s := spec("r-one")
	if _, err := p.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	r, _, err := p.load(p.prefix + "r-one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.make(t.Context(), s, r); err != nil { // as of another control plane, at the same moment
		t.Fatal(err)
	}
	if n := len(l.of(t, p, "r-one")); n != 2 {
		t.Fatalf("%d machines", n)
	}
	n := 0
	for range p.List(t.Context()) {
		n++
	}
	if n != 1 {
		t.Errorf("%d instances", n)
	}
	cleared(t, p, "r-one")
	if left := l.machines(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Two providers of one owner on one cloud do not see each other's machines, and what
// is deleted for an uninstall is the owner's alone.
func TestUninstall(t *testing.T) {
	l := newLocal(t)
	other, mine, second := l.config(t, "others", nil), l.config(t, "tests", nil), l.config(t, "tests", nil)
	second.Name, other.Max = "second", 7
	var ps []*Provider
	for i, cfg := range []Config{other, mine, second} {
		p := open(t, cfg)
		s := spec(muster.RunnerID("r-" + strconv.Itoa(i)))
		s.Owner = cfg.Owner
		if _, err := p.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		n := 0
		for in, err := range p.List(t.Context()) {
			if n++; err != nil || in.Runner != s.Runner {
				t.Errorf("%+v, %v", in, err)
			}
		}
		if n != 1 {
			t.Errorf("%d instances", n)
		}
		ps = append(ps, p)
	}
	if err := ps[1].RemoveAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	left := l.machines(t)
	if len(left) != 1 || left[0].Controller != ps[0].controller {
		t.Errorf("left: %+v", left)
	}
	for i, p := range ps[1:] {
		cleared(t, p, muster.RunnerID("r-"+strconv.Itoa(i+1)))
	}
	providertest.Survived(t, "garm", "uninstall beside another owner leaves nothing")
}

// What v0.1.1 has beyond creating and deleting, through the library's own code. Its
// ListInstances, which GARM itself cannot read, is among what the suite checks.
func TestInspects(t *testing.T) {
	l := newLocal(t)
	cfg := l.config(t, "tests", nil)
	cfg.InterfaceVersion = Version011
	p := open(t, cfg)
	if v, err := p.Version(t.Context()); v != "local-1" || err != nil {
		t.Errorf("version %q, %v", v, err)
	}
	if v, err := p.InterfaceVersions(t.Context()); err != nil || !slices.Equal(v, []string{Version010, Version011}) {
		t.Errorf("versions %v, %v", v, err)
	}
	if c, s, err := p.Schemas(t.Context()); err != nil || !strings.Contains(string(c), "required") || !strings.Contains(string(s), "object") {
		t.Errorf("schemas %s %s, %v", c, s, err)
	}
	if err := p.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	cfg.ExtraSpecs = map[string]json.RawMessage{"x": json.RawMessage(`"refuse-me"`)}
	if err := open(t, cfg).Check(t.Context()); err != nil && !errors.Is(err, provider.ErrTransient) {
		t.Errorf("check: %v", err)
	}
	cfg.InterfaceVersion = Version010
	p = open(t, cfg)
	if _, _, err := p.Schemas(t.Context()); !errors.Is(err, provider.ErrTransient) || !strings.Contains(err.Error(), "GARM_COMMAND") {
		t.Errorf("schemas of v0.1.0: %v", err)
	}
	if err := p.Check(t.Context()); err != nil {
		t.Errorf("check of v0.1.0: %v", err)
	}
}

// A section that is wrong is told everything at once.
func TestConfigProblems(t *testing.T) {
	cert := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(cert, []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	section := fmt.Sprintf(`{"executable": "no-such", "config_file": "", "interface_version": "v9", "environment_variables": ["A=B", "GARM_X"], "extra_specs": {"runner_install_template": "???"},
		"os_type": "macos", "arch": "i386", "repo_url": "x", "ca_cert_file": %q, "extra_packages": ["a b; rm"], "create_timeout": "1h", "exec_timeout": "0s", "connect_timeout": "1ms", "settle": "-1s",
		"max": 0, "calls": 0, "evil": 1}`, cert)
	_, err := Kind().Read(json.RawMessage(section), provider.Env{Name: "x", Owner: "x", DataDir: t.TempDir(), Dir: t.TempDir()})
	if err == nil {
		t.Fatal("taken")
	}
	for _, key := range []string{"executable", "config_file", "interface_version", `"A=B"`, "GARM_X", "runner_install_template", "os_type", "arch", "repo_url", "ca_cert_file", "extra_packages", "create_timeout", "exec_timeout", "connect_timeout", "settle", "max:", "calls", "evil"} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("nothing is said of %s", key)
		}
	}
}

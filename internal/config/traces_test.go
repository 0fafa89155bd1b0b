package config_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
)

const traced = `apps: [{name: a, token_env: T}]
providers: [{name: local, kind: process}]
pools:
  - name: p
    scope: octo
    labels: [x]
    trace: {max_events: 0, max_mib: 5}
    egress: {mode: enforce, allow: [proxy.golang.org, "*.example.com:443"], no_github: true}
`

func TestTraces(t *testing.T) {
	dir := t.TempDir()
	load := func(text string) (config.Config, error) {
		return config.Load(write(t, dir, "muster.yaml", text), env("T", "ghp_0123456789"))
	}
	c, err := load(traced)
	if err != nil {
		t.Fatal(err)
	}
	want := config.Traces{Bucket: config.FolderURL(dir + "/muster-data/traces"), Retention: 30 * 24 * time.Hour, SealDeadline: 2 * time.Minute}
	if d := cmp.Diff(want, c.Traces); d != "" {
		t.Errorf("defaults:\n%s", d)
	}
	if p := c.Pools[0]; p.Trace != (muster.PoolTrace{MaxEvents: -1, MaxBytes: 5 << 20}) || p.Egress.Mode != "enforce" || len(p.Egress.Allow) != 2 || !p.Egress.NoGitHub {
		t.Errorf("%+v %+v", p.Trace, p.Egress)
	}
	write(t, dir, "out.secret", "hunter2hunter2")
	c, err = load(traced + `traces: {bucket: "s3://traces?region=eu-central-1", retention: 90d, workspaces: [{name: default, retention: 7d}], seal_deadline: 30s}
webhooks_out:
  - {name: security, url: https://example.com/muster, secret_file: out.secret, events: [finding, trace]}
  - {name: here, url: "http://127.0.0.1:9/x", secret_file: out.secret}
`)
	if err != nil {
		t.Fatal(err)
	}
	if c.Traces.Bucket != "s3://traces?region=eu-central-1" || c.Traces.KeptFor("default") != 7*24*time.Hour || c.Traces.KeptFor("other") != 90*24*time.Hour || c.Traces.SealDeadline != 30*time.Second {
		t.Errorf("%+v", c.Traces)
	}
	if h := c.Webhooks; len(h) != 2 || h[0].Secret.Reveal() != "hunter2hunter2" || len(h[0].Events) != 2 || len(h[1].Events) != 1 || h[1].Events[0] != "finding" {
		t.Errorf("%v", h)
	}
	if c, err = load(traced + "traces: {bucket: kept/here}\n"); err != nil || c.Traces.Bucket != config.FolderURL(dir+"/kept/here") {
		t.Errorf("%v, %v", c.Traces.Bucket, err)
	}
	if c, err = load(strings.Replace(traced, "    egress", "    # egress", 1) + "traces: {off: true}\n"); err != nil || c.Traces.Bucket != "" {
		t.Errorf("%v, %v", c.Traces.Bucket, err)
	}
}

func TestTraceProblems(t *testing.T) {
	dir := t.TempDir()
	text := strings.Replace(traced, "mode: enforce", "mode: warn", 1) + `traces: {bucket: "s3://u:hunter2@b", retention: 1m, seal_deadline: 0s, workspaces: [{name: "a b", retention: 1h}]}
webhooks_out:
  - {name: one, url: "http://example.com/x", secret_file: absent}
  - {name: one, url: "ftp://example.com", events: [everything]}
  - {}
`
	text = strings.Replace(text, "max_events: 0", "max_events: -5", 1)
	_, err := config.Load(write(t, dir, "muster.yaml", text), env("T", "ghp_0123456789"))
	problems, ok := errors.AsType[config.Problems](err)
	if !ok {
		t.Fatal(err)
	}
	all := problems.Error()
	for _, want := range []string{"traces.bucket holds a password", "traces.retention must be at least 1h", "traces.seal_deadline must be at least 1s", "no workspace's name", "is not https", "none that can be called", `of "everything"`,
		"has no url", "has no secret", "max_events must not be negative"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not told of in:\n%s", want, all)
		}
	}
	if strings.Contains(all, "hunter2") {
		t.Error("a password is told")
	}
	if _, err := config.Load(write(t, dir, "muster.yaml", strings.Replace(traced, "mode: enforce", "mode: warn", 1)), env("T", "ghp_0123456789")); err == nil || !strings.Contains(err.Error(), `mode "warn"`) {
		t.Error(err)
	}
	if _, err := config.Load(write(t, dir, "muster.yaml", strings.Replace(traced, "max_events: 0", "off: true", 1)), env("T", "ghp_0123456789")); err == nil || !strings.Contains(err.Error(), "recorder, which is off") {
		t.Error(err)
	}
}

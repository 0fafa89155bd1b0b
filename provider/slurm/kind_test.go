package slurm_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
	"github.com/muster-ci/muster/provider/slurm"
)

func TestKind(t *testing.T) {
	providertest.Describe(t, slurm.Kind())
}

// S2-23: the start workflow is a numbered sequence diagram with four participants.
func TestGuideShowsTheStart(t *testing.T) {
	guide := slurm.Kind().Guide
	for _, want := range []string{
		"sequenceDiagram", "autonumber", "participant GitHub", "participant App", "participant Slurm", "participant Runner",
		"workflow_job queued", "POST /runner/start", "launchWorker", "POST /gha/runner", "ephemeral", "the next in the queue", "workflow_job in_progress",
	} {
		if !strings.Contains(guide, want) {
			t.Errorf("the guide does not show %q", want)
		}
	}
}

// A section with everything wrong is told all of it at once, each with its key.
func TestConfigTellsEverything(t *testing.T) {
	open := filepath.Join(t.TempDir(), "open")
	if err := os.WriteFile(open, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		section string
		want    []string
	}{
		"empty": {`{}`, []string{"gateway_url", "gateway_token_file"}},
		"every": {
			`{"transport":"rest","url":"http://slurm.example.com:6820","api_version":"38","user":"","token_file":"` + open + `","partition":"a b","nice":1,"time_limit":"1s","agent":"agent","job_root":"tmp","log":"/tmp/one.log","grace":"1h","max":0,"gateway_url":"https://x","no_such":1}`,
			[]string{"no_such", "gateway_url", "url: ", "api_version", "user: ", "chmod 600", "partition", "time_limit", "agent", "job_root", "log: ", "%j", "grace", "max"},
		},
		"unknown transport": {`{"transport":"ssh"}`, []string{"transport", "gateway, rest or commands"}},
		"two tokens":        {`{"transport":"rest","url":"unix:slurm.sock","user":"Nobody!","token_file":"x","token_command":["scontrol"]}`, []string{"url: ", "user: ", "token_file", "keep one"}},
		"clear text":        {`{"gateway_url":"http://gw.example.com","gateway_token_file":"` + open + `","url":"x","slurm_conf":"/x"}`, []string{"in clear", "chmod 600", "url: is for", "slurm_conf: is for"}},
		"no such paths":     {`{"transport":"commands","commands":"/no/such/programs","slurm_conf":"slurm.conf","gres":"","cache_dir":"cache","runner_dir":"r"}`, []string{"commands", "slurm_conf", "gres", "cache_dir", "runner_dir"}},
	} {
		cfg := slurm.Defaults()
		err := cfg.Decode(json.RawMessage(c.section))
		if err == nil {
			t.Errorf("%s is taken", name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: nothing of %q in:\n%v", name, w, err)
			}
		}
	}
	if _, err := slurm.Kind().Read(json.RawMessage(`{}`), provider.Env{}); err == nil {
		t.Error("an empty section names no gateway and is taken")
	}
}

package githubsim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// patience is how many empty answers a runner of persist waits for. Registrations that were
// consumed by an assignment that came too late are told nothing but that for ever.
const patience = 40

// persist makes runners, one job each, until the context ends; it gives up nothing
// for any answer, and a runner only when it hears of no job for long. It is what a crude
// control plane does.
func (w *world) persist(ctx context.Context, token, name string) {
	try := func(method, path, secret string, body, into any, header ...string) int {
		a := w.rest(method, path, secret, body, header...)
		if into != nil {
			json.Unmarshal(a.body, into) // an empty answer is one of the faults
		}
		return a.StatusCode
	}
	for n := 0; ctx.Err() == nil; n++ {
		var made jitAnswer
		try("POST", "/orgs/acme/actions/runners/generate-jitconfig", token, map[string]any{
			"name": fmt.Sprintf("%s-%d", name, n), "runner_group_id": 1, "labels": []string{"self-hosted", "linux"},
		}, &made)
		if made.Config == "" {
			continue
		}
		b := w.bot(made.Config)
		if b.login() != "" || b.connect().StatusCode != 200 {
			continue
		}
		for empty := 0; ctx.Err() == nil && empty < patience; {
			var m message.Broker
			status := try("GET", b.settings.ServerURLV2+"message?sessionId="+b.session, b.access, nil, &m)
			if status == 202 {
				empty++
				continue
			}
			if status != 200 {
				break
			}
			var offer message.JobRequest
			var job message.Message
			json.Unmarshal([]byte(m.Body), &offer)
			if try("POST", w.url+"/_services/run/acquirejob", b.access, message.AcquireRequest{JobMessageID: offer.RunnerRequestID}, &job) == 200 {
				b.complete(job, message.Success)
				break
			}
		}
	}
}

// Whatever the faults, the books stay consistent: each job that ran, ran once, and
// none is lost.
func TestHostile(t *testing.T) {
	w := newWorld(t, githubsim.Config{Seed: 42, LongPoll: 50 * time.Millisecond, PickupTimeout: 200 * time.Millisecond, RecordLinger: time.Millisecond, PointsPerMinute: -1})
	secret, err := w.CreateToken("admin", "admin:org")
	if err != nil {
		t.Fatal(err)
	}
	faults := githubsim.Hostile()
	faults.SlowAnswers, faults.StuckFor, faults.ReorderWindow = 0, githubsim.Duration(50*time.Millisecond), githubsim.Duration(50*time.Millisecond)
	faults.GhostRunners = 0.05
	w.Faults().Set(faults)
	var ids []int64
	for range 60 {
		ids = append(ids, w.inject("self-hosted", "linux"))
	}
	ctx, stop := context.WithCancel(t.Context())
	var crew sync.WaitGroup
	for i := range 8 {
		crew.Go(func() { w.persist(ctx, secret, fmt.Sprint("crew-", i)) })
	}
	end := w.until("all jobs are done", func(t githubsim.Truth) bool {
		return !slices.ContainsFunc(t.Jobs, func(j githubsim.JobTruth) bool { return j.Status != "completed" && !j.Alien })
	})
	stop()
	crew.Wait()
	for _, id := range ids {
		if j, _ := end.Job(id); j.Conclusion != "success" || j.Executions != 1 || j.Completions != 1 {
			t.Errorf("%+v", j)
		}
	}
	if end.Faults["stolen runner"] == 0 || end.Faults["ghost runner"] == 0 || end.Faults["lost answer"] == 0 {
		t.Errorf("faults %v", end.Faults)
	}
}

// The runner program itself: a workflow from a push, a real shell, a real log.
func TestRunnerProgram(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	files, err := githubsim.Files(map[string]string{
		"hello.sh": "echo \"hello from $GITHUB_REPOSITORY\"\n",
		".github/workflows/ci.yml": `
name: CI
on: push
jobs:
  greet:
    runs-on: [self-hosted, linux]
    outputs: {word: "${{ steps.one.outputs.word }}"}
    steps:
      - uses: actions/checkout@v4
      - {id: one, run: "sh hello.sh && echo word=muster >> $GITHUB_OUTPUT"}
  again:
    needs: greet
    runs-on: linux
    steps: [{run: "test '${{ needs.greet.outputs.word }}' = muster"}]
`})
	if err == nil {
		err = w.CreateRepository("acme/real", githubsim.RepositoryOptions{Private: true, Files: files})
	}
	if err != nil {
		t.Fatal(err)
	}
	run, tok := w.trigger("acme/real"), w.token()
	for _, name := range []string{"first", "second"} {
		config := w.jit(tok, name, "self-hosted", "linux").Config
		var out bytes.Buffer
		dir := t.TempDir()
		code := runner.Main(t.Context(), runner.Program{
			Args: []string{"run"}, Env: append(os.Environ(), "ACTIONS_RUNNER_INPUT_JITCONFIG="+config, "RUNNER_ALLOW_RUNASROOT=1"), Dir: dir, Stdout: &out, Stderr: &out,
		})
		if code != 0 || !strings.Contains(out.String(), "completed with result: Succeeded") {
			t.Fatalf("exit code %d\n%s", code, out.String())
		}
		if left, _ := filepath.Glob(filepath.Join(dir, ".credentials*")); len(left) != 0 {
			t.Errorf("%q is left behind", left)
		}
	}
	end := w.until("done", func(t githubsim.Truth) bool { return t.Runs[0].Status == "completed" && len(t.Runners) == 0 })
	if end.Runs[0].ID != run || end.Runs[0].Conclusion != "success" || end.Verdict() != nil {
		t.Errorf("%+v %q", end.Runs[0], end.Verdict())
	}
	if log, err := w.JobLog(end.Jobs[0].ID); err != nil || !strings.Contains(string(log), "hello from acme/real") {
		t.Errorf("%v\n%s", err, log)
	}
}

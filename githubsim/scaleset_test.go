package githubsim_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/actions/scaleset"
	"github.com/actions/scaleset/listener"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
)

// quick makes long polls and lingering sessions short enough for a test.
func quick(cfg githubsim.Config) githubsim.Config {
	if cfg.LongPoll == 0 {
		cfg.LongPoll = 100 * time.Millisecond
	}
	if cfg.SetSessionLinger == 0 {
		cfg.SetSessionLinger = -1
	}
	cfg.RecordLinger = -1
	return cfg
}

// sets is the unmodified client of github.com/actions/scaleset, as the App.
func (w *world) sets(path string) *scaleset.Client {
	w.t.Helper()
	c, err := scaleset.NewClientWithGitHubApp(scaleset.ClientWithGitHubAppConfig{
		GitHubConfigURL: w.url + "/" + path,
		GitHubAppAuth:   scaleset.GitHubAppAuth{ClientID: w.app.ClientID, InstallationID: w.inst, PrivateKey: w.app.PEM},
		SystemInfo:      scaleset.SystemInfo{System: "githubsim", Subsystem: "test"},
	}, scaleset.WithRetryMax(1), scaleset.WithRetryWaitMax(time.Millisecond))
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) set(c *scaleset.Client, name string, labels ...string) int {
	w.t.Helper()
	in := &scaleset.RunnerScaleSet{Name: name, RunnerGroupID: 1}
	for _, l := range labels {
		in.Labels = append(in.Labels, scaleset.Label{Name: l})
	}
	got, err := c.CreateRunnerScaleSet(w.t.Context(), in)
	if err != nil {
		w.t.Fatal(err)
	}
	return got.ID
}

func (w *world) listen(c *scaleset.Client, id int) *scaleset.MessageSessionClient {
	w.t.Helper()
	x, err := c.MessageSessionClient(w.t.Context(), id, "test", scaleset.WithRetryMax(1))
	if err != nil {
		w.t.Fatal(err)
	}
	return x
}

// get asks for one message; nil is none.
func (w *world) get(x *scaleset.MessageSessionClient, last, capacity int) *scaleset.RunnerScaleSetMessage {
	w.t.Helper()
	m, err := x.GetMessage(w.t.Context(), last, capacity)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

// scaler starts the real runner program for each job that it is told of.
type scaler struct {
	w      *world
	set    int
	client *scaleset.Client
	most   int
	ctx    context.Context //nolint:containedctx // of the runners, which outlive the call that starts them

	mu        sync.Mutex
	live      int
	made      int
	started   []string
	completed []string
	work      sync.WaitGroup
}

func (s *scaler) HandleDesiredRunnerCount(ctx context.Context, count int) (int, error) {
	for {
		s.mu.Lock()
		if s.live >= min(count, s.most) {
			defer s.mu.Unlock()
			return s.live, nil
		}
		s.live++
		s.made++
		name := "set-" + strconv.Itoa(s.made)
		s.mu.Unlock()
		config, err := s.client.GenerateJitRunnerConfig(ctx, &scaleset.RunnerScaleSetJitRunnerSetting{Name: name, WorkFolder: "_work"}, s.set)
		if err != nil {
			return 0, err
		}
		dir := s.w.t.TempDir()
		s.work.Go(func() {
			var out bytes.Buffer
			code := runner.Main(s.ctx, runner.Program{
				Args: []string{"run"}, Env: append(os.Environ(), "ACTIONS_RUNNER_INPUT_JITCONFIG="+config.EncodedJITConfig, "RUNNER_ALLOW_RUNASROOT=1"),
				Dir: dir, Stdout: &out, Stderr: &out,
			})
			if code != 0 {
				s.w.t.Errorf("runner %s: exit code %d\n%s", name, code, out.String())
			}
			s.mu.Lock()
			s.live--
			s.mu.Unlock()
		})
	}
}

func (s *scaler) HandleJobStarted(_ context.Context, m *scaleset.JobStarted) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = append(s.started, m.JobID)
	return nil
}

func (s *scaler) HandleJobCompleted(_ context.Context, m *scaleset.JobCompleted) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.completed = append(s.completed, m.Result)
	return nil
}

// The client and the listener of github.com/actions/scaleset, unmodified, run a
// workload from the first token to the last DELETE. The same jobs are told by
// webhooks and REST, too.
func TestScaleSetWorkload(t *testing.T) {
	const jobs = 12
	w := newWorld(t, quick(githubsim.Config{Seed: 7}))
	ctx, c := t.Context(), w.sets(org)

	g, err := c.GetRunnerGroupByName(ctx, scaleset.DefaultRunnerGroup)
	if err != nil || g.ID != 1 || !g.IsDefault {
		t.Fatalf("group %+v, %v", g, err)
	}
	if found, err := c.GetRunnerScaleSet(ctx, 1, "linux-set"); err != nil || found != nil {
		t.Fatalf("a set that does not exist: %+v, %v", found, err)
	}
	id := w.set(c, "linux-set")
	if found, err := c.GetRunnerScaleSet(ctx, 1, "linux-set"); err != nil || found == nil || found.ID != id || found.Labels[0].Name != "linux-set" {
		t.Fatalf("the set: %+v, %v", found, err)
	}
	var ids []int64
	for range jobs {
		ids = append(ids, w.inject("linux-set"))
	}
	x := w.listen(c, id)
	l, err := listener.New(x, listener.Config{ScaleSetID: id, MaxRunners: 4})
	if err != nil {
		t.Fatal(err)
	}
	sc := &scaler{w: w, set: id, client: c, most: 4}
	run, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	sc.ctx = run
	go func() { ended <- l.Run(run, sc) }()
	end := w.until("all jobs are done and told", func(t githubsim.Truth) bool {
		return t.ByState()["completed"] == jobs && t.ScaleSets[0].Unacknowledged+t.ScaleSets[0].Untold == 0
	})
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the listener: %v", err)
	}
	sc.work.Wait()
	// A runner more than jobs is what acting on numbers that are a moment old costs.
	for _, r := range w.Truth().Runners {
		if found, err := c.GetRunnerByName(ctx, r.Name); err != nil || found == nil || int64(found.ID) != r.ID || found.RunnerScaleSetID != id {
			t.Errorf("%s: %+v, %v", r.Name, found, err)
		}
		if err := c.RemoveRunner(ctx, r.ID); err != nil {
			t.Error(err)
		}
	}
	if v := end.Verdict(); v != nil {
		t.Errorf("verdict %q", v)
	}
	if len(sc.started) != jobs || len(sc.completed) != jobs || slices.ContainsFunc(sc.completed, func(r string) bool { return r != "succeeded" }) {
		t.Errorf("started %v, completed %v", sc.started, sc.completed)
	}
	for _, id := range ids {
		j, _ := end.Job(id)
		if j.Conclusion != "success" || j.Executions != 1 || len(j.SetIDs) != 1 || !slices.Contains(sc.started, j.SetIDs[0]) {
			t.Errorf("%+v", j)
		}
		// One job, one truth: webhooks tell of the same runner.
		w.hook.find(t, 1, func(r received) bool {
			told, ok := r.json["workflow_job"].(map[string]any)
			return ok && r.action == "completed" && int64(told["id"].(float64)) == id && told["runner_name"] == j.Runner
		})
	}
	if err := x.Close(context.WithoutCancel(ctx)); err != nil {
		t.Error(err)
	}
	if err := c.DeleteRunnerScaleSet(ctx, id); err != nil {
		t.Error(err)
	}
	if found, err := c.GetRunnerScaleSet(ctx, 1, "linux-set"); err != nil || found != nil {
		t.Errorf("after DELETE: %+v, %v", found, err)
	}
}

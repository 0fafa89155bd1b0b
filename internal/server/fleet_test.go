package server

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/gen/muster/v1/musterv1connect"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/fleet"
	"github.com/muster-ci/muster/internal/wire"
	"github.com/muster-ci/muster/provider/fake"
)

const fleetFile = `{"github_runner_fleets": {"ci-workers": {"repo_owner": "acme", "repo_name": "web", "labels": ["linux"], "min_runners": 1, "max_runners": 3, "enabled": true}}}`

// fleetStand is a fleet on a simulated GitHub and a platform in memory, whose
// agents speak HTTP and whose runners never take a job.
type fleetStand struct {
	t     *testing.T
	sim   *githubsim.Server
	cloud *fake.Cloud
	run   config.FleetRun
	log   *syncBuffer
	addr  string
}

func newFleetStand(t *testing.T) *fleetStand {
	s := &fleetStand{t: t, sim: githubsim.New(githubsim.Config{Seed: 3}), cloud: fake.NewCloud(), log: &syncBuffer{}}
	t.Cleanup(s.cloud.Close)
	t.Cleanup(func() { _ = s.sim.Close() })
	if _, err := s.sim.Start(context.WithoutCancel(t.Context()), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{s.sim.CreateOrganization("acme"), s.sim.CreateRepository("acme/web", githubsim.RepositoryOptions{Private: true})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	token, err := s.sim.CreateToken("octocat", "repo", "admin:org")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s.run = config.FleetRun{
		File: filepath.Join(dir, "fleets.json"), DataDir: filepath.Join(dir, "data"), Kind: "fake", Token: muster.Secret(token), APIURL: s.sim.URL() + "/api/v3",
		Listen: "127.0.0.1:0", Interval: 50 * time.Millisecond,
	}
	if err := os.WriteFile(s.run.File, []byte(fleetFile), 0o600); err != nil {
		t.Fatal(err)
	}
	s.cloud.OnBoot(s.agent)
	return s
}

func (s *fleetStand) post(ctx context.Context, m fake.Machine, path, token string, in, out any) int {
	body, err := json.Marshal(in)
	if err != nil {
		return 0
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.Spec.Boot.URL+path, bytes.NewReader(body))
	if err != nil {
		return 0
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode == http.StatusOK {
		_ = json.Unmarshal(text, out)
	}
	return resp.StatusCode
}

func (s *fleetStand) agent(ctx context.Context, m fake.Machine) string {
	var boot wire.BootResponse
	if status := s.post(ctx, m, wire.BootPath, m.Spec.Boot.Token.Reveal(), wire.BootRequest{Nonce: m.ID}, &boot); status != http.StatusOK {
		return http.StatusText(status)
	}
	var answer wire.Answer
	s.post(ctx, m, wire.LogPath, boot.SessionToken, wire.LogChunk{Data: []byte("Listening for Jobs\n")}, &answer)
	s.post(ctx, m, wire.ReportPath, boot.SessionToken, wire.Report{Phase: wire.PhaseListening}, &answer)
	for beat := time.NewTicker(20 * time.Millisecond); ; {
		select {
		case <-beat.C:
			s.post(ctx, m, wire.ReportPath, boot.SessionToken, wire.Report{Phase: wire.PhaseHeartbeat}, &answer)
			if answer.Command == wire.CommandDrain {
				s.post(ctx, m, wire.ReportPath, boot.SessionToken, wire.Report{Phase: wire.PhaseFinished, Reason: "told to drain"}, &answer)
				return "told to drain"
			}
		case <-ctx.Done():
			return "deleted"
		}
	}
}

// start runs the fleet until the function that it returns is called.
func (s *fleetStand) start() (stop func() error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	ended, addr := make(chan error, 1), make(chan string, 1)
	go func() {
		ended <- RunFleet(ctx, s.run, FleetOptions{Version: "v9", LogOutput: s.log, VMs: s.cloud.Provider(fleetOwner), Times: fleet.Times{Health: 100 * time.Millisecond}, Listening: func(a string) { addr <- a }})
	}()
	select {
	case s.addr = <-addr:
	case err := <-ended:
		ended <- err
	}
	return func() error {
		cancel()
		return <-ended
	}
}

func (s *fleetStand) until(what string, ok func() bool) {
	s.t.Helper()
	deadline, tick := time.After(2*time.Minute), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("waited for %s\n%s", what, s.log)
		}
	}
}

// S1-76 S1-83 S1-84 S1-92 S1-94: a fleet's run answers the commands of pools and runners as a control plane
// does, grows and shrinks as it is told, and leaves nothing at its end.
func TestFleetAnswersAsAControlPlane(t *testing.T) {
	s := newFleetStand(t)
	stop := s.start()
	pools := musterv1connect.NewPoolServiceClient(http.DefaultClient, "http://"+s.addr)
	runners := musterv1connect.NewRunnerServiceClient(http.DefaultClient, "http://"+s.addr)
	system := musterv1connect.NewSystemServiceClient(http.DefaultClient, "http://"+s.addr)
	idle := func(n int32) func() bool {
		return func() bool {
			p, err := pools.GetPool(t.Context(), &v1.GetPoolRequest{Name: "ci-workers"})
			return err == nil && p.Pool.Status.RunnersIdle == n && p.Pool.Status.LastDecision != nil
		}
	}
	s.until("the floor's runner", idle(1))
	list, err := pools.ListPools(t.Context(), &v1.ListPoolsRequest{})
	if err != nil || len(list.Pools) != 1 || list.Pools[0].Scope != "acme/web" || !list.Pools[0].Enabled {
		t.Errorf("%v %v", list, err)
	}
	if _, err := s.sim.InjectJob(githubsim.JobOptions{Repo: "acme/web", Labels: []string{"linux"}, Duration: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if _, err := pools.SetPool(t.Context(), &v1.SetPoolRequest{Name: "ci-workers", MinRunners: new(int32(3))}); err != nil {
		t.Fatal(err)
	}
	s.until("three runners", idle(3))
	decisions, err := pools.ListDecisions(t.Context(), &v1.ListDecisionsRequest{Pool: "ci-workers"})
	if err != nil || !slices.ContainsFunc(decisions.Decisions, func(d *v1.Decision) bool { return d.Rule == muster.RuleWarmFloor }) {
		t.Errorf("%v %v", decisions, err)
	}
	all, err := runners.ListRunners(t.Context(), &v1.ListRunnersRequest{Pool: "ci-workers", States: []string{"registered"}, Limit: 2})
	if err != nil || len(all.Runners) != 2 {
		t.Fatalf("%v %v", all, err)
	}
	one, err := runners.GetRunner(t.Context(), &v1.GetRunnerRequest{Id: all.Runners[0].Name, CheckHealth: true})
	if err != nil || one.Healthy == nil || *one.Healthy || len(one.Events) == 0 { // it never connects to GitHub
		t.Errorf("%v %v", one, err)
	}
	if text, err := runners.GetRunnerLog(t.Context(), &v1.GetRunnerLogRequest{Id: all.Runners[0].Id}); err != nil || string(text.Log) != "Listening for Jobs\n" {
		t.Errorf("%v %v", text, err)
	}
	if _, err := runners.GetRunner(t.Context(), &v1.GetRunnerRequest{Id: "r-nobody"}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Error(err)
	}
	if _, err := runners.DrainRunner(t.Context(), &v1.DrainRunnerRequest{Id: all.Runners[0].Id, Reason: "test"}); err != nil {
		t.Error(err)
	}
	s.until("the drained runner to go", func() bool {
		r, err := runners.GetRunner(t.Context(), &v1.GetRunnerRequest{Id: all.Runners[0].Id})
		return err == nil && r.Runner.Status == "destroyed"
	})
	over, err := system.GetOverview(t.Context(), &v1.GetOverviewRequest{})
	if err != nil || over.Version != "v9" || over.Jobs["queued"] != 1 || len(over.Budgets) != 1 {
		t.Errorf("%v %v", over, err)
	}
	watching, quit := context.WithCancel(t.Context())
	watch, err := system.Watch(watching, &v1.WatchRequest{})
	if err != nil || !watch.Receive() {
		t.Error(err)
	}
	quit()
	if _, err := pools.GetPool(t.Context(), &v1.GetPoolRequest{Name: "nope"}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Error(err)
	}
	// What a fleet does not serve is not there; nobody but this machine is served.
	if _, err := musterv1connect.NewJobServiceClient(http.DefaultClient, "http://"+s.addr).ListJobs(t.Context(), &v1.ListJobsRequest{}); connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Error(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.addr+"/muster.v1.PoolService/ListPools", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example"
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("%v %v", resp, err)
	}
	resp.Body.Close()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if n := len(s.sim.Truth().Runners); n != 0 || s.cloud.Counts().Live != 0 {
		t.Errorf("left: %d registrations, %d machines\n%s", n, s.cloud.Counts().Live, s.log)
	}
	// S1-19 S1-98 S1-107: the token is in no file and in no line of the log.
	err = filepath.WalkDir(filepath.Dir(s.run.File), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(s.run.Token.Reveal())) {
			t.Errorf("the token is in %s", path)
		}
		return err
	})
	if err != nil || strings.Contains(s.log.String(), s.run.Token.Reveal()) {
		t.Error("the token is shown", err)
	}
}

// S1-113 4-27: while GitHub refuses every call for its limits, nothing is destroyed and the run goes on.
func TestFleetUnderALimit(t *testing.T) {
	s := newFleetStand(t)
	stop := s.start()
	pools := musterv1connect.NewPoolServiceClient(http.DefaultClient, "http://"+s.addr)
	system := musterv1connect.NewSystemServiceClient(http.DefaultClient, "http://"+s.addr)
	s.until("the floor's runner", func() bool { return len(s.sim.Truth().Runners) == 1 })
	s.sim.Faults().SecondaryLimit(1, time.Second)
	if _, err := pools.SetPool(t.Context(), &v1.SetPoolRequest{Name: "ci-workers", MinRunners: new(int32(0))}); err != nil {
		t.Fatal(err)
	}
	s.until("the limit to be noticed", func() bool {
		p, err := pools.GetPool(t.Context(), &v1.GetPoolRequest{Name: "ci-workers"})
		return err == nil && p.Pool.Status.GetLastDecision().GetRule() == muster.RuleNoData && p.Pool.Status.LastDecision.Count > 1
	})
	over, err := system.GetOverview(t.Context(), &v1.GetOverviewRequest{})
	if err != nil || len(over.Problems) != 1 || !strings.Contains(over.Problems[0], "pool ci-workers: ") {
		t.Errorf("%v %v", over, err)
	}
	if n := len(s.sim.Truth().Runners); n != 1 {
		t.Errorf("%d registrations", n)
	}
	s.sim.Faults().Off()
	s.until("the queue to be known again", func() bool {
		over, err := system.GetOverview(t.Context(), &v1.GetOverviewRequest{})
		return err == nil && len(over.Problems) == 0
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// What keeps a run from starting is said with a remedy.
func TestFleetRefusesToStart(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for _, tc := range []struct {
		situation string
		change    func(*fleetStand, *FleetOptions)
		want      string
	}{
		{"WrongToken", func(s *fleetStand, _ *FleetOptions) { s.run.Token = "ghp_wrongwrongwrong" }, "GitHub refuses the token in GITHUB_TOKEN; make a new one"},
		{"AddressTaken", func(s *fleetStand, _ *FleetOptions) { s.run.Listen = busy.Addr().String() }, "Name a free address by --listen"},
		{"BadFile", func(s *fleetStand, _ *FleetOptions) { _ = os.WriteFile(s.run.File, []byte("{"), 0o600) }, "fleets.json:1"},
		{"BadKey", func(s *fleetStand, _ *FleetOptions) {
			_ = os.MkdirAll(s.run.DataDir, 0o700)
			_ = os.WriteFile(filepath.Join(s.run.DataDir, "key"), []byte("short"), 0o600)
		}, "key is damaged: remove it"},
		{"UnknownProvider", func(s *fleetStand, o *FleetOptions) { o.VMs, s.run.Kind = nil, "abacus" }, `provider "abacus" is unknown: use one of process`},
		{"BadSection", func(s *fleetStand, o *FleetOptions) {
			o.VMs, s.run.Kind, s.run.Provider = nil, "process", json.RawMessage(`{"runner_dir": "/nowhere", "colour": 1}`)
		}, "colour: unknown key"},
		{"PlainHTTP", func(s *fleetStand, _ *FleetOptions) { s.run.APIURL = "http://github.example.com" }, "must begin with https"}, // S1-17
	} {
		t.Run(tc.situation, func(t *testing.T) {
			s := newFleetStand(t)
			o := FleetOptions{LogOutput: s.log, VMs: s.cloud.Provider(fleetOwner)}
			tc.change(s, &o)
			if err := RunFleet(t.Context(), s.run, o); err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "ghp_wrong") {
				t.Errorf("%v\nwant %s", err, tc.want)
			}
		})
	}
	t.Run("Twice", func(t *testing.T) {
		s := newFleetStand(t)
		stop := s.start()
		if err := RunFleet(t.Context(), s.run, FleetOptions{LogOutput: s.log, VMs: s.cloud.Provider(fleetOwner)}); err == nil || !strings.Contains(err.Error(), "another muster github-runner run uses it") {
			t.Error(err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

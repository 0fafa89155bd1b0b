package api_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/api"
)

// keeping gives the workspace two pools that share a machine, and one whose machine
// has the same name in another zone and was never looked at.
func keeping(_ *api.Config, w *world) {
	kept := func(name, repo, zone string) muster.Pool {
		return muster.Pool{
			Name: name, Workspace: "default", App: "main", Scope: muster.Scope{Kind: muster.ScopeRepository, Owner: "octo", Repo: repo}, Labels: muster.Labels{"gpu"}, Provider: "cloud", Enabled: true,
			Lifecycle: muster.LifecycleKept, Registration: muster.RegistrationPreregistered, Machine: "box", Zone: zone,
		}.WithDefaults()
	}
	one, two, other := kept("box-one", "one", "a"), kept("box-two", "two", "a"), kept("far", "far", "b")
	w.store.pools = append(w.store.pools, one, two, other)
	running := muster.Job{Key: muster.JobKey{ID: 900, Attempt: 2}, Workspace: "default", Name: "train", Repository: "octo/two", State: muster.JobInProgress, Pool: "box-two", RunnerName: "box", StartedAt: t0.Add(-time.Minute)}
	waits := muster.Job{Key: muster.JobKey{ID: 901, Attempt: 1}, Workspace: "default", App: "main", Name: "train", Repository: "octo/one", State: muster.JobQueued, Pool: "box-one", Labels: muster.Labels{"gpu"}, CreatedAt: t0.Add(-2 * time.Minute), SeenAt: t0.Add(-2 * time.Minute)}
	lacks := waits
	lacks.Key.ID, lacks.Pool, lacks.Labels = 902, "", muster.Labels{"gpu", "a100"}
	w.store.jobs = append([]muster.Job{lacks, waits, running}, w.store.jobs...)
	w.store.machines = []muster.Machine{{
		Workspace: "default", ID: one.MachineID(), Status: muster.MachineRunning, StatusAt: t0.Add(-time.Second), UpAt: t0.Add(-time.Hour), DoneAt: t0.Add(-10 * time.Minute),
		Work: muster.WorkIdle, WorkAt: t0.Add(-5 * time.Minute), AskedAt: t0.Add(-5 * time.Minute), Labels: map[string]muster.Labels{"box-one": {"self-hosted", "gpu"}},
		Deadline: t0.Add(time.Minute), Generation: 4, Refusal: "403 nope", RefusedAt: t0.Add(-time.Minute), Refusals: 2, Reason: "GitHub says that its runner is busy", StopAsked: t0.Add(-30 * time.Second),
	}}
	w.store.demands = map[muster.MachineID]muster.MachineDemand{
		one.MachineID():   {Pools: []muster.Pool{one, two}, Running: []muster.Job{running}, Queued: []muster.Job{waits}},
		other.MachineID(): {Pools: []muster.Pool{other}},
	}
	for _, p := range []muster.Pool{one, two, other} {
		w.store.snapshots[p.Name] = muster.Snapshot{Pool: p}
	}
}

// Kept machines have no runners' rows; they are listed with all that is known of
// them, and take wishes. 4-20 4-33
func TestMachines(t *testing.T) {
	w := newWorld(t, keeping)
	list, err := w.machines.ListMachines(t.Context(), &v1.ListMachinesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(t0.Add(-d)) }
	want := []*v1.Machine{
		{Provider: "cloud", Zone: "a", Name: "box", Status: "RUNNING", StatusAt: ago(time.Second), Since: ago(time.Hour), Pools: []string{"box-one", "box-two"}, Repositories: []string{"octo/one", "octo/two"},
			Occupation: "busy", AskedAt: ago(5 * time.Minute), JobId: 900, JobAttempt: 2, JobsQueued: 1, LastJobEndedAt: ago(10 * time.Minute),
			Deadline: ago(-time.Minute), DeadlineAction: "GitHub is asked whether its runner is idle, and it is stopped if so", Reason: "GitHub says that its runner is busy",
			LastError: "403 nope", LastErrorAt: ago(time.Minute), Refusals: 2, StopAskedAt: ago(30 * time.Second), Labels: map[string]*v1.RunnerLabels{"box-one": {Names: []string{"self-hosted", "gpu"}}}},
		{Provider: "cloud", Zone: "b", Name: "box", Pools: []string{"far"}, Repositories: []string{"octo/far"}},
	}
	if d := cmp.Diff(want, list.Machines, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	one, err := w.pools.GetPool(t.Context(), &v1.GetPoolRequest{Name: "box-two"})
	if err != nil || one.Pool.Machine != "box" || one.Pool.Zone != "a" {
		t.Fatalf("%v %v", one, err)
	}
	if d := cmp.Diff(want[0], one.Pool.Status.Machine, protocmp.Transform()); d != "" {
		t.Errorf("the pool's machine is another:\n%s", d)
	}

	_, replay := w.pools.ReplayDecision(t.Context(), &v1.ReplayDecisionRequest{Pool: "far"})
	_, dry := w.pools.DryRun(t.Context(), &v1.DryRunRequest{Pool: "far", Set: map[string]string{"max_runners": "2"}})
	for _, err := range []error{replay, dry} {
		if codeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "not by the planner") {
			t.Errorf("%v", err)
		}
	}

	w.commands.answer = muster.MachineAnswer{Status: muster.MachineAnswerStarting, Operation: "op-1"}
	started, err := w.machines.StartMachine(t.Context(), &v1.StartMachineRequest{Name: "box", Zone: "b"})
	if err != nil || started.Status != "starting" || started.Operation != "op-1" || started.Machine.Zone != "b" {
		t.Errorf("%v %v", started, err)
	}
	w.commands.answer = muster.MachineAnswer{Status: muster.MachineAnswerBusy, Message: "Job 900/2 runs on it"}
	stopped, err := w.machines.StopMachine(t.Context(), &v1.StopMachineRequest{Name: "box", Zone: "a", Provider: "cloud"})
	if err != nil || stopped.Status != "busy" || stopped.Message != "Job 900/2 runs on it" || stopped.Machine.Status != "RUNNING" {
		t.Errorf("%v %v", stopped, err)
	}
	if d := cmp.Diff([]string{"start default/cloud/b/box", "stop default/cloud/a/box 0"}, w.commands.asked); d != "" {
		t.Error(d)
	}
	for _, tc := range []struct {
		name, zone string
		code       connect.Code
		words      string
	}{
		{"box", "", connect.CodeInvalidArgument, "several machines are called box (cloud/a/box, cloud/b/box): name the zone"},
		{"box", "c", connect.CodeNotFound, "no pool keeps a machine box there"},
		{"else", "", connect.CodeNotFound, "no pool keeps a machine else"},
		{"", "", connect.CodeInvalidArgument, "set name"},
	} {
		_, start := w.machines.StartMachine(t.Context(), &v1.StartMachineRequest{Name: tc.name, Zone: tc.zone})
		_, stop := w.machines.StopMachine(t.Context(), &v1.StopMachineRequest{Name: tc.name, Zone: tc.zone})
		for _, err := range []error{start, stop} {
			if codeOf(err) != tc.code || !strings.Contains(err.Error(), tc.words) {
				t.Errorf("%q in %q: %v", tc.name, tc.zone, err)
			}
		}
	}
	w.commands.err = muster.Errorf(muster.CodeUnavailable, "the platform has no room for the machine now")
	if _, err := w.machines.StartMachine(t.Context(), &v1.StartMachineRequest{Name: "box", Zone: "a"}); codeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "no room") {
		t.Errorf("%v", err)
	}
}

// The machine's row says why a job of a kept pool waits, and the labels of its
// runner why another has no pool: `muster job why` of docs/kept.md. C8
func TestExplainKeptMachine(t *testing.T) {
	group := &access{group: "refused"}
	w := newWorld(t, func(c *api.Config, w *world) { keeping(c, w); c.Access = group })
	why := func(id int64) (codes, texts []string) {
		t.Helper()
		resp, err := w.jobs.ExplainJob(t.Context(), &v1.ExplainJobRequest{Job: &v1.JobRef{Id: id}})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range resp.Causes {
			codes, texts = append(codes, c.Code), append(texts, c.Text)
		}
		return codes, texts
	}
	if codes, texts := why(901); !slices.Equal(codes, []string{muster.CauseMachineBusy}) || !strings.Contains(texts[0], "runs job 900/2 (train of octo/two)") {
		t.Errorf("%v %q", codes, texts)
	}
	if group.asked != 0 {
		t.Error("GitHub was asked about the group of a runner that an operator registered")
	}
	if codes, texts := why(902); !slices.Equal(codes, []string{muster.CauseNotEligible}) || !strings.Contains(texts[0], "machine box is registered at GitHub without [a100], with [self-hosted,gpu] only") {
		t.Errorf("%v %q", codes, texts)
	}
	w.store.machines[0].Status, w.store.demands = muster.MachineTerminated, nil
	if codes, texts := why(901); !slices.Equal(codes, []string{muster.CauseProviderRefusing}) || !strings.Contains(texts[0], "403 nope") {
		t.Errorf("%v %q", codes, texts)
	}
}

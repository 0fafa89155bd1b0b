package lifecycle

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/proxy"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/muster-ci/muster"
)

var update = flag.Bool("update", false, "record the histories anew; do so only when no release runs the old ones")

const histories = "testdata/histories"

var identity = regexp.MustCompile(`"identity": *"[^"]*"`)

// S4-25: every recorded history still replays, so that a change of a workflow's
// code does not break those that live. A change that must differ goes behind
// workflow.GetVersion, and its history is added beside the old ones.
func TestReplay(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(histories, "*.json"))
	if err != nil || len(files) < 5 {
		t.Fatalf("%d recorded histories, %v", len(files), err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			if text, err := os.ReadFile(f); err != nil || bytes.Contains(text, []byte("canary-")) {
				t.Error("a secret stands in a history", err) // S4-60
			}
			r := worker.NewWorkflowReplayer()
			for _, w := range []any{PoolSize, RunnerLife, JobLife, Sweeping, TraceLife} {
				r.RegisterWorkflow(w)
			}
			if err := r.ReplayWorkflowHistoryFromJSONFile(nil, f); err != nil {
				t.Error(err)
			}
		})
	}
}

// A replay that cannot fail would prove nothing: a workflow that does something
// else than the history says is caught.
func TestReplayCatchesAChange(t *testing.T) {
	r := worker.NewWorkflowReplayer()
	r.RegisterWorkflowWithOptions(func(ctx workflow.Context, _ RunnerRef) error {
		return workflow.Sleep(ctx, time.Hour)
	}, workflow.RegisterOptions{Name: "RunnerLife"})
	if err := r.ReplayWorkflowHistoryFromJSONFile(nil, filepath.Join(histories, "runner-one-job.json")); err == nil {
		t.Error("a workflow that sleeps replayed the history of one that launches")
	}
}

// TestRecord makes the recorded histories, with -update only.
func TestRecord(t *testing.T) {
	if !*update {
		return
	}
	w := theWorld(t)
	if err := os.MkdirAll(histories, 0o755); err != nil {
		t.Fatal(err)
	}
	// One job from start to end.
	jobs, done := make(chan int64, 1), make(chan struct{})
	p := w.pool(t, runOneJob(jobs, done))
	id := w.newJob()
	w.send(t, w.event(p, id, "queued"))
	w.untilListening(t, p)
	jobs <- id
	w.until(t, "an active runner", func() bool { return w.runners(t, p)[0].State == muster.RunnerActive })
	close(done)
	one := w.untilDestroyed(t, p, 1)[0]
	ref := JobRef{Workspace: defaultWorkspace, Key: muster.JobKey{ID: id, Attempt: 1}}
	w.record(t, runnerWorkflowID(one.ID), "runner-one-job")
	w.record(t, jobWorkflowID(ref), "job")
	w.record(t, poolWorkflowID(PoolRef{defaultWorkspace, p.Name}), "pool")
	// A machine that vanishes: waits, a probe, an end.
	p = w.pool(t, idle)
	w.send(t, w.event(p, w.newJob(), "queued"))
	r := w.untilListening(t, p)
	w.cloud.End("test", r.ID, "gone")
	w.until(t, "the runner closed", func() bool {
		r, err := w.store.Runner(t.Context(), defaultWorkspace, r.ID)
		return err == nil && r.State == muster.RunnerDestroyed
	})
	w.disable(t, p)
	w.record(t, runnerWorkflowID(r.ID), "runner-vanished")
	// An idle runner that is asked to drain: a refused deregistration first.
	p = w.pool(t, idle)
	w.send(t, w.event(p, w.newJob(), "queued"))
	r = w.untilListening(t, p)
	w.github.assign(r.Name, true)
	w.disable(t, p)
	calls := w.github.count("remove")
	if err := w.client.DrainRunner(t.Context(), defaultWorkspace, r.ID, "test"); err != nil {
		t.Fatal(err)
	}
	w.until(t, "a refusal", func() bool { return w.github.count("remove") > calls })
	w.github.assign(r.Name, false)
	w.untilDestroyed(t, p, 1)
	w.record(t, runnerWorkflowID(r.ID), "runner-drained")
	// A job with check runs whose runner is not ours.
	p = w.pool(t, nil, func(p *muster.Pool) { p.ReportChecks, p.Scaling.MaxRunners = true, 0 })
	id = w.newJob()
	e := w.event(p, id, "queued")
	e.HeadSHA = "0123456789abcdef0123456789abcdef01234567"
	w.send(t, e)
	e.Action, e.Status, e.Conclusion, e.CompletedAt = "completed", muster.JobCompleted, "cancelled", time.Now()
	w.send(t, e)
	ref.Key.ID = id
	w.until(t, "the receipt", func() bool { _, err := w.store.Receipt(t.Context(), defaultWorkspace, ref.Key); return err == nil })
	w.record(t, jobWorkflowID(ref), "job-checks")
	// The sweep, one round.
	if _, err := w.client.temporal.SignalWithStartWorkflow(t.Context(), sweepWorkflowID, signalLook, nil, client.StartWorkflowOptions{TaskQueue: TaskQueue}, Sweeping, time.Hour, Suspects{}); err != nil {
		t.Fatal(err)
	}
	w.until(t, "a sweep", func() bool { return w.github.count("list") > 0 })
	w.record(t, sweepWorkflowID, "sweep")
}

// TestRecordTrace makes the history of a small trace, with -update only; "trace" is of the time
// when all were analysed as the large ones are.
func TestRecordTrace(t *testing.T) {
	if !*update {
		return
	}
	w := theWorld(t)
	done := w.traceOne(t, func(p *muster.Pool) { p.ReportChecks = true }, nil)
	w.record(t, traceWorkflowID(TraceRef{Workspace: defaultWorkspace, Runner: done.ID.Runner, Number: done.ID.Number}), "trace-small")
}

// record writes a workflow's history, with its payloads in clear.
func (w *world) record(t *testing.T, workflowID, name string) {
	t.Helper()
	it := w.client.temporal.GetWorkflowHistory(t.Context(), workflowID, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	var h historypb.History
	for it.HasNext() {
		e, err := it.Next()
		if err != nil {
			t.Fatal(err)
		}
		h.Events = append(h.Events, e)
	}
	err := proxy.VisitPayloads(context.Background(), &h, proxy.VisitPayloadsOptions{
		SkipSearchAttributes: true,
		Visitor: func(_ *proxy.VisitPayloadsContext, in []*commonpb.Payload) ([]*commonpb.Payload, error) {
			out := make([]*commonpb.Payload, len(in))
			for i, p := range in {
				plain, err := w.box.Open("temporal-payload", p.GetData())
				if err != nil {
					out[i] = p // never sealed
					continue
				}
				out[i] = &commonpb.Payload{}
				if err := proto.Unmarshal(plain, out[i]); err != nil {
					return nil, err
				}
			}
			return out, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := protojson.MarshalOptions{Indent: " "}.Marshal(&h)
	if err != nil {
		t.Fatal(err)
	}
	text = identity.ReplaceAll(text, []byte(`"identity": "worker"`)) // a host's name has no place here
	if err := os.WriteFile(filepath.Join(histories, name+".json"), append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
)

// recorded is a trace that has just begun.
func recorded(id muster.RunnerID, number int, began time.Duration) muster.Trace {
	return muster.Trace{ID: muster.TraceID{Runner: id, Number: number}, Workspace: ws, Pool: "a", State: muster.TraceRecording, StartedAt: at(began)}
}

func addTrace(t *testing.T, s *store.Store, tr muster.Trace) muster.Trace {
	t.Helper()
	got, fresh, err := s.AddTrace(t.Context(), tr, tr.StartedAt)
	ok(t, err)
	if !fresh {
		t.Fatalf("trace %s is not fresh", tr.ID)
	}
	return got
}

func changeTrace(t *testing.T, s *store.Store, id muster.TraceID, now time.Duration, change func(*muster.Trace)) muster.Trace {
	t.Helper()
	return must(s.UpdateTrace(t.Context(), ws, id, at(now), func(tr *muster.Trace) error { change(tr); return nil }))(t)
}

// A trace is written once, changed one at a time, and never recorded again. S0-24
func traces(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	addRunner(t, s, "r-0001", "a", "a-0001")
	first := recorded("r-0001", 1, 0)
	first.Lost, first.Missing = map[string]int64{"buffer_full": 3}, map[string]string{"tls_hello": "no BPF"}
	first.Repository, first.RunID, first.Attempt, first.Key, first.JobName, first.Workflow = "Octo/Repo", 77, 1, "build", "build (1)", "ci"
	got := addTrace(t, s, first)
	first.StartedAt = utc(first.StartedAt)
	want(t, "what was added", got, first)
	again := recorded("r-0001", 1, time.Hour)
	again, fresh, err := s.AddTrace(ctx, again, at(time.Hour))
	ok(t, err)
	if fresh {
		t.Error("a number is given twice")
	}
	want(t, "what is there already", again, first)
	_, _, err = s.AddTrace(ctx, recorded("r-none", 1, 0), base)
	wantCode(t, err, muster.CodeNotFound)

	changes := s.Subscribe(ctx)
	id := first.ID
	first = changeTrace(t, s, id, time.Second, func(tr *muster.Trace) {
		tr.ID, tr.Workspace, tr.Job = muster.TraceID{Runner: "r-forged", Number: 9}, other, muster.JobKey{ID: 9}
		tr.Segments, tr.Events, tr.Lost["buffer_full"] = 1, 500, 4
	})
	if first.ID != id || first.Workspace != ws || first.Job.ID != 0 || first.Events != 500 || first.Lost["buffer_full"] != 4 {
		t.Errorf("%+v", first)
	}
	if c := <-changes; c != (muster.Change{Kind: "trace", Workspace: ws, ID: "r-0001"}) {
		t.Errorf("%+v", c)
	}
	want(t, "what is read", must(s.Trace(ctx, ws, id))(t), first)
	broken := errors.New("broken")
	if _, err := s.UpdateTrace(ctx, ws, id, base, func(tr *muster.Trace) error { tr.Events = 9; return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := s.UpdateTrace(ctx, ws, id, at(time.Minute), func(tr *muster.Trace) error { tr.Segments++; return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	open := must(s.OpenTraces(ctx, at(2*time.Minute), 9))(t)
	wantLen(t, "silent", open, 1)
	if open[0].Segments != 9 {
		t.Errorf("%d segments", open[0].Segments)
	}
	wantLen(t, "heard of since", must(s.OpenTraces(ctx, at(time.Minute), 9))(t), 0)
	changeTrace(t, s, id, time.Hour, func(tr *muster.Trace) {
		tr.State, tr.EndedAt, tr.ExpiresAt = muster.TraceComplete, at(time.Hour), at(24*time.Hour)
	})
	wantLen(t, "not analysed", must(s.UnanalysedTraces(ctx, at(0), at(2*time.Hour), 9))(t), 1)
	changeTrace(t, s, id, time.Hour, func(tr *muster.Trace) { tr.AnalysedAt = at(time.Hour) })
	wantLen(t, "analysed", must(s.UnanalysedTraces(ctx, at(0), at(2*time.Hour), 9))(t), 0)
	wantLen(t, "open", must(s.OpenTraces(ctx, at(999*time.Hour), 9))(t), 0)
	_, err = s.UpdateTrace(ctx, ws, id, base, func(tr *muster.Trace) error { tr.State = muster.TraceRecording; return nil })
	wantCode(t, err, muster.CodeConflict)
	wantLen(t, "expired too early", must(s.ExpiredTraces(ctx, at(23*time.Hour), 9))(t), 0)
	wantLen(t, "expired", must(s.ExpiredTraces(ctx, at(24*time.Hour), 9))(t), 1)
	changeTrace(t, s, id, 25*time.Hour, func(tr *muster.Trace) { tr.DeletedAt = at(25 * time.Hour) })
	wantLen(t, "expired and deleted", must(s.ExpiredTraces(ctx, at(99*time.Hour), 9))(t), 0)
	_, err = s.Trace(ctx, ws, muster.TraceID{Runner: "r-0001", Number: 2})
	wantCode(t, err, muster.CodeNotFound)
	want(t, "counts", must(s.TraceCounts(ctx, ws))(t), map[muster.TraceState]int{muster.TraceComplete: 1})
}

func traceQueries(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	for i := 1; i <= 6; i++ {
		id := muster.RunnerID(fmt.Sprintf("r-%04d", i))
		addRunner(t, s, id, "a", "")
		tr := recorded(id, 1, time.Duration(i)*time.Minute)
		tr.Repository, tr.RunID, tr.Key, tr.JobName, tr.Workflow = "Octo/Repo", int64(i/2), "build", "build (1)", "ci"
		if i > 3 {
			tr.Pool, tr.Repository, tr.Key, tr.JobName = "b", "octo/other", "", "lint"
		}
		if i == 6 {
			tr.State, tr.Reason, tr.EndedAt = muster.TraceLost, "gone", at(time.Hour)
		}
		addTrace(t, s, tr)
	}
	for name, c := range map[string]struct {
		filter store.TraceFilter
		want   string
	}{
		"all":        {store.TraceFilter{}, "6 5 4 3 2 1"},
		"limit":      {store.TraceFilter{Limit: 2}, "6 5"},
		"pool":       {store.TraceFilter{Pool: "b"}, "6 5 4"},
		"repository": {store.TraceFilter{Repository: "OCTO/repo"}, "3 2 1"},
		"run":        {store.TraceFilter{RunID: 1}, "3 2"},
		"runner":     {store.TraceFilter{Runner: "r-0004"}, "4"},
		"key":        {store.TraceFilter{Key: "build"}, "3 2 1"},
		"name":       {store.TraceFilter{Key: "lint"}, "6 5 4"},
		"baseline":   {store.TraceFilter{Baseline: "Octo/Repo/ci/build"}, "3 2 1"},
		"states":     {store.TraceFilter{States: []muster.TraceState{muster.TraceLost, muster.TraceComplete}}, "6"},
		"window":     {store.TraceFilter{Since: at(2 * time.Minute), Until: at(4 * time.Minute)}, "3 2"},
		"job":        {store.TraceFilter{Job: muster.JobKey{ID: 5}}, ""},
	} {
		got := ""
		for _, tr := range must(s.Traces(ctx, ws, c.filter))(t) {
			got += " " + string(tr.ID.Runner[5:])
		}
		if got != "" {
			got = got[1:]
		}
		want(t, name, got, c.want)
	}
	addTrace(t, s, recorded("r-0003", 12, time.Hour))
	addTrace(t, s, recorded("r-0003", 2, time.Hour))
	var all []string
	for after := (muster.TraceID{}); ; {
		page := must(s.TracesAfter(ctx, ws, store.TraceFilter{Since: at(2 * time.Minute), Limit: 3}, after))(t)
		for _, tr := range page {
			all = append(all, tr.ID.String())
			after = tr.ID
		}
		if len(page) < 3 {
			break
		}
	}
	want(t, "page by page", strings.Join(all, " "), "r-0002 r-0003 r-0003.2 r-0003.12 r-0004 r-0005 r-0006")
}

// A trace and its job find each other, whichever is known first; what the runner says of
// its job adds none that GitHub did not say it ran. S0-24 S4-56
func traceFindsJob(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	traced := func(id muster.RunnerID, number int) muster.JobKey {
		return must(s.Trace(ctx, ws, muster.TraceID{Runner: id, Number: number}))(t).Job
	}
	// The trace comes first, then GitHub's word; the runner says nothing, or lies.
	for i, run := range []int64{0, 999} {
		id := muster.RunnerID(fmt.Sprintf("r-000%d", i+1))
		addRunner(t, s, id, "a", "name-"+string(id))
		tr := recorded(id, 1, 0)
		tr.RunID = run
		addTrace(t, s, tr)
		want(t, "before GitHub's word", traced(id, 1), muster.JobKey{})
		apply(t, s, event(int64(10+i), "in_progress", "name-"+string(id)))
		want(t, "after it", traced(id, 1), muster.JobKey{ID: int64(10 + i), Attempt: 1})
	}
	wantLen(t, "traces of the job", must(s.TracesOfJob(ctx, ws, muster.JobKey{ID: 10}))(t), 1)
	wantLen(t, "of its attempt", must(s.TracesOfJob(ctx, ws, muster.JobKey{ID: 10, Attempt: 1}))(t), 1)
	wantLen(t, "of another attempt", must(s.TracesOfJob(ctx, ws, muster.JobKey{ID: 10, Attempt: 2}))(t), 0)
	wantLen(t, "of no job", must(s.TracesOfJob(ctx, ws, muster.JobKey{}))(t), 0)
	// GitHub's word comes first, for a name that becomes known later still.
	addRunner(t, s, "r-0003", "a", "")
	apply(t, s, event(30, "in_progress", "late"))
	addTrace(t, s, recorded("r-0003", 1, 0))
	update(t, s, "r-0003", func(r *muster.Runner) { r.Name = "late" })
	want(t, "named late", traced("r-0003", 1), muster.JobKey{ID: 30, Attempt: 1})
	// A kept runner: each trace finds the job of its run.
	addRunner(t, s, "r-0004", "a", "kept")
	addTrace(t, s, recorded("r-0004", 1, 0))
	for i := int64(4); i <= 6; i++ {
		e := event(10*i, "in_progress", "kept")
		e.StartedAt = at(time.Duration(i) * time.Minute)
		tr := recorded("r-0004", int(i-2), 0)
		tr.RunID, tr.Attempt, tr.JobName = i, 1, "build"
		if i == 5 {
			apply(t, s, e)
			addTrace(t, s, tr)
		} else {
			addTrace(t, s, tr)
			apply(t, s, e)
		}
		want(t, "of the kept runner", traced("r-0004", int(i-2)), muster.JobKey{ID: 10 * i, Attempt: 1})
	}
}

func detections(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	addRunner(t, s, "r-0001", "a", "a-0001")
	addRunner(t, s, "r-0002", "b", "b-0001")
	one, two := recorded("r-0001", 1, 0), recorded("r-0002", 1, 0)
	one.Repository, two.Repository, two.Pool = "Octo/Repo", "octo/other", "b"
	addTrace(t, s, one)
	addTrace(t, s, two)
	apply(t, s, event(1, "in_progress", "a-0001"))
	found := func(rule string, s muster.Severity, after time.Duration) muster.Detection {
		return muster.Detection{Rule: rule, Severity: s, Title: rule + " fired", Ancestry: []string{"sh"}, Seq: []uint64{1, 2}, Count: 2, At: at(after)}
	}
	ok(t, s.PutDetections(ctx, ws, one.ID, []muster.Detection{found("old", muster.SeverityLow, 0)}))
	for range 2 { // the second time is an analysis that was repeated
		ok(t, s.PutDetections(ctx, ws, one.ID, []muster.Detection{found("a", muster.SeverityCritical, time.Hour), found("b", muster.SeverityInfo, 0)}))
	}
	ok(t, s.PutDetections(ctx, ws, two.ID, []muster.Detection{found("a", muster.SeverityMedium, 2*time.Hour)}))
	wantCode(t, s.PutDetections(ctx, ws, muster.TraceID{Runner: "r-0001", Number: 2}, nil), muster.CodeNotFound)
	for name, c := range map[string]struct {
		filter store.DetectionFilter
		want   string
	}{
		"all":        {store.DetectionFilter{}, "2a 1a 1b "},
		"trace":      {store.DetectionFilter{Trace: one.ID}, "1a 1b "},
		"rule":       {store.DetectionFilter{Rule: "a"}, "2a 1a "},
		"severity":   {store.DetectionFilter{Severity: muster.SeverityMedium}, "2a 1a "},
		"worst":      {store.DetectionFilter{Severity: muster.SeverityCritical}, "1a "},
		"window":     {store.DetectionFilter{Since: at(time.Minute), Until: at(2 * time.Hour)}, "1a "},
		"pool":       {store.DetectionFilter{Pool: "b"}, "2a "},
		"repository": {store.DetectionFilter{Repository: "octo/REPO"}, "1a 1b "},
		"job":        {store.DetectionFilter{Job: muster.JobKey{ID: 1}}, "1a 1b "},
		"limit":      {store.DetectionFilter{Limit: 1}, "2a "},
	} {
		got := ""
		for _, d := range must(s.Detections(ctx, ws, c.filter))(t) {
			got += string(d.Trace.Runner[5:]) + d.Rule + " "
		}
		want(t, name, got, c.want)
	}
	d := found("a", muster.SeverityCritical, time.Hour)
	d.Workspace, d.Trace, d.At = ws, one.ID, utc(d.At)
	want(t, "as it was put", must(s.Detections(ctx, ws, store.DetectionFilter{Trace: one.ID}))(t)[0], d)
	ok(t, s.PutDetections(ctx, ws, one.ID, nil))
	wantLen(t, "after nothing was found", must(s.Detections(ctx, ws, store.DetectionFilter{Trace: one.ID}))(t), 0)
}

// Two analyses that learn at the same moment lose nothing of each other.
func baselines(t *testing.T, s *store.Store) {
	ctx := t.Context()
	doc, version, err := s.Baseline(ctx, ws, "octo/repo/ci/build")
	ok(t, err)
	if doc != nil || version != 0 {
		t.Fatalf("%q, %d", doc, version)
	}
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for {
				doc, version, err := s.Baseline(ctx, ws, "name")
				if err != nil {
					t.Error(err)
					return
				}
				if err = s.PutBaseline(ctx, ws, "name", append(doc, byte('a'+i)), version); err == nil {
					return
				}
				if muster.CodeOf(err) != muster.CodeConflict {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	doc, version, err = s.Baseline(ctx, ws, "name")
	ok(t, err)
	if len(doc) != 6 || version != 6 {
		t.Errorf("%q, version %d", doc, version)
	}
	heard := s.Subscribe(ctx)
	for _, name := range []string{"Octo/app/c_i/build", "octo/app/ci/100%", "octo/web/ci/build"} {
		ok(t, s.PutBaseline(ctx, ws, name, []byte("x"), 0))
	}
	if c := <-heard; c.Kind != "baseline" || c.ID != "Octo/app/c_i/build" || c.Workspace != ws {
		t.Errorf("heard of %+v", c)
	}
	for _, c := range []struct {
		text, after string
		limit       int
		want        []string
	}{
		{"", "", 0, []string{"Octo/app/c_i/build", "name", "octo/app/ci/100%", "octo/web/ci/build"}},
		{"OCTO/App", "", 0, []string{"Octo/app/c_i/build", "octo/app/ci/100%"}},
		{"c_i", "", 0, []string{"Octo/app/c_i/build"}}, {"%", "", 0, []string{"octo/app/ci/100%"}},
		{"octo", "Octo/app/c_i/build", 1, []string{"octo/app/ci/100%"}}, {"other", "", 0, nil},
	} {
		want(t, fmt.Sprintf("names with %q after %q", c.text, c.after), must(s.BaselineNames(ctx, ws, c.text, c.after, c.limit))(t), c.want)
	}
}

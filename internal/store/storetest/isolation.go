package storetest

import (
	"bytes"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/secretbox"
	"github.com/muster-ci/muster/internal/store"
)

// instanceWide are the methods that are about no workspace, and why.
var instanceWide = map[string]string{
	"SaveDelivery": "a delivery belongs to an App", "Undispatched": "", "MarkDispatched": "", "DeferDelivery": "", "ReopenDelivery": "", "Delivery": "",
	"Deliveries": "", "HaveDeliveries": "", "PruneDeliveries": "", "Watermark": "facts of the control plane", "SetWatermark": "", "DropWatermarks": "",
	"Installation": "it tells the workspace (4-40)", "PutInstallation": "", "LiveRunners": "the sweep's",
	"UseBootToken": "the token tells the workspace", "RunnerBySession": "the token tells the workspace",
	"PruneScaleSetJobs": "retention", "PruneDecisions": "retention", "PruneRunnerLogs": "retention", "OpenTraces": "the sweep's", "UnanalysedTraces": "the sweep's", "ExpiredTraces": "retention", "Subscribe": "each change tells its workspace", "Ping": "", "Close": "", "Backup": "",
}

// Nothing of one workspace is found from another, by any method, and nothing
// done there changes it here. S4-46 4-40
func isolation(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	addRunner(t, s, "r-0001", "a", "a-0001")
	addRunner(t, s, "r-0003", "a", "a-0003")
	update(t, s, "r-0003", func(r *muster.Runner) { r.ActiveAt = base })
	apply(t, s, event(1, "queued", ""))
	apply(t, s, event(1, "in_progress", "a-0001"))
	ok(t, s.AppendRunnerLog(ctx, ws, "r-0001", 0, []byte("log")))
	must(s.PutInstallation(ctx, muster.Installation{ID: 7, App: "app", Workspace: ws, Account: "octo", State: "suspended", UpdatedAt: base}))(t)
	must(s.WriteReceipt(ctx, receipt(1, "success")))(t)
	must(s.WriteWaste(ctx, waste("r-0009", "a", 0)))(t)
	ok(t, s.RecordFinding(ctx, muster.Finding{At: base, Workspace: ws, Kind: "k", Subject: "s", Action: "a"}))
	ok(t, s.SaveBootToken(ctx, muster.BootToken{JTI: "jti", Runner: "r-0001", Workspace: ws, ExpiresAt: at(time.Hour)}))
	note(t, s, &muster.ScaleSetStatistics{Assigned: 1}, 0, assignment("one", 7, muster.ScaleSetJobAssigned))
	must(s.UpdateMachine(ctx, ws, vm, func(m *muster.Machine) error { m.Reason = "ours"; return nil }))(t)
	tr := addTrace(t, s, recorded("r-0001", 1, 0))
	ok(t, s.PutDetections(ctx, ws, tr.ID, []muster.Detection{{Rule: "rule", Severity: muster.SeverityHigh, At: base}}))
	ok(t, s.PutBaseline(ctx, ws, "baseline", []byte("learnt"), 0))
	one := muster.JobKey{ID: 1, Attempt: 1}
	_, hash := secretbox.NewSession([32]byte{9})

	// Each of them returns what it found in the other workspace.
	reads := map[string]func() (any, error){
		"Installations":  func() (any, error) { return s.Installations(ctx, other) },
		"Job":            func() (any, error) { return s.Job(ctx, other, one) },
		"JobByID":        func() (any, error) { return s.JobByID(ctx, other, 1) },
		"Jobs":           func() (any, error) { return s.Jobs(ctx, other, store.JobFilter{}) },
		"Sightings":      func() (any, error) { return s.Sightings(ctx, other, one) },
		"JobCounts":      func() (any, error) { return s.JobCounts(ctx, other) },
		"Ahead":          func() (any, error) { return s.Ahead(ctx, other, "a", at(time.Hour)) },
		"NewestRunners":  func() (any, error) { return s.NewestRunners(ctx, other, "a", 9) },
		"StaleJobs":      func() (any, error) { return s.StaleJobs(ctx, other, "app", at(time.Hour), 9) },
		"OpenJobs":       func() (any, error) { return s.OpenJobs(ctx, other, "app", "Octo/Repo") },
		"UnnamedRunners": func() (any, error) { return s.UnnamedRunners(ctx, other, at(-time.Hour), at(time.Hour), 9) },
		"TriedJob":       func() (any, error) { return nil, s.TriedJob(ctx, other, one.ID, at(time.Hour)) },
		"OldestOpen":     func() (any, error) { return s.OldestOpen(ctx, other) },
		"OldestQueued":   func() (any, error) { at, _, err := s.OldestQueued(ctx, other, "a"); return at, err },
		"Unreceipted":    func() (any, error) { return s.Unreceipted(ctx, other, at(-time.Hour), at(time.Hour), 9) },
		"MoveJobs":       func() (any, error) { return s.MoveJobs(ctx, other, "a", "b", []int64{one.ID}) },
		"Pool":           func() (any, error) { return s.Pool(ctx, other, "a") },
		"Pools":          func() (any, error) { return s.Pools(ctx, other) },
		"PoolOverride":   func() (any, error) { return s.PoolOverride(ctx, other, "a") },
		"Offering":       func() (any, error) { return s.Offering(ctx, other, "small") },
		"Offerings":      func() (any, error) { return s.Offerings(ctx, other) },
		"PoolSnapshot":   func() (any, error) { return s.PoolSnapshot(ctx, other, "a") },
		"Decisions":      func() (any, error) { return s.Decisions(ctx, other, "", 0) },
		"ScaleSet":       func() (any, error) { return s.ScaleSet(ctx, other, "a") },
		"ScaleSetJobs":   func() (any, error) { return s.ScaleSetJobs(ctx, other, "a") },
		"JobsOfRun":      func() (any, error) { return s.JobsOfRun(ctx, other, "Octo/Repo", 0) },
		"Decision":       func() (any, error) { return s.Decision(ctx, other, 1) },
		"DecisionAt":     func() (any, error) { return s.DecisionAt(ctx, other, "a", at(time.Hour)) },
		"Sensed":         func() (any, error) { return s.Sensed(ctx, other, at(-time.Hour), time.Time{}) },
		"SpentSince":     func() (any, error) { return s.SpentSince(ctx, other, "default", at(-time.Hour)) },
		"Demand":         func() (any, error) { return s.Demand(ctx, other, "a", at(-time.Hour), at(time.Hour)) },
		"Supply":         func() (any, error) { return s.Supply(ctx, other, "a", at(-time.Hour), at(time.Hour)) },
		"LastDecision": func() (any, error) {
			d, found, err := s.LastDecision(ctx, other, "a")
			if found {
				return d, err
			}
			return nil, err
		},
		"Runner":         func() (any, error) { return s.Runner(ctx, other, "r-0001") },
		"RunnerByName":   func() (any, error) { return s.RunnerByName(ctx, other, "a-0001") },
		"Runners":        func() (any, error) { return s.Runners(ctx, other, store.RunnerFilter{}) },
		"RunnerEvents":   func() (any, error) { return s.RunnerEvents(ctx, other, "r-0001") },
		"RunnerLog":      func() (any, error) { return s.RunnerLog(ctx, other, "r-0001") },
		"Receipt":        func() (any, error) { return s.Receipt(ctx, other, one) },
		"Receipts":       func() (any, error) { return s.Receipts(ctx, other, store.UsageFilter{}) },
		"Wastes":         func() (any, error) { return s.Wastes(ctx, other, store.UsageFilter{}) },
		"UsageSummary":   func() (any, error) { return s.UsageSummary(ctx, other, store.UsageFilter{}, "pool") },
		"Findings":       func() (any, error) { return s.Findings(ctx, other, 0) },
		"Trace":          func() (any, error) { return s.Trace(ctx, other, tr.ID) },
		"Traces":         func() (any, error) { return s.Traces(ctx, other, store.TraceFilter{}) },
		"TracesAfter":    func() (any, error) { return s.TracesAfter(ctx, other, store.TraceFilter{}, muster.TraceID{}) },
		"TracesOfJob":    func() (any, error) { return s.TracesOfJob(ctx, other, one) },
		"TracesOfRunner": func() (any, error) { return s.TracesOfRunner(ctx, other, "r-0001") },
		"DetectionsOf":   func() (any, error) { return s.DetectionsOf(ctx, other, tr.ID) },
		"TraceCounts":    func() (any, error) { return s.TraceCounts(ctx, other) },
		"Detections":     func() (any, error) { return s.Detections(ctx, other, store.DetectionFilter{}) },
		"Baseline":       func() (any, error) { doc, _, err := s.Baseline(ctx, other, "baseline"); return doc, err },
		"BaselineNames":  func() (any, error) { return s.BaselineNames(ctx, other, "", "", 0) },
		"Machine":        func() (any, error) { return s.Machine(ctx, other, vm) },
		"Machines":       func() (any, error) { return s.Machines(ctx, other) },
		"MachineDemand": func() (any, error) {
			d, err := s.MachineDemand(ctx, other, vm)
			return append(d.Queued, d.Running...), err
		},
	}
	// These must refuse with CodeNotFound.
	refused := map[string]func() error{
		"SetPoolOverride": func() error { return s.SetPoolOverride(ctx, other, "a", muster.PoolOverride{Enabled: new(false)}) },
		"UpdateRunner": func() error {
			_, err := s.UpdateRunner(ctx, other, "r-0001", base, "note", func(r *muster.Runner) error { r.Busy = false; return nil })
			return err
		},
		"UpdateScaleSetJob": func() error {
			return s.UpdateScaleSetJob(ctx, other, "a", "one", func(j *muster.ScaleSetJob) error { j.Over = muster.OverLapsed; return nil })
		},
		"AddTrace": func() error {
			theirs := tr
			theirs.Workspace = other
			_, _, err := s.AddTrace(ctx, theirs, base)
			return err
		},
		"UpdateTrace": func() error {
			_, err := s.UpdateTrace(ctx, other, tr.ID, base, func(t *muster.Trace) error { t.Events = 1; return nil })
			return err
		},
		"PutDetections":   func() error { return s.PutDetections(ctx, other, tr.ID, nil) },
		"AppendRunnerLog": func() error { return s.AppendRunnerLog(ctx, other, "r-0001", 3, []byte("more")) },
		"SaveBootToken": func() error {
			return s.SaveBootToken(ctx, muster.BootToken{JTI: "jti-2", Runner: "r-0001", Workspace: other, ExpiresAt: at(time.Hour)})
		},
		"PutSession": func() error { return s.PutSession(ctx, other, "r-0001", hash) },
		"RecordDecision": func() error {
			d := decision(muster.ScaleUp, "", "", 0)
			d.Workspace, d.Runners = other, []muster.Runner{{ID: "r-0002"}}
			_, err := s.RecordDecision(ctx, d)
			return err
		},
	}
	// These make something of their own there.
	writes := map[string]func() error{
		"ApplyJobEvent": func() error {
			a, err := s.ApplyJobEvent(ctx, other, event(1, "completed", "a-0001"), toA)
			if a.Before != "" || a.Runner != "" {
				t.Errorf("ApplyJobEvent: %+v", a)
			}
			return err
		},
		"WriteReceipt": func() error {
			r := receipt(1, "failure")
			r.Workspace = other
			fresh, err := s.WriteReceipt(ctx, r)
			if !fresh {
				t.Error("WriteReceipt is not fresh")
			}
			return err
		},
		"WriteWaste": func() error {
			w := waste("r-0009", "a", 0)
			w.Workspace = other
			fresh, err := s.WriteWaste(ctx, w)
			if !fresh {
				t.Error("WriteWaste is not fresh")
			}
			return err
		},
		"NoteScaleSet": func() error {
			return s.NoteScaleSet(ctx, other, "a", []muster.ScaleSetJob{assignment("one", 7, muster.ScaleSetJobCompleted)}, &muster.ScaleSetStatistics{Assigned: 5}, base)
		},
		"AddRunner": func() error {
			return s.AddRunner(ctx, muster.Runner{ID: "r-0009", Workspace: other, Name: "check-9", Purpose: muster.PurposeCheck, State: muster.RunnerProvisioning, CreatedAt: base})
		},
		"PutBaseline":   func() error { return s.PutBaseline(ctx, other, "baseline", []byte("theirs"), 0) },
		"RecordFinding": func() error { return s.RecordFinding(ctx, muster.Finding{At: base, Workspace: other, Kind: "k"}) },
		"UpdateMachine": func() error {
			_, err := s.UpdateMachine(ctx, other, vm, func(m *muster.Machine) error {
				if m.Reason != "" {
					t.Errorf("UpdateMachine: %+v", m)
				}
				m.Reason = "theirs"
				return nil
			})
			return err
		},
		"SyncPools": func() error { return s.SyncPools(ctx, other, []muster.Pool{pool("z")}, []muster.Offering{{Name: "z"}}) },
	}
	for m := range reflect.TypeFor[*store.Store]().Methods() {
		_, wide := instanceWide[m.Name]
		if !wide && reads[m.Name] == nil && refused[m.Name] == nil && writes[m.Name] == nil {
			t.Errorf("method %s is not tried from another workspace", m.Name)
		}
	}
	for name, read := range reads {
		got, err := read()
		if code := muster.CodeOf(err); code != muster.CodeNotFound && code != "" {
			t.Errorf("%s: error %v", name, err)
		}
		if err == nil && got != nil && !reflect.ValueOf(got).IsZero() && (reflect.ValueOf(got).Kind() != reflect.Map || reflect.ValueOf(got).Len() > 0) {
			t.Errorf("%s finds %v", name, got)
		}
	}
	here := func() string {
		return fmt.Sprint(must(s.Jobs(ctx, ws, store.JobFilter{}))(t), must(s.Runners(ctx, ws, store.RunnerFilter{}))(t), must(s.RunnerEvents(ctx, ws, "r-0001"))(t),
			must(s.Pools(ctx, ws))(t), must(s.Offerings(ctx, ws))(t), must(s.Decisions(ctx, ws, "", 0))(t), must(s.Receipts(ctx, ws, store.UsageFilter{}))(t),
			must(s.Wastes(ctx, ws, store.UsageFilter{}))(t), must(s.Findings(ctx, ws, 0))(t), must(s.Sightings(ctx, ws, one))(t), string(must(s.RunnerLog(ctx, ws, "r-0001"))(t)),
			must(s.ScaleSet(ctx, ws, "a"))(t), must(s.ScaleSetJobs(ctx, ws, "a"))(t), must(s.Traces(ctx, ws, store.TraceFilter{}))(t),
			must(s.Detections(ctx, ws, store.DetectionFilter{}))(t), must(s.BaselineNames(ctx, ws, "", "", 0))(t))
	}
	before := here()
	for name, try := range refused {
		if err := try(); muster.CodeOf(err) != muster.CodeNotFound {
			t.Errorf("%s: error %v, want not_found", name, err)
		}
	}
	for name, write := range writes {
		if err := write(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	want(t, "this workspace after all that", here(), before)
	_, err := s.RunnerBySession(ctx, hash)
	wantCode(t, err, muster.CodeUnauthenticated)
	// A pool of the same name and owner there is not suspended by what is installed here.
	z := pool("a")
	ok(t, s.SyncPools(ctx, other, []muster.Pool{z}, nil))
	snap := must(s.PoolSnapshot(ctx, other, "a"))(t)
	if snap.Suspended || len(snap.Runners) != 0 || len(snap.Jobs) != 0 {
		t.Fatalf("snapshot there: %+v", snap)
	}
}

// What proves who somebody is lies nowhere in the database. S4-60 4-10
func noSecrets(t *testing.T, url string) {
	ctx := t.Context()
	s := Open(t, url)
	withPools(t, s)
	addRunner(t, s, "r-0001", "a", "")
	box := must(secretbox.New(bytes.Repeat([]byte{3}, secretbox.KeySize)))(t)
	tokens := must(secretbox.NewTokens(box))(t)
	boot := must(tokens.Mint(secretbox.BootClaims{JTI: "jti", Runner: "r-0001", Workspace: ws, Pool: "a", Audience: "x", ExpiresAt: at(time.Hour)}))(t)
	ok(t, s.SaveBootToken(ctx, muster.BootToken{JTI: "jti", Runner: "r-0001", Workspace: ws, ExpiresAt: at(time.Hour)}))
	_, _, err := s.UseBootToken(ctx, "jti", "canary-nonce", base, time.Minute)
	ok(t, err)
	session, hash := secretbox.NewSession([32]byte{1})
	ok(t, s.PutSession(ctx, ws, "r-0001", hash))
	for table, rows := range Dump(t, Raw(t, url)) {
		for _, row := range rows {
			for column, v := range row {
				text := fmt.Sprintf("%s", v)
				for _, secret := range []string{boot.Reveal(), session.Reveal(), "canary-nonce"} {
					if bytes.Contains([]byte(text), []byte(secret)) {
						t.Errorf("%s.%s holds %q", table, column, secret)
					}
				}
			}
		}
	}
}

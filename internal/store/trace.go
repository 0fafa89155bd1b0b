package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// TraceFilter selects traces; the zero value selects the newest of all.
type TraceFilter struct {
	// Job with the Attempt 0 is every attempt.
	Job    muster.JobKey
	Runner muster.RunnerID
	RunID  int64
	Pool   string
	// Repository is owner/name, whatever the case. Key is the job's key or its name.
	Repository string
	Key        string
	// Baseline is that of muster.Trace.
	Baseline string
	States   []muster.TraceState
	// Since and Until are the window [Since, Until) of StartedAt; zero means open.
	Since, Until time.Time
	// Limit is how many to return at most; 0 means 10,000.
	Limit int
}

// DetectionFilter selects findings of rules; the zero value selects the newest of all.
type DetectionFilter struct {
	Trace muster.TraceID
	// Job with the Attempt 0 is every attempt.
	Job        muster.JobKey
	Pool       string
	Repository string
	Rule       string
	// Severity is the least; "" is any.
	Severity muster.Severity
	// Since and Until are the window [Since, Until) of At; zero means open.
	Since, Until time.Time
	// Limit is how many to return at most; 0 means 10,000.
	Limit int
}

// AddTrace writes a trace, if none of its runner has the number, and returns the one that
// is there then. CodeNotFound for an unknown runner. The job that it belongs to is found
// by what the runner is known to have run; Job is otherwise set when GitHub tells.
func (s *Store) AddTrace(ctx context.Context, tr muster.Trace, now time.Time) (there muster.Trace, fresh bool, err error) {
	err = s.write(ctx, func(t *tx) error {
		fresh = false
		// The runner's row is locked first, as everywhere.
		r, err := t.runner(tr.Workspace, tr.ID.Runner, t.forUpdate())
		if err != nil {
			return err
		}
		var known bool
		if there, known, err = t.trace(tr.Workspace, tr.ID, ""); err != nil || known {
			return err
		}
		there, fresh = normal(tr), true
		if err := t.linkTrace(r, &there); err != nil {
			return err
		}
		return t.putTrace(there, now, false)
	})
	return there, fresh && err == nil, err
}

// UpdateTrace reads a trace, lets change alter it, and writes it back, in one transaction;
// change may run more than once and must only alter its argument. The trace's id and
// workspace stay, and so does its job once GitHub has told which it was. A trace that has
// ended is not recorded again: CodeConflict. An error of change ends it without a trace.
func (s *Store) UpdateTrace(ctx context.Context, workspace string, id muster.TraceID, now time.Time, change func(*muster.Trace) error) (muster.Trace, error) {
	var tr muster.Trace
	err := s.write(ctx, func(t *tx) error {
		// What names a job takes the runner before its traces.
		r, err := t.runner(workspace, id.Runner, t.forUpdate())
		if err != nil {
			return err
		}
		old, known, err := t.trace(workspace, id, t.forUpdate())
		if err == nil && !known {
			err = noTrace(id)
		}
		if err != nil {
			return err
		}
		before, err := encode(old)
		if err != nil {
			return err
		}
		tr = old
		if err := change(&tr); err != nil {
			return err
		}
		tr = normal(tr)
		tr.ID, tr.Workspace, tr.Job = id, workspace, old.Job
		if tr.State == muster.TraceRecording && old.State != muster.TraceRecording {
			return muster.Errorf(muster.CodeConflict, "trace %s is %s and is not recorded again", id, old.State)
		}
		if err := t.linkTrace(r, &tr); err != nil {
			return err
		}
		if after, err := encode(tr); err != nil || after == before {
			return err
		}
		return t.putTrace(tr, now, true)
	})
	if err != nil {
		return muster.Trace{}, err
	}
	return tr, nil
}

// Trace returns a trace.
func (s *Store) Trace(ctx context.Context, workspace string, id muster.TraceID) (muster.Trace, error) {
	var tr muster.Trace
	err := s.read(ctx, func(t *tx) (err error) {
		var known bool
		if tr, known, err = t.trace(workspace, id, ""); err == nil && !known {
			err = noTrace(id)
		}
		return err
	})
	return tr, err
}

// Traces returns traces, those that began last first.
func (s *Store) Traces(ctx context.Context, workspace string, f TraceFilter) ([]muster.Trace, error) {
	w := f.where(workspace)
	w.limit("started_at DESC, runner DESC, number DESC", f.Limit, maxRows)
	return s.traces(ctx, "SELECT doc FROM traces"+w.text.String(), w.args...)
}

// TracesAfter returns traces in the order of their ids, those after one: whoever wants all of
// any number of traces asks again after the last.
func (s *Store) TracesAfter(ctx context.Context, workspace string, f TraceFilter, after muster.TraceID) ([]muster.Trace, error) {
	w := f.where(workspace)
	w.and("(runner > ? OR runner = ? AND number > ?)", after.Runner, after.Runner, after.Number)
	w.limit("runner, number", f.Limit, maxRows)
	return s.traces(ctx, "SELECT doc FROM traces"+w.text.String(), w.args...)
}

// where selects the traces of a workspace, whatever their order and number.
func (f TraceFilter) where(workspace string) *where {
	w := &where{}
	w.and("workspace = ?", workspace)
	w.andJob("", f.Job)
	if f.Runner != "" {
		w.and("runner = ?", f.Runner)
	}
	if f.RunID != 0 {
		w.and("run_id <> 0 AND run_id = ?", f.RunID)
	}
	if f.Pool != "" {
		w.and("pool = ?", f.Pool)
	}
	if f.Repository != "" {
		w.and("repository = ?", fold(f.Repository))
	}
	if f.Key != "" {
		w.and("(job_key = ? OR job_name = ?)", f.Key, f.Key)
	}
	if f.Baseline != "" {
		w.and("baseline <> '' AND baseline = ?", f.Baseline)
	}
	andIn(w, "state", f.States)
	w.andWindow("started_at", f.Since, f.Until)
	return w
}

// TracesOfJob returns the traces of one attempt of a job, or of all of them if Attempt is
// 0, those that began last first. There is one, unless GitHub gave the job to a second
// runner.
func (s *Store) TracesOfJob(ctx context.Context, workspace string, k muster.JobKey) ([]muster.Trace, error) {
	if k.ID == 0 {
		return nil, nil
	}
	return s.Traces(ctx, workspace, TraceFilter{Job: k})
}

// TracesOfRunner returns the traces of a runner, the first one first.
func (s *Store) TracesOfRunner(ctx context.Context, workspace string, id muster.RunnerID) ([]muster.Trace, error) {
	return s.traces(ctx, "SELECT doc FROM traces WHERE workspace = ? AND runner = ? ORDER BY number LIMIT ?", workspace, id, maxRows)
}

// DetectionsOf returns what rules found in a trace, in the order in which it was put.
func (s *Store) DetectionsOf(ctx context.Context, workspace string, id muster.TraceID) ([]muster.Detection, error) {
	return s.Detections(ctx, workspace, DetectionFilter{Trace: id})
}

// OpenTraces returns the traces of all workspaces that are being recorded and of which
// nothing was heard since a time, those that have been silent longest first.
func (s *Store) OpenTraces(ctx context.Context, silentSince time.Time, limit int) ([]muster.Trace, error) {
	return s.traces(ctx, "SELECT doc FROM traces WHERE state = 'recording' AND updated_at < ? ORDER BY updated_at LIMIT ?", silentSince, limit)
}

// UnanalysedTraces returns the traces of all workspaces that ended in [from, to), have
// events, and were not analysed yet, those that ended first first.
func (s *Store) UnanalysedTraces(ctx context.Context, from, to time.Time, limit int) ([]muster.Trace, error) {
	return s.traces(ctx, "SELECT doc FROM traces WHERE analysed = 0 AND ended_at >= ? AND ended_at < ? AND ended_at <> 0 ORDER BY ended_at LIMIT ?", from, to, limit)
}

// ExpiredTraces returns the traces of all workspaces whose events are to be deleted, those
// that expired first first.
func (s *Store) ExpiredTraces(ctx context.Context, now time.Time, limit int) ([]muster.Trace, error) {
	return s.traces(ctx, "SELECT doc FROM traces WHERE expires_at <> 0 AND expires_at <= ? ORDER BY expires_at LIMIT ?", now, limit)
}

// TraceCounts returns how many traces of a workspace are in each state; states without
// any are absent.
func (s *Store) TraceCounts(ctx context.Context, workspace string) (map[muster.TraceState]int, error) {
	counts := map[muster.TraceState]int{}
	err := s.read(ctx, func(t *tx) error {
		return t.rows("SELECT state, count(*) FROM traces WHERE workspace = ? GROUP BY state", []any{workspace}, func(scan scanner) error {
			var state muster.TraceState
			var n int
			err := scan(&state, &n)
			counts[state] = n
			return err
		})
	})
	return counts, err
}

func (s *Store) traces(ctx context.Context, query string, args ...any) ([]muster.Trace, error) {
	var out []muster.Trace
	err := s.read(ctx, func(t *tx) (err error) {
		out, err = all[muster.Trace](t, query, args...)
		return err
	})
	return out, err
}

// PutDetections writes what rules found in a trace, in the place of what was there.
// CodeNotFound for an unknown trace.
func (s *Store) PutDetections(ctx context.Context, workspace string, id muster.TraceID, found []muster.Detection) error {
	return s.write(ctx, func(t *tx) error {
		_, known, err := t.trace(workspace, id, t.forUpdate())
		if err == nil && !known {
			err = noTrace(id)
		}
		if err != nil {
			return err
		}
		if _, err := t.exec("DELETE FROM detections WHERE workspace = ? AND runner = ? AND number = ?", workspace, id.Runner, id.Number); err != nil {
			return err
		}
		for i, d := range found {
			d = normal(d)
			d.Workspace, d.Trace = workspace, id
			text, err := encode(d)
			if err != nil {
				return err
			}
			if _, err := t.exec("INSERT INTO detections (workspace, runner, number, position, rule, severity, at, doc) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
				workspace, id.Runner, id.Number, i, d.Rule, rank(d.Severity), d.At, text); err != nil {
				return err
			}
		}
		t.changed("trace", workspace, id.String())
		return nil
	})
}

// Detections returns what rules found, the last first; of one trace, in the order in which
// it was put.
func (s *Store) Detections(ctx context.Context, workspace string, f DetectionFilter) ([]muster.Detection, error) {
	var w where
	w.and("d.workspace = ?", workspace)
	order := "d.at DESC, d.runner DESC, d.number DESC, d.position DESC"
	if f.Trace.Runner != "" {
		w.and("d.runner = ? AND d.number = ?", f.Trace.Runner, max(1, f.Trace.Number))
		order = "d.position"
	}
	if f.Rule != "" {
		w.and("d.rule = ?", f.Rule)
	}
	if f.Severity != "" {
		w.and("d.severity >= ?", rank(f.Severity))
	}
	w.andWindow("d.at", f.Since, f.Until)
	w.andJob("r.", f.Job)
	if f.Pool != "" {
		w.and("r.pool = ?", f.Pool)
	}
	if f.Repository != "" {
		w.and("r.repository = ?", fold(f.Repository))
	}
	w.limit(order, f.Limit, maxRows)
	var out []muster.Detection
	err := s.read(ctx, func(t *tx) (err error) {
		out, err = all[muster.Detection](t, `SELECT d.doc FROM detections d JOIN traces r ON r.workspace = d.workspace AND r.runner = d.runner AND r.number = d.number`+w.text.String(), w.args...)
		return err
	})
	return out, err
}

// Baseline returns what was learnt under a name; nothing, and the version 0, if nothing was.
func (s *Store) Baseline(ctx context.Context, workspace, name string) (doc []byte, version int64, err error) {
	err = s.read(ctx, func(t *tx) error {
		_, err := t.row("SELECT doc, version FROM baselines WHERE workspace = ? AND name = ?", []any{workspace, name}, &doc, &version)
		return err
	})
	return doc, version, err
}

// PutBaseline writes what was learnt under a name. version is the one that it was learnt
// upon, as Baseline returned it, and the next is one more; CodeConflict if another one was
// written since: read it again and learn once more.
func (s *Store) PutBaseline(ctx context.Context, workspace, name string, doc []byte, version int64) error {
	return s.write(ctx, func(t *tx) error {
		query := "UPDATE baselines SET doc = ?, version = version + 1 WHERE workspace = ? AND name = ? AND version = ?"
		args := []any{doc, workspace, name, version}
		if version == 0 {
			query, args = "INSERT INTO baselines (doc, workspace, name, version) VALUES (?, ?, ?, 1) ON CONFLICT DO NOTHING", args[:3]
		}
		n, err := t.exec(query, args...)
		if err == nil && n == 0 {
			err = muster.Errorf(muster.CodeConflict, "the baseline %q was learnt by somebody else since version %d", name, version)
		}
		t.changed("baseline", workspace, name)
		return err
	})
}

// BaselineNames returns the names under which something was learnt, in their order: those
// that contain a text, case ignored, and come after a name; "" is no condition. A limit of 0
// means 10,000.
func (s *Store) BaselineNames(ctx context.Context, workspace, text, after string, limit int) ([]string, error) {
	var w where
	w.and("workspace = ? AND name > ?", workspace, after)
	if text != "" {
		w.and(`lower(name) LIKE ? ESCAPE '\'`, "%"+likeEscape.Replace(strings.ToLower(text))+"%")
	}
	w.limit("name", limit, maxRows)
	var out []string
	err := s.read(ctx, func(t *tx) error {
		return t.rows("SELECT name FROM baselines"+w.text.String(), w.args, func(scan scanner) error {
			var name string
			err := scan(&name)
			out = append(out, name)
			return err
		})
	})
	return out, err
}

// analysed reports whether there is nothing to analyse any more.
func analysed(tr muster.Trace) bool {
	return !tr.AnalysedAt.IsZero() || tr.AnalysisError != "" || !tr.DeletedAt.IsZero() || tr.State != muster.TraceRecording && tr.Segments == 0
}

func noTrace(id muster.TraceID) error {
	return muster.Errorf(muster.CodeNotFound, "there is no trace %s", id)
}

// rank is how a severity lies in a column: the higher, the worse. One that is not known
// counts as the least.
func rank(s muster.Severity) int { return max(0, slices.Index(muster.Severities, s)) }

func (t *tx) trace(workspace string, id muster.TraceID, forUpdate string) (muster.Trace, bool, error) {
	return one[muster.Trace](t, "SELECT doc FROM traces WHERE workspace = ? AND runner = ? AND number = ?"+forUpdate, workspace, id.Runner, max(1, id.Number))
}

func (t *tx) putTrace(tr muster.Trace, now time.Time, known bool) error {
	text, err := encode(tr)
	if err != nil {
		return err
	}
	expires := tr.ExpiresAt
	if !tr.DeletedAt.IsZero() {
		expires = time.Time{}
	}
	args := []any{tr.State, tr.Pool, tr.Job.ID, tr.Job.Attempt, fold(tr.Repository), tr.RunID, tr.Key, tr.JobName, tr.Baseline(),
		tr.StartedAt, tr.EndedAt, expires, now, analysed(tr), text, tr.Workspace, tr.ID.Runner, tr.ID.Number}
	query := `UPDATE traces SET state = ?, pool = ?, job = ?, attempt = ?, repository = ?, run_id = ?, job_key = ?, job_name = ?, baseline = ?,
		started_at = ?, ended_at = ?, expires_at = ?, updated_at = ?, analysed = ?, doc = ? WHERE workspace = ? AND runner = ? AND number = ?`
	if !known {
		query = `INSERT INTO traces (state, pool, job, attempt, repository, run_id, job_key, job_name, baseline, started_at, ended_at, expires_at, updated_at, analysed, doc, workspace, runner, number)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`
	}
	n, err := t.exec(query, args...)
	if err == nil && n == 0 {
		err = errAgain // another control plane made the row since this one looked
	}
	t.changed("trace", tr.Workspace, tr.ID.String())
	return err
}

// linkTrace finds the job that a trace is of among those that GitHub said its runner ran.
// What the runner itself says chooses among them and never adds one.
func (t *tx) linkTrace(r muster.Runner, tr *muster.Trace) error {
	if tr.Job.ID != 0 {
		return nil
	}
	jobs, err := all[muster.Job](t, "SELECT doc FROM jobs WHERE workspace = ? AND runner_name <> '' AND runner_name IN (SELECT name FROM runner_names WHERE workspace = ? AND runner = ?) ORDER BY id, attempt",
		tr.Workspace, tr.Workspace, tr.ID.Runner)
	if err != nil {
		return fmt.Errorf("read the jobs of runner %s: %w", r.ID, err)
	}
	var found []muster.Job
	for _, j := range jobs {
		if j.Runner == r.ID && couldBe(*tr, j) {
			found = append(found, j)
		}
	}
	if len(found) == 0 && tr.ID.Number == 1 && len(jobs) == 1 && jobs[0].Key == r.Job {
		found = jobs // a runner of one job has traced that one, whatever was said in it
	}
	if len(found) == 1 {
		tr.Job = found[0].Key
	}
	return nil
}

// couldBe reports whether what a runner said of the job that it traced fits a job that it
// ran.
func couldBe(tr muster.Trace, j muster.Job) bool {
	return tr.RunID != 0 && tr.RunID == j.RunID && (tr.Attempt == 0 || tr.Attempt == j.Key.Attempt) && (tr.JobName == "" || tr.JobName == j.Name)
}

// linkTraces has the traces of a runner find the job that has just become known.
func (t *tx) linkTraces(r muster.Runner, now time.Time) error {
	traces, err := all[muster.Trace](t, "SELECT doc FROM traces WHERE workspace = ? AND runner = ? AND job = 0 ORDER BY number"+t.forUpdate(), r.Workspace, r.ID)
	if err != nil {
		return fmt.Errorf("read the traces of runner %s: %w", r.ID, err)
	}
	for _, tr := range traces {
		if err := t.linkTrace(r, &tr); err != nil {
			return err
		}
		if tr.Job.ID == 0 {
			continue
		}
		if err := t.putTrace(tr, now, true); err != nil {
			return err
		}
	}
	return nil
}

// andJob wants one job, of any attempt if it names none.
func (w *where) andJob(table string, k muster.JobKey) {
	if k.ID == 0 {
		return
	}
	w.and(table+"job <> 0 AND "+table+"job = ?", k.ID)
	if k.Attempt != 0 {
		w.and(table+"attempt = ?", k.Attempt)
	}
}

// andWindow wants a time in [since, until).
func (w *where) andWindow(column string, since, until time.Time) {
	if !since.IsZero() {
		w.and(column+" >= ?", since)
	}
	if !until.IsZero() {
		w.and(column+" < ?", until)
	}
}

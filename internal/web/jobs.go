package web

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

const (
	// pageSize is how many rows a list shows.
	pageSize = 50
	// maxQueryText bounds what a filter passes on.
	maxQueryText = 200
	// logLines is how many lines of a log a page shows; the rest is a link away.
	logLines = 400
	// maxJobLog bounds what is read of a job's log for a page.
	maxJobLog = 4 << 20
)

// jobRow is one job in a list.
type jobRow struct {
	muster.Job
	Phases phases
}

// Verdict is the job's conclusion or, until it has one, its state.
func (j jobRow) Verdict() string {
	if j.Conclusion != "" {
		return j.Conclusion
	}
	return string(j.State)
}

type jobsView struct {
	Query  JobQuery
	State  string
	Counts jobCounts
	Pools  []PoolView
	Rows   []jobRow
	Older  string // address of the next page, "" if this is the last
	Newest string // address of the first page, "" if this is it
	Any    bool   // there are jobs at all
}

// Filtered reports whether the list is narrowed by more than a state.
func (v jobsView) Filtered() bool {
	return v.Query.Pool != "" || v.Query.Repository != "" || v.Query.Text != "" || v.Query.RunID != 0
}

// StateLink is the address of the same list in another state.
func (v jobsView) StateLink(state string) string {
	q := v.values()
	q.Del("before")
	q.Del("state")
	if state != "" {
		q.Set("state", state)
	}
	return address("/jobs", q)
}

func (v jobsView) values() url.Values {
	q := url.Values{}
	set := func(k, val string) {
		if val != "" {
			q.Set(k, val)
		}
	}
	set("state", v.State)
	set("pool", v.Query.Pool)
	set("repository", v.Query.Repository)
	set("q", v.Query.Text)
	if v.Query.RunID != 0 {
		set("run", strconv.FormatInt(v.Query.RunID, 10))
	}
	return q
}

func address(path string, q url.Values) string {
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

func (s *site) jobs(w http.ResponseWriter, r *http.Request) error {
	ctx, now := r.Context(), s.Now()
	q := r.URL.Query()
	v := jobsView{State: q.Get("state"), Query: JobQuery{Pool: text(q, "pool"), Repository: text(q, "repository"), Text: text(q, "q"), Limit: pageSize + 1}}
	switch state := muster.JobState(v.State); {
	case state.Rank() > 0:
		v.Query.States = []muster.JobState{state}
	case v.State != "":
		return muster.Errorf(muster.CodeInvalid, "there is no job state %q: use waiting, queued, in_progress or completed", v.State)
	}
	var err error
	if v.Query.Before, err = number(q, "before"); err != nil {
		return err
	}
	if v.Query.RunID, err = number(q, "run"); err != nil {
		return err
	}
	if v.Counts, err = s.jobCounts(ctx); err != nil {
		return err
	}
	v.Any = v.Counts.Total() > 0
	if v.Pools, err = s.Reads.Pools(ctx); err != nil {
		return err
	}
	jobs, err := s.Reads.Jobs(ctx, v.Query)
	if err != nil {
		return err
	}
	if v.Query.Before > 0 {
		v.Newest = address("/jobs", v.values())
	}
	if len(jobs) > pageSize {
		jobs = jobs[:pageSize]
		next := v.values()
		next.Set("before", strconv.FormatInt(jobs[pageSize-1].Key.ID, 10))
		v.Older = address("/jobs", next)
	}
	if v.Rows, err = s.jobRows(ctx, jobs, now); err != nil {
		return err
	}
	return s.show(w, r, "jobs", page{Title: "Jobs", Section: "jobs", Body: v})
}

// jobCounts is how many jobs are in each state.
type jobCounts map[muster.JobState]int

// Of is the number in the state named.
func (c jobCounts) Of(state string) int { return c[muster.JobState(state)] }

// Total is the number in all states.
func (c jobCounts) Total() int {
	sum := 0
	for _, n := range c {
		sum += n
	}
	return sum
}

func (s *site) jobCounts(ctx context.Context) (jobCounts, error) {
	counts, err := s.Reads.JobCounts(ctx)
	return counts, err
}

// text is a filter's value, bounded.
func text(q url.Values, name string) string {
	v := strings.TrimSpace(q.Get(name))
	return strings.ToValidUTF8(v[:min(len(v), maxQueryText)], "")
}

// number reads a place in a list or an id from an address; 0 if it is not there.
func number(q url.Values, name string) (int64, error) {
	v := q.Get(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 1 {
		return 0, muster.Errorf(muster.CodeInvalid, "%s=%q is not a number: start again from the list's first page", name, text(q, name))
	}
	return n, nil
}

// jobRows joins jobs with the runners that took them.
func (s *site) jobRows(ctx context.Context, jobs []muster.Job, now time.Time) ([]jobRow, error) {
	var ids []muster.RunnerID
	for _, j := range jobs {
		if j.Runner != "" {
			ids = append(ids, j.Runner)
		}
	}
	byID := map[muster.RunnerID]muster.Runner{}
	if len(ids) > 0 {
		runners, err := s.Reads.Runners(ctx, RunnerQuery{IDs: ids, Limit: len(ids)})
		if err != nil {
			return nil, err
		}
		for _, r := range runners {
			byID[r.ID] = r
		}
	}
	rows := make([]jobRow, len(jobs))
	for i, j := range jobs {
		rows[i] = jobRow{Job: j, Phases: phasesOf(j, byID[j.Runner], now)}
	}
	return rows, nil
}

type jobView struct {
	jobRow
	Ours     *muster.Runner // the runner of ours that took it, nil if none did
	Causes   []muster.Cause
	Timeline []moments
	Steps    []stepRow
	Receipt  *muster.Receipt
	Log      logView // the runner's output
	JobLog   *logView
	CanFetch bool // the job's log can be asked of GitHub
	Sums     []share
	Record   *traceSummary // nil without a trace
	Untraced string        // why there is none, where there should be one
	Kept     bool          // its pool starts machines that are there already
}

// share is one phase with its part in the whole.
type share struct {
	Kind, Label, Hint string
	D                 time.Duration
	Part              string
}

// logView is the end of a log, or why there is none.
type logView struct {
	Text    string
	Before  int // lines that came before
	Path    string
	Problem string
}

func logOf(b []byte, path string) logView {
	text, before := tail(printable(b), logLines)
	return logView{Text: text, Before: before, Path: path}
}

// Waits reports whether the job has not started and may still.
func (v jobView) Waits() bool {
	return v.State == muster.JobWaiting || v.State == muster.JobQueued
}

// Deployment reports whether the job waits for people rather than for a runner.
func (v jobView) Deployment() bool { return v.State == muster.JobWaiting }

func (s *site) job(w http.ResponseWriter, r *http.Request) error {
	ctx, now := r.Context(), s.Now()
	key, err := jobKey(r)
	if err != nil {
		return err
	}
	var v jobView
	if v.Job, err = s.Reads.Job(ctx, key); err != nil {
		return err
	}
	if v.Runner != "" {
		if v.Ours, err = optional(s.Reads.Runner(ctx, v.Runner)); err != nil {
			return err
		}
	}
	if v.Waits() {
		if v.Causes, err = s.Reads.Explain(ctx, v.Key); err != nil {
			return err
		}
	}
	if v.Receipt, err = optional(s.Reads.Receipt(ctx, v.Key)); err != nil {
		return err
	}
	sightings, err := s.Reads.Sightings(ctx, v.Key)
	if err != nil {
		return err
	}
	var runner muster.Runner
	if v.Ours != nil {
		runner = *v.Ours
		b, err := s.Reads.RunnerLog(ctx, runner.ID)
		if err != nil {
			return err
		}
		v.Log = logOf(b, "/runners/"+url.PathEscape(string(runner.ID))+"/log")
	}
	if v.Record, err = s.traceSection(ctx, v.Job); err != nil {
		return err
	}
	if v.RanOnRunner() && (v.Ours == nil || v.Record == nil) {
		pools, err := s.Reads.Pools(ctx)
		if err != nil {
			return err
		}
		var pool *muster.Pool
		if i := slices.IndexFunc(pools, func(p PoolView) bool { return p.Name == v.Pool }); i >= 0 {
			pool = &pools[i].Pool
			v.Kept = pool.Lifecycle == muster.LifecycleKept
		}
		if v.Record == nil && s.Traces != nil {
			v.Untraced = muster.Untraced(v.Job, pool)
		}
	}
	v.Phases = phasesOf(v.Job, runner, now)
	v.Sums = sumsOf(v.Phases)
	v.Timeline = timelineOf(v.Job, v.Ours, sightings, v.Receipt)
	v.Steps = stepsOf(v.Job.Steps, now)
	v.CanFetch = s.JobLogs != nil && v.RanOnRunner() && v.State == muster.JobCompleted
	if v.CanFetch && r.URL.Query().Get("log") == "github" && !isFragment(r) {
		if v.JobLog, err = s.fetchJobLog(ctx, v.Job); err != nil {
			return err
		}
	}
	return s.show(w, r, "job", page{Title: v.Name, Section: "jobs", Body: v})
}

// optional makes nil of what is not there, so that a page can do without it.
func optional[T any](v T, err error) (*T, error) {
	switch {
	case muster.CodeOf(err) == muster.CodeNotFound:
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &v, nil
}

func jobKey(r *http.Request) (muster.JobKey, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id < 1 {
		return muster.JobKey{}, muster.Errorf(muster.CodeNotFound, "there is no job %q: a job's id is a number", r.PathValue("id"))
	}
	key := muster.JobKey{ID: id}
	if a := r.PathValue("attempt"); a != "" {
		if key.Attempt, err = strconv.Atoi(a); err != nil || key.Attempt < 1 {
			return muster.JobKey{}, muster.Errorf(muster.CodeNotFound, "job %d has no attempt %q", id, a)
		}
	}
	return key, nil
}

func sumsOf(p phases) []share {
	var out []share
	for _, k := range phaseKinds {
		for _, s := range p.Segments {
			if s.Kind == k.Kind {
				out = append(out, share{Kind: k.Kind, Label: k.Label, Hint: k.Hint, D: s.D, Part: p.Of(s)})
			}
		}
	}
	return out
}

// fetchJobLog is the end of the job's log, or why GitHub does not give it: GitHub
// deletes logs and limits calls, and the rest of the page stands without.
func (s *site) fetchJobLog(ctx context.Context, j muster.Job) (*logView, error) {
	rc, err := s.JobLogs.JobLog(ctx, j.Repository, j.Key.ID)
	switch {
	case muster.CodeOf(err) == muster.CodeInternal:
		return nil, err
	case err != nil:
		return &logView{Problem: muster.MessageOf(err)}, nil
	}
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, maxJobLog))
	v := logOf(b, "/jobs/"+strconv.FormatInt(j.Key.ID, 10)+"/log") // GitHub's ids name the attempt too
	if err != nil {
		v.Problem = "GitHub stopped in the middle of the log. Fetch it again."
	}
	return &v, nil
}

// jobLog passes a job's log through from GitHub as plain text.
func (s *site) jobLog(w http.ResponseWriter, r *http.Request) error {
	key, err := jobKey(r)
	if err != nil {
		return err
	}
	if s.JobLogs == nil {
		return muster.Errorf(muster.CodeNotFound, "logs cannot be fetched from GitHub here")
	}
	j, err := s.Reads.Job(r.Context(), key)
	if err != nil {
		return err
	}
	rc, err := s.JobLogs.JobLog(r.Context(), j.Repository, j.Key.ID)
	if err != nil {
		return err
	}
	defer rc.Close()
	plain(w, "job-"+strconv.FormatInt(j.Key.ID, 10)+".log")
	_, _ = io.Copy(w, rc) // headers are out: all that is left is to stop
	return nil
}

// plain announces a text that no browser may take for anything else.
func plain(w http.ResponseWriter, name string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Disposition", `inline; filename="`+name+`"`)
}

// stepRow is one step with its place in the job's run.
type stepRow struct {
	muster.Step
	D    time.Duration
	X, W int
	Open bool
}

// Verdict is the step's conclusion or, until it has one, its status.
func (r stepRow) Verdict() string { return cmp.Or(r.Conclusion, r.Status) }

func stepsOf(steps []muster.Step, now time.Time) []stepRow {
	var first, last time.Time
	rows := make([]stepRow, len(steps))
	for i, st := range steps {
		rows[i].Step = st
		if st.StartedAt.IsZero() {
			continue
		}
		end := st.CompletedAt
		if end.IsZero() {
			end, rows[i].Open = now, true
		}
		rows[i].D = max(0, end.Sub(st.StartedAt))
		if first.IsZero() || st.StartedAt.Before(first) {
			first = st.StartedAt
		}
		last = later(last, end)
	}
	whole := last.Sub(first)
	for i := range rows {
		if r := &rows[i]; r.D > 0 && whole > 0 {
			r.X = int(barWidth * float64(r.StartedAt.Sub(first)) / float64(whole))
			r.W = max(6, int(barWidth*float64(r.D)/float64(whole)))
			r.X = min(r.X, barWidth-r.W)
		}
	}
	return rows
}

// moments is one line of a job's timeline.
type moments struct {
	At    time.Time
	Text  string
	Note  string
	Tone  string
	Delay time.Duration // after what it reports, for what a sense saw
	Sense bool
	After time.Duration // after the line before that is not about a sense
	Link  string
}

// timelineOf puts everything that happened to a job in order.
func timelineOf(j muster.Job, r *muster.Runner, seen []Sighting, receipt *muster.Receipt) []moments {
	var ms []moments
	add := func(at time.Time, text, note, tone string) {
		if !at.IsZero() {
			ms = append(ms, moments{At: at, Text: text, Note: note, Tone: tone})
		}
	}
	add(j.CreatedAt, "Created on GitHub", "", "mute")
	for _, s := range seen {
		m := moments{At: s.At, Text: "Seen " + word(s.State) + " by " + word(s.Sense), Tone: "mute", Sense: true}
		if happened := happenedAt(j, s.State); !happened.IsZero() {
			m.Delay = max(0, s.At.Sub(happened))
		}
		if s.Delivery != "" {
			m.Link = "/deliveries/" + url.PathEscape(s.Delivery)
		}
		ms = append(ms, m)
	}
	started := j.StartedAt
	if r != nil {
		add(r.CreatedAt, "Runner decided", string(r.ID), "wait")
		add(r.LaunchedAt, "Accepted by "+r.Provider, r.Instance, "wait")
		add(r.ConnectedAt, "Agent connected", "boot token traded", "wait")
		add(r.ListeningAt, "Runner listening", r.Name, "ok")
	}
	if j.RanOnRunner() {
		if r != nil {
			started = within(started, r.ListeningAt)
		}
		add(started, "Job started", "on "+j.RunnerName, "info")
	}
	add(within(j.CompletedAt, started), "Job completed", word(j.Conclusion), tone(j.Conclusion))
	if r != nil {
		add(r.DestroyedAt, "Machine destroyed", "proven gone", "mute")
	}
	if receipt != nil {
		add(receipt.WrittenAt, "Receipt written", formatMoney(receipt.CostMicroUSD), "mute")
	}
	slices.SortStableFunc(ms, func(a, b moments) int { return a.At.Compare(b.At) })
	var last time.Time
	for i := range ms {
		if ms[i].Sense {
			continue
		}
		if !last.IsZero() {
			ms[i].After = ms[i].At.Sub(last)
		}
		last = ms[i].At
	}
	return ms
}

// within is GitHub's time t, which has no fractions of a second, or the later
// moment of that same second before which it cannot have been.
func within(t, notBefore time.Time) time.Time {
	if notBefore.After(t) && notBefore.Before(t.Add(time.Second)) {
		return notBefore
	}
	return t
}

// happenedAt is when, by GitHub's clock, the job entered the state.
func happenedAt(j muster.Job, s muster.JobState) time.Time {
	switch s {
	case muster.JobWaiting, muster.JobQueued:
		return j.CreatedAt
	case muster.JobInProgress:
		return j.StartedAt
	case muster.JobCompleted:
		return j.CompletedAt
	}
	return time.Time{}
}

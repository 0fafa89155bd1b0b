package web

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

type runnersView struct {
	State, Pool string
	Pools       []PoolView
	Rows        []muster.Runner
	Counts      map[string]int
	Cut         bool // there are more than are shown
}

// StateLink is the address of the same list in another state.
func (v runnersView) StateLink(state string) string {
	q := url.Values{}
	if state != "" {
		q.Set("state", state)
	}
	if v.Pool != "" {
		q.Set("pool", v.Pool)
	}
	return address("/runners", q)
}

// maxRunners is how many runners the list shows: beyond, an operator filters.
const maxRunners = 200

func (s *site) runners(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	v := runnersView{State: q.Get("state"), Pool: text(q, "pool")}
	query := RunnerQuery{Pool: v.Pool, Limit: maxRunners + 1}
	switch state := muster.RunnerState(v.State); state {
	case "":
		query.Live = true
	case muster.RunnerProvisioning, muster.RunnerRegistered, muster.RunnerActive, muster.RunnerDraining, muster.RunnerDestroyed:
		query.States = []muster.RunnerState{state}
	default:
		return muster.Errorf(muster.CodeInvalid, "there is no runner state %q", v.State)
	}
	var err error
	if v.Pools, err = s.Reads.Pools(r.Context()); err != nil {
		return err
	}
	if v.Rows, err = s.Reads.Runners(r.Context(), query); err != nil {
		return err
	}
	if len(v.Rows) > maxRunners {
		v.Rows, v.Cut = v.Rows[:maxRunners], true
	}
	return s.show(w, r, "runners", page{Title: "Runners", Section: "runners", Body: v})
}

type runnerView struct {
	muster.Runner
	JobRow  *jobRow
	Events  []runnerEventRow
	Log     logView
	Steps   []stage
	Lived   time.Duration
	CanSend bool // may still be drained
	Records []traceSummary
}

// runnerEventRow is an event with the time since the one before.
type runnerEventRow struct {
	RunnerEvent
	After time.Duration
}

// stage is one station on the way of a runner.
type stage struct {
	Label string
	At    time.Time
	After time.Duration // since the station before that was reached
}

func (s *site) runner(w http.ResponseWriter, r *http.Request) error {
	ctx, now := r.Context(), s.Now()
	id := muster.RunnerID(r.PathValue("id"))
	var v runnerView
	var err error
	if v.Runner, err = s.Reads.Runner(ctx, id); err != nil {
		return err
	}
	events, err := s.Reads.RunnerEvents(ctx, id)
	if err != nil {
		return err
	}
	for i, e := range events {
		row := runnerEventRow{RunnerEvent: e}
		if i > 0 {
			row.After = e.At.Sub(events[i-1].At)
		}
		v.Events = append(v.Events, row)
	}
	b, err := s.Reads.RunnerLog(ctx, id)
	if err != nil {
		return err
	}
	v.Log = logOf(b, "/runners/"+url.PathEscape(string(id))+"/log")
	if v.Job != (muster.JobKey{}) {
		j, err := optional(s.Reads.Job(ctx, v.Job))
		if err != nil {
			return err
		}
		if j != nil {
			v.JobRow = &jobRow{Job: *j, Phases: phasesOf(*j, v.Runner, now)}
		}
	}
	if v.Records, err = s.tracesOf(ctx, TraceQuery{Runner: id, Limit: maxRunnerTraces}); err != nil {
		return err
	}
	v.Steps = stagesOf(v.Runner)
	v.CanSend = v.State.Live() && v.State != muster.RunnerDraining
	if end := v.DestroyedAt; !end.IsZero() {
		v.Lived = end.Sub(v.CreatedAt)
	}
	return s.show(w, r, "runner", page{Title: v.Name, Section: "runners", Body: v})
}

func stagesOf(r muster.Runner) []stage {
	out := []stage{
		{Label: "decided", At: r.CreatedAt}, {Label: "launched", At: r.LaunchedAt}, {Label: "connected", At: r.ConnectedAt},
		{Label: "listening", At: r.ListeningAt}, {Label: "took a job", At: r.ActiveAt}, {Label: "finished", At: r.FinishedAt}, {Label: "destroyed", At: r.DestroyedAt},
	}
	var last time.Time
	for i := range out {
		if out[i].At.IsZero() {
			continue
		}
		if !last.IsZero() {
			out[i].After = out[i].At.Sub(last)
		}
		last = out[i].At
	}
	return out
}

func (s *site) runnerLog(w http.ResponseWriter, r *http.Request) error {
	id := muster.RunnerID(r.PathValue("id"))
	if _, err := s.Reads.Runner(r.Context(), id); err != nil {
		return err
	}
	b, err := s.Reads.RunnerLog(r.Context(), id)
	if err != nil {
		return err
	}
	plain(w, "runner.log")
	_, _ = w.Write(b)
	return nil
}

func (s *site) drainRunner(w http.ResponseWriter, r *http.Request) error {
	id := muster.RunnerID(r.PathValue("id"))
	reason, err := formText(w, r, "reason")
	if err != nil {
		return err
	}
	if reason == "" {
		reason = "asked for on the dashboard"
	}
	if err := s.Commands.DrainRunner(r.Context(), id, reason); err != nil {
		return err
	}
	return done(w, r, "/runners/"+url.PathEscape(string(id)), "drain")
}

// formText is one bounded value of a posted form.
func formText(w http.ResponseWriter, r *http.Request, name string) (string, error) {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	if err := r.ParseForm(); err != nil {
		return "", muster.Errorf(muster.CodeInvalid, "the form could not be read")
	}
	v := strings.TrimSpace(r.PostForm.Get(name))
	return strings.ToValidUTF8(v[:min(len(v), maxQueryText)], ""), nil
}

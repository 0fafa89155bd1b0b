package web

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/muster-ci/muster"
)

// poolRow is one pool with how it stands.
type poolRow struct {
	PoolView
	Capacity capacity
	Machine  *MachineView // nil for a pool that makes runners
	Last     *DecisionRecord
	queue    []muster.PlanJob // queued, oldest first
}

func (s *site) poolRows(ctx context.Context) ([]poolRow, error) {
	pools, err := s.Reads.Pools(ctx)
	if err != nil {
		return nil, err
	}
	rows := make([]poolRow, len(pools))
	for i, p := range pools {
		snap, err := s.Reads.PoolSnapshot(ctx, p.Name)
		if err != nil {
			return nil, err
		}
		rows[i] = poolRow{PoolView: p, Capacity: capacityOf(snap), queue: queueOf(snap)}
	}
	return rows, nil
}

// queueOf are the queued jobs of a snapshot, oldest first.
func queueOf(s muster.Snapshot) []muster.PlanJob {
	var out []muster.PlanJob
	for _, j := range s.Jobs {
		if j.State == muster.JobQueued {
			out = append(out, j)
		}
	}
	slices.SortStableFunc(out, func(a, b muster.PlanJob) int { return a.QueuedAt.Compare(b.QueuedAt) })
	return out
}

func (s *site) pools(w http.ResponseWriter, r *http.Request) error {
	rows, err := s.poolRows(r.Context())
	if err != nil {
		return err
	}
	for i := range rows {
		if rows[i].Machine, err = s.keptMachine(r, rows[i].PoolView); err != nil {
			return err
		}
		last, err := s.Reads.Decisions(r.Context(), rows[i].Name, 1)
		if err != nil {
			return err
		}
		if len(last) > 0 {
			rows[i].Last = &last[0]
		}
	}
	return s.show(w, r, "pools", page{Title: "Pools", Section: "pools", Body: rows})
}

type poolPage struct {
	poolRow
	Snapshot  muster.Snapshot
	Notes     []muster.Note
	Queue     []jobRow
	QueueMore int
	Decisions []DecisionRecord
	// Traced: what its jobs reach is known, and has a page.
	Traced bool
}

// findPool returns the pool called name.
func (s *site) findPool(ctx context.Context, name string) (PoolView, error) {
	pools, err := s.Reads.Pools(ctx)
	if err != nil {
		return PoolView{}, err
	}
	for _, p := range pools {
		if p.Name == name {
			return p, nil
		}
	}
	return PoolView{}, muster.Errorf(muster.CodeNotFound, "there is no pool %q", name)
}

func (s *site) pool(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	var v poolPage
	var err error
	if v.PoolView, err = s.findPool(ctx, r.PathValue("name")); err != nil {
		return err
	}
	if v.Snapshot, err = s.Reads.PoolSnapshot(ctx, v.Name); err != nil {
		return err
	}
	if v.Machine, err = s.keptMachine(r, v.PoolView); err != nil {
		return err
	}
	v.Notes = muster.Notes(v.Snapshot, s.Now())
	v.Traced = s.Traces != nil
	v.Capacity = capacityOf(v.Snapshot)
	v.queue = queueOf(v.Snapshot)
	const shown = 12
	var jobs []muster.Job
	for _, pj := range v.queue[:min(shown, len(v.queue))] {
		j, err := optional(s.Reads.Job(ctx, muster.JobKey{ID: pj.ID}))
		if err != nil {
			return err
		}
		if j != nil {
			jobs = append(jobs, *j)
		}
	}
	if v.Queue, err = s.jobRows(ctx, jobs, s.Now()); err != nil {
		return err
	}
	v.QueueMore = len(v.queue) - len(v.Queue)
	if v.Decisions, err = s.Reads.Decisions(ctx, v.Name, 20); err != nil {
		return err
	}
	return s.show(w, r, "pool", page{Title: v.Name, Section: "pools", Body: v})
}

// setPool enables, disables, suspends, resumes or scales a pool, as the form's
// "do" says.
func (s *site) setPool(w http.ResponseWriter, r *http.Request) error {
	do, err := formText(w, r, "do")
	if err != nil {
		return err
	}
	p, err := s.findPool(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	var o muster.PoolOverride
	switch do {
	case "enable", "disable":
		enabled := do == "enable"
		o.Enabled = &enabled
	case "suspend", "resume":
		suspended := do == "suspend"
		o.Suspended = &suspended
	case "scale":
		if o.MinRunners, err = formCount(r, "min"); err != nil {
			return err
		}
		if o.MaxRunners, err = formCount(r, "max"); err != nil {
			return err
		}
	default:
		return muster.Errorf(muster.CodeInvalid, "a pool can be enabled, disabled, suspended, resumed or scaled, not %q", do)
	}
	if err := p.Override(o).Scaling.Validate(); err != nil {
		return err
	}
	if err := s.Commands.SetPool(r.Context(), p.Name, o); err != nil {
		return err
	}
	return done(w, r, "/pools/"+url.PathEscape(p.Name), do)
}

// formCount is a number of runners in a form that was read before.
func formCount(r *http.Request, name string) (*int, error) {
	n, err := strconv.Atoi(r.PostForm.Get(name))
	if err != nil || n < 0 || n > 10_000 {
		return nil, muster.Errorf(muster.CodeInvalid, "%s runners: %q is not a number from 0 to 10000", name, r.PostForm.Get(name))
	}
	return &n, nil
}

func (s *site) nudgePool(w http.ResponseWriter, r *http.Request) error {
	p, err := s.findPool(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	if err := s.Commands.NudgePool(r.Context(), p.Name); err != nil {
		return err
	}
	return done(w, r, "/pools/"+url.PathEscape(p.Name), "nudge")
}

type decisionView struct {
	DecisionRecord
	Again    muster.Decision
	Same     bool
	Capacity capacity
	Notes    []muster.Note
	Oldest   []muster.PlanJob // the first of the queue
	More     int
	Kept     bool // decided about a machine, not by the planner
}

// decision shows what the planner saw and decides again from it.
func (s *site) decision(w http.ResponseWriter, r *http.Request) error {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return muster.Errorf(muster.CodeNotFound, "there is no decision %q: a decision's id is a number", r.PathValue("id"))
	}
	d, err := s.Reads.Decision(r.Context(), id)
	if err != nil {
		return err
	}
	if d.Pool != r.PathValue("name") {
		return muster.Errorf(muster.CodeNotFound, "decision %d is of another pool", id)
	}
	v := decisionView{DecisionRecord: d, Again: muster.Plan(d.Snapshot, d.At), Capacity: capacityOf(d.Snapshot), Notes: muster.Notes(d.Snapshot, d.At)}
	a, b := d.Decision, v.Again
	v.Kept = d.Snapshot.Pool.Keeps()
	v.Same = a.Action == b.Action && a.Target == b.Target && a.Rule == b.Rule && a.Create == b.Create && a.Warm == b.Warm && slices.Equal(a.Drain, b.Drain)
	v.Oldest = queueOf(d.Snapshot)
	const shown = 10
	if n := len(v.Oldest); n > shown {
		v.Oldest, v.More = v.Oldest[:shown], n-shown
	}
	return s.show(w, r, "decision", page{Title: "Decision of " + d.Pool, Section: "pools", Body: v})
}

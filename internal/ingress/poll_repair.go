package ingress

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// respite is when a job whose state was asked for may be asked for again, and how
// long that is to wait.
type respite struct {
	next time.Time
	wait time.Duration
}

// fewLooks is how many looks pass before a job whose answer told nothing new is
// asked for again, and then ever more.
const fewLooks = 4

// open asks for jobs that the books believe to be under way although their runs
// are not among the active ones. A run that was never seen active, because it
// began and ended between two looks, tells of its end in no other way when its
// webhooks are lost. Only repositories of which everything was seen count.
func (v *look) open(ctx context.Context, repos []*repo) error {
	if v.cfg.Books == nil || v.cfg.MaxOpen < 0 {
		return nil
	}
	type doubt struct {
		repo *repo
		job  muster.Job
	}
	var doubts []doubt
	for _, r := range repos {
		if r.cut {
			continue
		}
		jobs, err := v.cfg.Books.OpenJobs(ctx, r.name)
		if err != nil {
			return fmt.Errorf("look up the open jobs of %s: %w", r.name, err)
		}
		asked := r.asked
		r.asked = map[muster.JobKey]respite{} // what is over is forgotten
		for _, j := range jobs {
			if q, ok := asked[j.Key]; ok {
				r.asked[j.Key] = q
			}
			if v.doubtful(r, j) {
				doubts = append(doubts, doubt{r, j})
			}
		}
	}
	slices.SortFunc(doubts, func(a, b doubt) int {
		return cmp.Or(a.job.SeenAt.Compare(b.job.SeenAt), cmp.Compare(a.job.Key.ID, b.job.Key.ID))
	})
	// Several jobs of one run are one call.
	type key struct {
		repo    *repo
		run     int64
		attempt int
	}
	together := map[key][]doubt{}
	var order []key
	for _, d := range doubts {
		k := key{d.repo, d.job.RunID, d.job.Key.Attempt}
		if together[k] == nil {
			order = append(order, k)
		}
		together[k] = append(together[k], d)
	}
	for _, k := range order[:min(len(order), v.cfg.MaxOpen)] {
		jobs := make([]muster.Job, 0, len(together[k]))
		for _, d := range together[k] {
			jobs = append(jobs, d.job)
		}
		v.calls++
		answered, err := v.lookUp(ctx, jobs)
		if err != nil && answered {
			return err // offered again by the next look
		}
		if err != nil && stops(err) {
			if err := v.stop(err); err != nil {
				return err
			}
			continue
		}
		v.missed = 0
		for _, j := range jobs {
			wait := min(max(2*k.repo.asked[j.Key].wait, fewLooks*v.cfg.Every), v.cfg.StaleAfter)
			k.repo.asked[j.Key] = respite{next: v.begun.Add(wait), wait: wait}
		}
	}
	return nil
}

// doubtful reports whether a job that the books believe to be open should be asked
// for: its run was not seen, and others had their time to tell.
func (v *look) doubtful(r *repo, j muster.Job) bool {
	if j.RunID == 0 {
		return false // it says nothing that no list shows its run
	}
	if one := r.runs[j.RunID]; one != nil && one.Attempt <= j.Key.Attempt {
		return false // it is active, or has just ended and has its turn
	}
	heard := j.SeenAt
	if j.StartedAt.After(heard) {
		heard = j.StartedAt
	}
	return v.begun.Sub(heard) >= max(v.cfg.Grace, settle) && !v.begun.Before(r.asked[j.Key].next)
}

const (
	// evidence is for how long the job of a runner is looked for.
	evidence = 6 * time.Hour
	// searchTries is how often all its repositories are gone through for a runner
	// that said that it runs a job, and fewTries for one that died before it could.
	searchTries, fewTries = 6, 3
	// searchRuns is how many ended runs of one repository are weighed at a time, and
	// searchJobs of how many of those the jobs are asked for.
	searchRuns, searchJobs = 500, 20
	// hintTries is how often the run is asked for that a runner named, before its job is
	// searched for as if it had said nothing: whoever controls a machine may say anything.
	hintTries = 2
	// searchBack is how long before a runner was made its job's run may have been
	// created: GitHub keeps a job queued for a day.
	searchBack = 24 * time.Hour
	// skew is by how much GitHub's clock may differ from ours.
	skew = 10 * time.Minute
)

// hunt is what is remembered of the search for jobs of which no event came at all,
// and which a runner took between two looks: all that is left of such a job here is
// that runner, whose agent saw a job. It is nothing while there is none. The Inbox keeps
// it: what a process that is killed has gone through, the next one does not go through again.
type hunt struct {
	// Runners are those whose jobs are looked for.
	Runners map[muster.RunnerID]*quarry `json:"runners,omitempty"`
	// Listed is when a repository's runs were last listed, by lower-case name.
	Listed map[string]time.Time `json:"listed,omitempty"`
	// Read are runs whose jobs were asked for, as they were then.
	Read map[int64]readRun `json:"read,omitempty"`
}

type quarry struct {
	Due   time.Time `json:"due"`             // repositories listed since then have been gone through
	Tries int       `json:"tries,omitempty"` // that are over
	// Hinted counts how often the run was asked for that it named.
	Hinted int `json:"hinted,omitempty"`
}

type readRun struct {
	Attempt   int       `json:"attempt"`
	Status    string    `json:"status"`
	UpdatedAt time.Time `json:"updated_at"`
	At        time.Time `json:"at"`
}

// maxKeptReads bounds how many runs are kept as read, the last ones.
const maxKeptReads = 500

func (p *Poller) huntName() string { return "hunt/" + p.cfg.App }

// remember takes up what a process before has left.
func (p *Poller) remember(ctx context.Context) error {
	if p.remembered || p.cfg.Inbox == nil {
		return nil
	}
	value, err := p.cfg.Inbox.Watermark(ctx, p.huntName())
	if err != nil {
		return fmt.Errorf("read what was looked for: %w", err)
	}
	if p.remembered = true; json.Unmarshal([]byte(value), &p.hunt) != nil {
		p.hunt = hunt{} // it is looked for anew
	}
	for id, q := range p.hunt.Runners {
		if q == nil {
			delete(p.hunt.Runners, id)
		}
	}
	p.huntKept = value
	return nil
}

// keepHunt leaves the hunt to the next process.
func (p *Poller) keepHunt(ctx context.Context) error {
	if p.cfg.Inbox == nil {
		return nil
	}
	value := ""
	if len(p.hunt.Runners) > 0 {
		kept := p.hunt
		if ids := slices.SortedFunc(maps.Keys(kept.Read), func(a, b int64) int { return kept.Read[b].At.Compare(kept.Read[a].At) }); len(ids) > maxKeptReads {
			kept.Read = maps.Clone(kept.Read)
			for _, id := range ids[maxKeptReads:] {
				delete(kept.Read, id)
			}
		}
		text, err := json.Marshal(kept)
		if err != nil {
			return err
		}
		value = string(text)
	}
	if value == p.huntKept {
		return nil
	}
	if err := p.cfg.Inbox.SetWatermark(ctx, p.huntName(), value); err != nil {
		return fmt.Errorf("keep what was looked for: %w", err)
	}
	p.huntKept = value
	return nil
}

// hintedRun is a run that runners say they have jobs of.
type hintedRun struct {
	of      muster.WorkflowRun
	runners []muster.RunnerID
}

// ground is a repository to be searched and for whom.
type ground struct {
	name    string
	pushed  time.Time
	runners []muster.Runner
}

// search looks for the jobs of runners that nobody named, a few calls at a time:
// in their scopes' repositories, those last pushed to first, among the runs that
// changed at about the time at which the runner ended.
func (p *Poller) search(ctx context.Context, pools []muster.Pool) error {
	if p.cfg.Books == nil || p.cfg.MaxSearch < 0 {
		return nil
	}
	if err := p.remember(ctx); err != nil {
		return err
	}
	return cmp.Or(p.searchNow(ctx, pools, time.Now()), p.keepHunt(ctx))
}

func (p *Poller) searchNow(ctx context.Context, pools []muster.Pool, now time.Time) error {
	unnamed, err := p.cfg.Books.Unnamed(ctx, now.Add(-evidence), now.Add(-cmp.Or(p.cfg.Grace, p.cfg.Every)))
	if err != nil {
		return fmt.Errorf("look up runners: %w", err)
	}
	before := p.hunt
	p.hunt.Runners = map[muster.RunnerID]*quarry{}
	if len(unnamed) == 0 {
		p.hunt = hunt{}
		return nil
	}
	for _, r := range unnamed { // also those that an error keeps this round from
		if q := before.Runners[r.ID]; q != nil {
			p.hunt.Runners[r.ID] = q
		}
	}
	if p.hunt.Listed == nil {
		p.hunt.Listed = map[string]time.Time{}
	}
	if p.hunt.Read == nil {
		p.hunt.Read = map[int64]readRun{}
	}
	v := &look{Poller: p, pools: pools, begun: now}
	told := map[int64]*hintedRun{}
	repositories := map[muster.RunnerID][]string{}
	grounds := map[string]*ground{}
	for _, r := range unnamed {
		i := slices.IndexFunc(pools, func(pool muster.Pool) bool { return pool.Name == r.Pool && (pool.App == p.cfg.App || pool.App == "") })
		if i < 0 {
			continue // another App's
		}
		q := before.Runners[r.ID]
		if q == nil {
			q = &quarry{Due: now}
		}
		p.hunt.Runners[r.ID] = q
		if q.Due.After(now) || q.Tries >= triesOf(r) || p.cfg.GitHub.Stretch(pools[i].Scope) <= 0 {
			continue
		}
		if r.RunHint.Run != 0 && q.Hinted < hintTries && pools[i].Scope.Covers(r.RunHint.Repository) {
			run, known, err := v.hinted(ctx, r.RunHint)
			if err != nil {
				return err
			}
			if known {
				if told[run.ID] == nil {
					told[run.ID] = &hintedRun{of: run}
				}
				told[run.ID].runners = append(told[run.ID].runners, r.ID)
				continue
			}
		}
		repos, err := v.repositoriesOf(ctx, pools[i])
		if err != nil && stops(err) {
			return err
		}
		repositories[r.ID] = []string{}
		for _, one := range repos {
			key := strings.ToLower(one.Name)
			repositories[r.ID] = append(repositories[r.ID], key)
			if !p.hunt.Listed[key].Before(q.Due) {
				continue
			}
			if grounds[key] == nil {
				grounds[key] = &ground{name: one.Name, pushed: one.PushedAt}
			}
			grounds[key].runners = append(grounds[key].runners, r)
		}
	}
	if err := v.askHinted(ctx, told); err != nil {
		return err
	}
	order := make([]string, 0, len(grounds))
	for key := range grounds {
		order = append(order, key)
	}
	slices.SortFunc(order, func(a, b string) int {
		return cmp.Or(grounds[b].pushed.Compare(grounds[a].pushed), cmp.Compare(a, b))
	})
	for _, key := range order {
		if v.calls >= p.cfg.MaxSearch {
			break
		}
		whole, err := v.comb(ctx, grounds[key])
		if err != nil && stops(err) {
			return fmt.Errorf("in %s: %w", grounds[key].name, err)
		}
		if whole || err != nil {
			p.hunt.Listed[key] = now
		}
	}
	for _, r := range unnamed {
		repos, searched := repositories[r.ID]
		q := p.hunt.Runners[r.ID]
		if !searched || slices.ContainsFunc(repos, func(key string) bool { return p.hunt.Listed[key].Before(q.Due) }) {
			continue
		}
		q.Tries++
		q.Due = now.Add(min(p.cfg.Every<<(q.Tries-1), evidence))
		if q.Tries == triesOf(r) {
			p.cfg.Logger.DebugContext(ctx, "no run names the job that a runner took", "app", p.cfg.App, "runner", r.ID, "name", r.Name)
		}
	}
	return nil
}

// hinted is the run that a runner says its job is of. Only one that the books know a job of
// counts: of another nobody has said whether its repository is public.
func (v *look) hinted(ctx context.Context, h muster.RunHint) (run muster.WorkflowRun, known bool, err error) {
	jobs, err := v.cfg.Books.JobsOfRun(ctx, h.Repository, h.Run)
	if err != nil {
		return run, false, fmt.Errorf("look up the jobs of run %d: %w", h.Run, err)
	}
	i := slices.IndexFunc(jobs, func(j muster.Job) bool { return j.App == v.cfg.App })
	if i < 0 {
		return run, false, nil
	}
	j := jobs[i]
	return muster.WorkflowRun{
		ID: h.Run, Attempt: h.Attempt, Repository: j.Repository, PublicRepo: j.PublicRepo,
		Trigger: j.Trigger, Workflow: j.Workflow, HeadBranch: j.HeadBranch, HeadSHA: j.HeadSHA,
	}, true, nil
}

// askHinted asks for the jobs of runs that runners named, one call for each run.
func (v *look) askHinted(ctx context.Context, told map[int64]*hintedRun) error {
	for _, id := range slices.Sorted(maps.Keys(told)) {
		if v.calls >= v.cfg.MaxSearch {
			return nil
		}
		if err := v.ask(ctx, &run{WorkflowRun: told[id].of}); err != nil {
			return fmt.Errorf("for a runner that says that it runs a job of it: %w", err)
		}
		for _, r := range told[id].runners {
			q := v.hunt.Runners[r]
			q.Hinted++
			q.Due = v.begun.Add(v.cfg.Every)
		}
	}
	return nil
}

func triesOf(r muster.Runner) int {
	if r.ActiveAt.IsZero() {
		return fewTries
	}
	return searchTries
}

// repositoriesOf returns the repositories whose jobs a pool's runners may take.
func (v *look) repositoriesOf(ctx context.Context, pool muster.Pool) ([]muster.RemoteRepository, error) {
	switch {
	case pool.Scope.Kind == muster.ScopeRepository:
		return []muster.RemoteRepository{{Name: pool.Scope.String()}}, nil
	case len(pool.Repositories) > 0:
		var out []muster.RemoteRepository
		for _, name := range pool.Repositories {
			if pool.Scope.Covers(name) {
				out = append(out, muster.RemoteRepository{Name: name})
			}
		}
		return out, nil
	}
	if v.owner = v.owners[ownerKey(pool.Scope)]; v.owner == nil {
		v.owner = &owner{lists: map[muster.Scope]*listing{}} // its pools are not polled any more
	}
	return v.list(ctx, pool.Scope)
}

// comb goes through the runs of one repository. whole is false if there was no
// time for those that matter most.
func (v *look) comb(ctx context.Context, g *ground) (whole bool, err error) {
	runs, err := v.candidates(ctx, g)
	if err != nil {
		return false, err
	}
	names := map[string]bool{}
	var last time.Time
	for _, r := range g.runners {
		names[r.Name] = true
		if r.ActiveAt.After(last) {
			last = r.ActiveAt
		}
	}
	read := 0
	for _, one := range runs {
		was, known := v.hunt.Read[one.ID]
		same := known && was.Attempt == one.Attempt && was.Status == one.Status && was.UpdatedAt.Equal(one.UpdatedAt)
		if same && (one.Status == string(muster.JobCompleted) || was.At.Sub(last) > settle) {
			continue
		}
		if read == searchJobs {
			return true, nil // the others when this is tried again
		}
		if v.calls >= v.cfg.MaxSearch {
			return false, nil
		}
		read++
		if err := v.ask(ctx, &run{WorkflowRun: one}); err != nil {
			return false, err
		}
		v.hunt.Read[one.ID] = readRun{Attempt: one.Attempt, Status: one.Status, UpdatedAt: one.UpdatedAt, At: v.begun}
		jobs, err := v.cfg.Books.JobsOfRun(ctx, one.Repository, one.ID)
		if err != nil {
			return false, fmt.Errorf("look up the jobs of run %d: %w", one.ID, err)
		}
		for _, j := range jobs {
			if j.RunnerName != "" && names[j.RunnerName] {
				delete(names, j.RunnerName)
				v.cfg.Logger.InfoContext(ctx, "found the job that a runner took and nobody told of", "app", v.cfg.App, "job", j.Key.String(), "repository", one.Repository, "runner", j.RunnerName)
			}
		}
		if len(names) == 0 {
			break
		}
	}
	return true, nil
}

// candidates lists the runs that may hold the runners' jobs, the likeliest first: a
// run changes last when one of its jobs does, so what changed nearest to the end of
// a runner. Of runs that the books know the job may be known, too.
func (v *look) candidates(ctx context.Context, g *ground) ([]muster.WorkflowRun, error) {
	from, first, last, alive := v.begun, v.begun, time.Time{}, false
	for _, r := range g.runners {
		busy := cmp.Or(r.ActiveAt, r.FinishedAt)
		if r.CreatedAt.Before(from) {
			from = r.CreatedAt
		}
		if busy.Before(first) {
			first = busy
		}
		if busy.After(last) {
			last = busy
		}
		alive = alive || r.FinishedAt.IsZero() && r.State.Live()
	}
	v.calls++
	runs, total, err := v.cfg.GitHub.RunsCreated(ctx, g.name, string(muster.JobCompleted), from.Add(-searchBack), last.Add(skew), searchRuns)
	if err == nil && total > len(runs) {
		// Too many for one list: those of the first runner's time, too.
		var more []muster.WorkflowRun
		v.calls++
		more, _, err = v.cfg.GitHub.RunsCreated(ctx, g.name, string(muster.JobCompleted), from.Add(-searchBack), first.Add(skew), searchRuns)
		runs = append(runs, more...)
	}
	if err != nil {
		return nil, fmt.Errorf("list completed runs of %s: %w", g.name, err)
	}
	if alive {
		v.calls++
		active, _, err := v.cfg.GitHub.Runs(ctx, g.name, string(muster.JobInProgress))
		if err != nil {
			return nil, fmt.Errorf("list in_progress runs of %s: %w", g.name, err)
		}
		runs = append(runs, active...)
	}
	off := map[int64]time.Duration{}
	runs = slices.DeleteFunc(runs, func(one muster.WorkflowRun) bool {
		if _, twice := off[one.ID]; twice {
			return true
		}
		nearest := time.Duration(-1)
		for _, r := range g.runners {
			if one.UpdatedAt.Before(cmp.Or(r.ActiveAt, r.CreatedAt).Add(-skew)) && one.Status == string(muster.JobCompleted) {
				continue // it was over before the runner was busy
			}
			ended := cmp.Or(r.FinishedAt, r.DestroyedAt, v.begun)
			if d := one.UpdatedAt.Sub(ended).Abs(); nearest < 0 || d < nearest {
				nearest = d
			}
		}
		off[one.ID] = nearest
		return nearest < 0
	})
	near := func(a, b muster.WorkflowRun) int {
		return cmp.Or(cmp.Compare(off[a.ID], off[b.ID]), cmp.Compare(b.ID, a.ID))
	}
	slices.SortFunc(runs, near)
	likely := runs[:min(len(runs), 3*searchJobs)]
	for _, one := range likely {
		jobs, err := v.cfg.Books.JobsOfRun(ctx, one.Repository, one.ID)
		if err != nil {
			return nil, fmt.Errorf("look up the jobs of run %d: %w", one.ID, err)
		}
		if len(jobs) > 0 {
			off[one.ID] += time.Minute
		}
	}
	slices.SortFunc(likely, near)
	return runs, nil
}

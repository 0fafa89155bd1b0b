package ingress_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/ingress"
)

// hub is a GitHub with runs, for the Poller. It counts what it is asked.
type hub struct {
	mu      sync.Mutex
	repos   []muster.RemoteRepository
	runs    []*hubRun // oldest first
	stretch int
	shown   int // of a list, 1000 if 0
	calls   []string
	at      []time.Time // of the lists of queued runs
	fail    func(call string) error
}

type hubRun struct {
	muster.WorkflowRun
	jobs []muster.JobEvent
}

func newHub() *hub { return &hub{stretch: 1} }

// run adds one with jobs in a state; labels are separated by commas.
func (h *hub) run(repo string, id int64, status string, jobs ...string) *hubRun {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	r := &hubRun{WorkflowRun: muster.WorkflowRun{ID: id, Attempt: 1, Repository: repo, Status: status, Trigger: "push", CreatedAt: now, UpdatedAt: now}}
	for i, labels := range jobs {
		r.jobs = append(r.jobs, h.job(r, id*100+int64(i), "queued", labels))
	}
	h.runs = append(h.runs, r)
	return r
}

func (h *hub) job(r *hubRun, id int64, state, labels string) muster.JobEvent {
	ls, err := muster.ParseLabels(labels)
	if err != nil {
		panic(err)
	}
	return muster.JobEvent{Action: state, Status: muster.JobState(state), Sense: muster.SensePoll, App: "main", ID: id, RunID: r.ID, Repository: r.Repository, Labels: ls, Trigger: r.Trigger, CreatedAt: time.Now()}
}

// change moves a run and one of its jobs on.
func (h *hub) change(r *hubRun, status string, job int, state string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.Status, r.UpdatedAt = status, time.Now()
	e := &r.jobs[job]
	e.Action, e.Status = state, muster.JobState(state)
	if state != "queued" {
		e.RunnerName, e.StartedAt = "runner-1", time.Now()
	}
	if state == "completed" {
		e.Conclusion, e.CompletedAt = "success", time.Now()
	}
}

func (h *hub) note(format string, args ...any) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	call := fmt.Sprintf(format, args...)
	h.calls = append(h.calls, call)
	if h.fail != nil {
		return h.fail(call)
	}
	return nil
}

// asked is how often it was asked for something since the last time, by the
// beginning of the call.
func (h *hub) asked() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string]int{}
	for _, c := range h.calls {
		out[c]++
		word, _, _ := strings.Cut(c, " ")
		out[word]++
	}
	h.calls = nil
	return out
}

func (h *hub) Repositories(_ context.Context, s muster.Scope) ([]muster.RemoteRepository, error) {
	if err := h.note("repositories %s", s); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []muster.RemoteRepository
	for _, r := range h.repos {
		if s.Covers(r.Name) {
			out = append(out, r)
		}
	}
	return out, nil
}

func (h *hub) Runs(_ context.Context, repository, status string) ([]muster.WorkflowRun, int, error) {
	if err := h.note("runs %s %s", repository, status); err != nil {
		return nil, 0, err
	}
	return h.list(repository, status, time.Time{}, time.Now())
}

func (h *hub) RunsCreated(_ context.Context, repository, status string, from, to time.Time, most int) ([]muster.WorkflowRun, int, error) {
	if err := h.note("created %s %s", repository, status); err != nil {
		return nil, 0, err
	}
	runs, total, err := h.list(repository, status, from, to)
	return runs[:min(most, len(runs))], total, err
}

func (h *hub) list(repository, status string, from, to time.Time) ([]muster.WorkflowRun, int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if status == "queued" {
		h.at = append(h.at, time.Now())
	}
	var out []muster.WorkflowRun
	total := 0
	for _, r := range slices.Backward(h.runs) {
		if strings.EqualFold(r.Repository, repository) && r.Status == status && !r.CreatedAt.Before(from) && !r.CreatedAt.After(to) {
			if total++; total <= cmp.Or(h.shown, 1000) {
				out = append(out, r.WorkflowRun)
			}
		}
	}
	return out, total, nil
}

func (h *hub) RunJobs(_ context.Context, run muster.WorkflowRun) ([]muster.JobEvent, error) {
	if err := h.note("jobs %d", run.ID); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.runs {
		if r.ID == run.ID {
			jobs := slices.Clone(r.jobs)
			for i := range jobs {
				jobs[i].ReceivedAt = time.Now()
			}
			return jobs, nil
		}
	}
	return nil, muster.Errorf(muster.CodeNotFound, "no such run")
}

func (h *hub) Job(_ context.Context, repository string, id int64) (muster.JobEvent, error) {
	if err := h.note("job %d", id); err != nil {
		return muster.JobEvent{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.runs {
		for _, j := range r.jobs {
			if j.ID == id {
				return j, nil
			}
		}
	}
	return muster.JobEvent{}, muster.Errorf(muster.CodeNotFound, "no such job")
}

func (h *hub) Stretch(muster.Scope) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stretch
}

// shelf is the store: Sink and Books in one.
type shelf struct {
	mu   sync.Mutex
	jobs map[muster.JobKey]muster.Job
	// runners are those whose jobs nobody has named yet; by name.
	runners map[string]muster.Runner
	events  []string
	fail    error
}

func newShelf() *shelf {
	return &shelf{jobs: map[muster.JobKey]muster.Job{}, runners: map[string]muster.Runner{}}
}

func (s *shelf) Job(_ context.Context, e muster.JobEvent) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return "", s.fail
	}
	j, change, err := s.jobs[e.Key()].Apply(e)
	if err != nil {
		return "", err
	}
	s.jobs[e.Key()] = j
	delete(s.runners, j.RunnerName)
	if change == muster.JobAdvanced {
		s.events = append(s.events, fmt.Sprintf("%d %s", e.ID, j.State))
	}
	return string(change), nil
}

func (s *shelf) Installation(context.Context, muster.InstallationEvent) (string, error) {
	return "", nil
}

func (s *shelf) JobsOfRun(_ context.Context, repository string, run int64) (out []muster.Job, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.jobs {
		if j.RunID == run && j.Repository == repository {
			out = append(out, j)
		}
	}
	return out, nil
}

func (s *shelf) StaleJobs(_ context.Context, before time.Time, limit int) (out []muster.Job, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.jobs {
		if j.State == muster.JobQueued && j.QueuedAt().Before(before) {
			out = append(out, j)
		}
	}
	slices.SortFunc(out, func(a, b muster.Job) int { return cmp.Compare(a.Key.ID, b.Key.ID) })
	return out[:min(limit, len(out))], nil
}

func (s *shelf) OpenJobs(_ context.Context, repository string) (out []muster.Job, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.jobs {
		if j.Repository == repository && (j.State == muster.JobQueued || j.State == muster.JobInProgress) {
			out = append(out, j)
		}
	}
	return out, nil
}

func (s *shelf) Unnamed(_ context.Context, from, to time.Time) (out []muster.Runner, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.runners {
		if at := cmp.Or(r.ActiveAt, r.FinishedAt); !at.Before(from) && !at.After(to) {
			out = append(out, r)
		}
	}
	return out, nil
}

// news are the changes since the last time.
func (s *shelf) news() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.events
	s.events = nil
	slices.Sort(out)
	return out
}

// tally is a PollObserver that adds up.
type tally struct {
	mu    sync.Mutex
	polls map[string]int
	calls int
	found map[string]int
}

func newTally() *tally { return &tally{polls: map[string]int{}, found: map[string]int{}} }

func (y *tally) Polled(_, outcome string, calls int, _ time.Duration) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.polls[outcome]++
	y.calls += calls
}

func (y *tally) Found(_, state string, _ time.Duration) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.found[state]++
}

// poolOf is an enabled pool of the App main; scope and labels as text.
func poolOf(name, scope, labels string, edit ...func(*muster.Pool)) muster.Pool {
	s, err := muster.ParseScope(scope)
	if err != nil {
		panic(err)
	}
	ls, err := muster.ParseLabels(labels)
	if err != nil {
		panic(err)
	}
	p := muster.Pool{Name: name, App: "main", Scope: s, Labels: ls, Enabled: true, Provider: "fake"}.WithDefaults()
	for _, e := range edit {
		e(&p)
	}
	return p
}

func poolsOf(pools ...muster.Pool) func(context.Context) ([]muster.Pool, error) {
	return func(context.Context) ([]muster.Pool, error) { return pools, nil }
}

// poll looks once and fails the test if that failed.
func poll(t *testing.T, p *ingress.Poller) {
	t.Helper()
	if err := p.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestPollEveryMinute(t *testing.T) { // S1-26 S1-108
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(), newShelf()
		h.run("o/app", 1, "queued", "gpu")
		p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))})
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		if got := s.news(); !slices.Equal(got, []string{"100 queued"}) {
			t.Errorf("the first look told %q", got)
		}
		time.Sleep(10*time.Minute + time.Second)
		cancel()
		all.Wait()
		if len(h.at) != 11 {
			t.Fatalf("%d looks in ten minutes", len(h.at))
		}
		for i := range h.at[1:] {
			if got := h.at[i+1].Sub(h.at[i]); got != time.Minute {
				t.Errorf("%s between two looks", got)
			}
		}
	})
}

// A control plane that is restarted again and again does not use up its rate limit
// on looking, unless looking is all that tells it of jobs.
func TestPollDoesNotHurryAfterARestart(t *testing.T) { // S1-113
	for name, c := range map[string]struct {
		grace time.Duration
		looks int
	}{"WithAWebhook": {3 * time.Minute, 1}, "Alone": {0, 10}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, box := newHub(), newInbox()
				h.run("o/app", 1, "queued", "gpu")
				live := func() {
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					defer cancel()
					_ = ingress.NewPoller(ingress.PollerConfig{
						App: "main", GitHub: h, Sink: newShelf(), Pools: poolsOf(poolOf("ci", "o/app", "gpu")), Every: 5 * time.Minute, Grace: c.grace, Inbox: box,
					}).Run(ctx)
				}
				for range 10 {
					live()
				}
				if len(h.at) != c.looks {
					t.Errorf("%d looks in ten lives, want %d", len(h.at), c.looks)
				}
				time.Sleep(time.Hour)
				live()
				if len(h.at) != c.looks+1 {
					t.Errorf("%d looks: after an hour away the first one must come at once", len(h.at))
				}
			})
		})
	}
}

// A run's whole life, heard by polling alone: also its later jobs, which are queued
// while the run is in progress, and its end, when no list shows it any more.
func TestPollFollowsRuns(t *testing.T) { // C18 C19 4-28 S1-30 S1-31
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(), newShelf()
		p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))})
		r := h.run("o/app", 1, "queued", "gpu")
		step := func(want ...string) map[string]int {
			t.Helper()
			time.Sleep(time.Minute)
			poll(t, p)
			if got := s.news(); !slices.Equal(got, want) {
				t.Errorf("heard %q, want %q", got, want)
			}
			return h.asked()
		}
		step("100 queued")
		if asked := step(); asked["jobs"] != 0 || asked["runs"] != 2 { // nothing has changed
			t.Errorf("asked %v", asked)
		}
		h.change(r, "in_progress", 0, "in_progress")
		step("100 in_progress")
		r.jobs = append(r.jobs, h.job(r, 101, "queued", "gpu"))
		h.change(r, "in_progress", 0, "completed")
		step("100 completed", "101 queued")
		// The run's own time stands still while its jobs move on.
		updated := r.UpdatedAt
		h.change(r, "in_progress", 1, "in_progress")
		r.UpdatedAt = updated
		step()
		step("101 in_progress")
		h.change(r, "completed", 1, "completed")
		step("101 completed")
		for range 5 {
			if asked := step(); asked["jobs"] != 0 {
				t.Errorf("a run that has ended is asked for: %v", asked)
			}
		}
		j := s.jobs[muster.JobKey{ID: 100, Attempt: 1}]
		if j.Trigger != "push" || !j.RanOnRunner() {
			t.Errorf("%+v", j)
		}
	})
}

func TestStaleRunsCostOneCall(t *testing.T) { // 4-28
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(), newShelf()
		for i := range int64(20) {
			h.run("o/app", 1+i, "queued").CreatedAt = time.Now().Add(-48 * time.Hour)
			h.runs[i].UpdatedAt = h.runs[i].CreatedAt
		}
		young := h.run("o/app", 100, "queued") // its jobs are being made
		p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))})
		poll(t, p)
		if asked := h.asked(); asked["jobs"] != 21 {
			t.Errorf("asked %v", asked)
		}
		for range 3 {
			time.Sleep(time.Minute)
			poll(t, p)
			if asked := h.asked(); asked["jobs"] != 1 || asked["jobs 100"] != 1 {
				t.Errorf("asked %v", asked)
			}
		}
		young.jobs = append(young.jobs, h.job(young, 7, "queued", "gpu"))
		time.Sleep(time.Minute)
		poll(t, p)
		if got := s.news(); !slices.Equal(got, []string{"7 queued"}) {
			t.Errorf("heard %q", got)
		}
		h.asked()
		time.Sleep(time.Minute)
		poll(t, p)
		if asked := h.asked(); asked["jobs"] != 0 {
			t.Errorf("asked %v", asked)
		}
	})
}

// A change within the second of the last look bears the same time: the run is
// asked for once more when its time is past.
func TestChangesWithinOneSecondAreNotMissed(t *testing.T) { // 4-28
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(), newShelf()
		r := h.run("o/app", 1, "queued", "gpu")
		p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))})
		poll(t, p)
		r.jobs = append(r.jobs, h.job(r, 101, "queued", "gpu"))
		time.Sleep(time.Minute)
		poll(t, p)
		if got := s.news(); !slices.Equal(got, []string{"100 queued", "101 queued"}) {
			t.Errorf("heard %q", got)
		}
	})
}

func TestPollHandsOnWhatConcernsPools(t *testing.T) { // C8 4-29 S1-33 S1-36 C25
	jobs := []string{"gpu", "GPU,Linux,self-hosted", "gpu,arm64", "ubuntu-latest", "linux", ""}
	for name, c := range map[string]struct {
		edit func(*ingress.PollerConfig)
		want []int64
	}{
		// gpu,arm64 triggers the pool, and no runner of it could run it.
		"BothRules": {func(*ingress.PollerConfig) {}, []int64{100, 101}},
		"Track":     {func(c *ingress.PollerConfig) { c.TrackUnmatched = true }, []int64{100, 101, 102, 103, 104, 105}},
		"OtherRepository": {func(c *ingress.PollerConfig) {
			c.Pools = poolsOf(poolOf("ci", "o", "gpu", func(p *muster.Pool) { p.Repositories = []string{"O/app", "o/other"} }))
		}, []int64{100, 101}},
		"KeptRefusesPublic": {func(c *ingress.PollerConfig) { // 4-31
			c.Pools = poolsOf(poolOf("ci", "o/app", "gpu", func(p *muster.Pool) { p.Lifecycle = muster.LifecycleKept }))
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h, s := newHub(), newShelf()
			r := h.run("o/app", 1, "in_progress", jobs...)
			for i := range r.jobs {
				r.jobs[i].PublicRepo = true
			}
			cfg := ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))}
			c.edit(&cfg)
			poll(t, ingress.NewPoller(cfg))
			var got []int64
			for key := range s.jobs {
				got = append(got, key.ID)
			}
			if slices.Sort(got); !slices.Equal(got, c.want) {
				t.Errorf("jobs %v, want %v", got, c.want)
			}
		})
	}
	t.Run("RunnersMayBeOurs", func(t *testing.T) { // 4-2
		h, s := newHub(), newShelf()
		r := h.run("o/app", 1, "in_progress", "linux", "ubuntu-latest", "linux")
		h.change(r, "in_progress", 0, "in_progress")
		h.change(r, "in_progress", 1, "in_progress")
		r.jobs[1].RunnerGroup = "GitHub Actions"
		r.jobs[2] = muster.JobEvent{Action: "completed", Status: "completed", Conclusion: "success", ID: 9, RunID: 1} // a check run
		poll(t, ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, TrackUnmatched: false, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))}))
		if got := s.news(); !slices.Equal(got, []string{"100 in_progress"}) {
			t.Errorf("heard %q", got)
		}
	})
}

func TestPollScopes(t *testing.T) { // C5 C6
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(), newShelf()
		h.repos = []muster.RemoteRepository{{Name: "org/a"}, {Name: "org/b"}, {Name: "corp-org/c"}}
		p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Pools: poolsOf(
			poolOf("repo", "o/app", "gpu"), poolOf("twin", "o/app", "cpu"), poolOf("org", "org", "gpu"), poolOf("ent", "enterprises/corp", "gpu"),
			poolOf("listed", "narrow", "gpu", func(p *muster.Pool) { p.Repositories = []string{"narrow/x", "stranger/y"} }),
			poolOf("theirs", "other/app", "gpu", func(p *muster.Pool) { p.App = "second" }),
			poolOf("off", "off/app", "gpu", func(p *muster.Pool) { p.Enabled = false }),
			poolOf("removed", "gone/app", "gpu", func(p *muster.Pool) { p.Removed = true }),
			poolOf("set", "set/app", "gpu", func(p *muster.Pool) { p.ScaleSet = "set" }),
		)})
		poll(t, p)
		asked := h.asked()
		for call, want := range map[string]int{
			"repositories org": 1, "repositories enterprises/corp": 1, "repositories": 2,
			"runs o/app queued": 1, "runs o/app in_progress": 1, "runs org/a queued": 2, "runs org/b queued": 2, "runs corp-org/c queued": 1, "runs narrow/x queued": 1, "runs": 2 * 7,
		} {
			// The enterprise covers every organization; an organization that has pools of
			// its own is looked at for itself too.
			if asked[call] != want {
				t.Errorf("%s: %d times, want %d", call, asked[call], want)
			}
		}
		for _, scope := range []string{"o/app", "org", "enterprises/corp", "narrow"} {
			sc, _ := muster.ParseScope(scope)
			if at, err := p.Fresh(sc); err != nil || !at.Equal(time.Now()) {
				t.Errorf("%s: %s, %v", scope, at, err)
			}
		}
		for _, scope := range []string{"other/app", "off/app", "set/app"} {
			sc, _ := muster.ParseScope(scope)
			if at, err := p.Fresh(sc); muster.CodeOf(err) != muster.CodeUnavailable || !at.IsZero() {
				t.Errorf("%s: %s, %v", scope, at, err)
			}
		}
		// The lists of repositories are used for a while.
		for range 4 {
			time.Sleep(time.Minute)
			poll(t, p)
		}
		if asked := h.asked(); asked["repositories"] != 0 || asked["runs"] != 4*14 {
			t.Errorf("asked %v", asked)
		}
		time.Sleep(time.Minute)
		h.repos = append(h.repos, muster.RemoteRepository{Name: "org/new"})
		poll(t, p)
		if asked := h.asked(); asked["repositories org"] != 1 || asked["runs org/new queued"] == 0 {
			t.Errorf("asked %v", asked)
		}
	})
}

// Ten minutes without an answer: nothing is told, nothing is forgotten, GitHub is
// left alone for as long as it wants, and who asks learns that the demand is not known.
func TestPollDuringARateLimit(t *testing.T) { // S1-106 S1-113 4-16 4-27
	synctest.Test(t, func(t *testing.T) {
		h, s, y := newHub(), newShelf(), newTally()
		scope := muster.Scope{Kind: muster.ScopeRepository, Owner: "o", Repo: "app"}
		r := h.run("o/app", 1, "queued", "gpu")
		p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Observer: y, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))})
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { _ = p.Run(ctx) })
		synctest.Wait()
		s.news()
		begun := time.Now()
		limited := &muster.Error{Code: muster.CodeUnavailable, Message: "the rate limit is used up", RetryAfter: 10 * time.Minute}
		h.mu.Lock()
		h.fail = func(string) error { return limited }
		h.mu.Unlock()
		h.change(r, "in_progress", 0, "in_progress")
		time.Sleep(9 * time.Minute)
		h.mu.Lock()
		h.fail = nil
		h.mu.Unlock()
		if got := s.news(); len(got) != 0 || len(s.jobs) != 1 {
			t.Errorf("heard %q during the limit", got)
		}
		at, err := p.Fresh(scope)
		if !at.Equal(begun) || muster.CodeOf(err) != muster.CodeUnavailable || !errors.Is(err, limited) {
			t.Errorf("fresh %s, %v", at, err)
		}
		if asked := h.asked(); asked["runs o/app queued"] > 2 {
			t.Errorf("GitHub was asked during the limit: %v", asked)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if got := s.news(); !slices.Equal(got, []string{"100 in_progress"}) {
			t.Errorf("heard %q after it", got)
		}
		if _, err := p.Fresh(scope); err != nil {
			t.Error(err)
		}
		if y.polls["parked"] != 1 || y.polls["failed"] != 0 || y.polls["done"] < 2 {
			t.Errorf("%v", y.polls)
		}
		cancel()
		all.Wait()
	})
}

func TestPollIsStretchedByTheBudget(t *testing.T) { // 4-7 S1-113
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(), newShelf()
		scope := muster.Scope{Kind: muster.ScopeRepository, Owner: "o", Repo: "app"}
		p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))})
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { _ = p.Run(ctx) })
		synctest.Wait()
		time.Sleep(time.Second) // so that no look falls on the end of a span
		during := func(stretch int, d time.Duration) int {
			h.mu.Lock()
			h.stretch, h.at = stretch, nil
			h.mu.Unlock()
			time.Sleep(d)
			h.mu.Lock()
			defer h.mu.Unlock()
			return len(h.at)
		}
		if n := during(1, 30*time.Minute); n != 30 {
			t.Errorf("%d looks", n)
		}
		if n := during(5, 31*time.Minute); n < 6 || n > 7 {
			t.Errorf("%d looks under 50 %%", n)
		}
		during(0, 6*time.Minute)
		if n := during(0, 30*time.Minute); n != 0 {
			t.Errorf("%d looks under 10 %%", n)
		}
		if at, err := p.Fresh(scope); err == nil || time.Since(at) < 30*time.Minute {
			t.Errorf("%s, %v", at, err)
		}
		if n := during(1, 10*time.Minute); n != 10 {
			t.Errorf("%d looks afterwards", n)
		}
		cancel()
		all.Wait()
	})
}

func TestPollIsBoundedAndFair(t *testing.T) { // 4-28 4-7
	t.Run("Runs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, s := newHub(), newShelf()
			for i := range int64(500) {
				h.run("o/flood", 1+i, "queued", "gpu")
			}
			h.run("o/small", 1000, "queued", "gpu")
			p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Pools: poolsOf(poolOf("a", "o/flood", "gpu"), poolOf("b", "o/small", "gpu"))})
			time.Sleep(time.Minute)
			poll(t, p)
			if _, ok := s.jobs[muster.JobKey{ID: 100000, Attempt: 1}]; !ok || len(s.jobs) != 200 {
				t.Errorf("%d jobs after the first look, the small repository's among them: %v", len(s.jobs), ok)
			}
			for range 2 {
				time.Sleep(time.Minute)
				poll(t, p)
			}
			if len(s.jobs) != 501 {
				t.Errorf("%d jobs after three looks", len(s.jobs))
			}
			h.asked()
			time.Sleep(time.Minute)
			poll(t, p)
			if asked := h.asked(); asked["jobs"] != 0 {
				t.Errorf("asked for %d runs again", asked["jobs"])
			}
		})
	})
	t.Run("Pages", func(t *testing.T) { // S1-32
		synctest.Test(t, func(t *testing.T) {
			h, s := newHub(), newShelf()
			for i := range int64(250) {
				h.run("o/app", 1+i, "queued", "gpu")
			}
			time.Sleep(time.Minute)
			p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Pools: poolsOf(poolOf("a", "o/app", "gpu"))})
			for range 2 {
				poll(t, p)
				time.Sleep(time.Minute)
			}
			if len(s.jobs) != 250 {
				t.Errorf("%d jobs", len(s.jobs))
			}
		})
	})
	t.Run("Repositories", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, s := newHub(), newShelf()
			for i := range 350 {
				h.repos = append(h.repos, muster.RemoteRepository{Name: fmt.Sprintf("org/r%03d", i), PushedAt: time.Now().Add(-time.Duration(i) * time.Minute)})
			}
			h.run("org/r349", 1, "queued", "gpu")
			p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Pools: poolsOf(poolOf("ci", "org", "gpu"))})
			looked := map[string]int{}
			for i := range 12 {
				poll(t, p)
				asked := h.asked()
				if asked["runs"] > 200 {
					t.Fatalf("%d lists in one look", asked["runs"])
				}
				if i == 0 && asked["runs org/r000 queued"] != 1 {
					t.Error("the most active repository was not looked at first")
				}
				for call := range asked {
					if name, ok := strings.CutPrefix(call, "runs "); ok && strings.HasSuffix(call, " queued") {
						looked[name]++
					}
				}
				time.Sleep(time.Minute)
			}
			if len(looked) != 350 || len(s.jobs) != 1 {
				t.Errorf("%d of 350 repositories were looked at in 12 looks, %d jobs", len(looked), len(s.jobs))
			}
		})
	})
	t.Run("MoreThanGitHubShows", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, s := newHub(), newShelf()
			h.shown = 10
			for i := range int64(15) {
				h.run("o/app", 1+i, "queued", "gpu")
			}
			time.Sleep(time.Minute)
			p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Pools: poolsOf(poolOf("a", "o/app", "gpu"))})
			poll(t, p)
			if len(s.jobs) != 10 {
				t.Errorf("%d jobs", len(s.jobs))
			}
			// One of those shown ends, another one is hidden by new ones: only the first is over.
			h.change(h.runs[14], "completed", 0, "completed")
			h.run("o/app", 50, "queued", "gpu")
			h.run("o/app", 51, "queued", "gpu")
			s.news()
			time.Sleep(time.Minute)
			poll(t, p)
			if got := s.news(); !slices.Equal(got, []string{"1500 completed", "5000 queued", "5100 queued"}) {
				t.Errorf("heard %q", got)
			}
			h.shown = 100
			time.Sleep(time.Minute)
			poll(t, p)
			if len(s.jobs) != 17 {
				t.Errorf("%d jobs", len(s.jobs))
			}
		})
	})
}

// With a webhook the poll asks only for what nobody told of within the grace.
func TestPollRepairsWhatOthersMissed(t *testing.T) { // 4-7
	synctest.Test(t, func(t *testing.T) {
		h, s, y := newHub(), newShelf(), newTally()
		p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Books: s, Observer: y, Grace: 3 * time.Minute, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))})
		told := h.run("o/app", 1, "queued", "gpu")
		webhook := func(r *hubRun) {
			e := r.jobs[0]
			e.Sense, e.ReceivedAt = muster.SenseWebhook, time.Now()
			if _, err := s.Job(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		webhook(told)
		lost := h.run("o/app", 2, "queued", "gpu")
		hosted := h.run("o/app", 3, "in_progress", "ubuntu-latest")
		s.news()
		minutes := func(n int) (news []string, asked map[string]int) {
			for range n {
				time.Sleep(time.Minute)
				poll(t, p)
			}
			return s.news(), h.asked()
		}
		if news, asked := minutes(2); len(news) != 0 || asked["jobs"] != 0 {
			t.Errorf("within the grace: %q, %v", news, asked)
		}
		if news, asked := minutes(1); !slices.Equal(news, []string{"200 queued"}) || asked["jobs 1"] != 0 || asked["jobs"] != 2 {
			t.Errorf("after the grace: %q, %v", news, asked)
		}
		if y.found["queued"] != 1 {
			t.Errorf("found %v", y.found)
		}
		// What runs on GitHub's machines moves on, and is nobody's business.
		for range 5 {
			h.change(hosted, "in_progress", 0, "in_progress")
			hosted.jobs[0].RunnerGroup = "GitHub Actions"
			if news, asked := minutes(1); len(news) != 0 || asked["jobs"] != 0 {
				t.Errorf("%q, %v", news, asked)
			}
		}
		h.change(hosted, "completed", 0, "completed")
		// The first job is told of to its end; its run costs nothing.
		h.change(told, "in_progress", 0, "in_progress")
		webhook(told)
		minutes(5)
		h.change(told, "completed", 0, "completed")
		webhook(told)
		// Nobody tells of the second's end.
		h.change(lost, "in_progress", 0, "in_progress")
		webhook(lost)
		h.change(lost, "completed", 0, "completed")
		s.news()
		news, asked := minutes(8)
		if !slices.Equal(news, []string{"200 completed"}) || asked["jobs 1"] != 0 || asked["jobs 2"] != 1 || y.found["completed"] != 1 {
			t.Errorf("%q, %v, found %v", news, asked, y.found)
		}
		// A long run whose later job was lost.
		long := h.run("o/app", 4, "in_progress", "gpu")
		h.change(long, "in_progress", 0, "in_progress")
		webhook(long)
		minutes(5)
		long.jobs = append(long.jobs, h.job(long, 401, "queued", "gpu"))
		s.news()
		if news, _ := minutes(12); !slices.Equal(news, []string{"401 queued"}) {
			t.Errorf("heard %q", news)
		}
	})
}

func TestOldJobsAreAskedForAFewAtATime(t *testing.T) { // 4-8
	synctest.Test(t, func(t *testing.T) {
		h, s, y := newHub(), newShelf(), newTally()
		r := h.run("o/app", 1, "completed")
		for i := range int64(40) {
			r.jobs = append(r.jobs, h.job(r, 100+i, "queued", "gpu"))
			if _, err := s.Job(t.Context(), r.jobs[i]); err != nil {
				t.Fatal(err)
			}
		}
		h.change(r, "completed", 3, "completed")
		h.change(r, "completed", 4, "in_progress")
		gone := muster.JobEvent{Action: "queued", ID: 999, Repository: "o/app", App: "main", Labels: muster.Labels{"gpu"}, CreatedAt: time.Now()}
		if _, err := s.Job(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
		p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Books: s, Observer: y, MaxOpen: -1, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))})
		s.news()
		time.Sleep(59 * time.Minute)
		poll(t, p)
		if asked := h.asked(); asked["job"] != 0 {
			t.Errorf("young jobs were asked for: %v", asked)
		}
		total := map[string]int{}
		for range 20 {
			time.Sleep(time.Minute + time.Second)
			poll(t, p)
			asked := h.asked()
			if asked["job"] > 5 {
				t.Errorf("%d jobs at a time", asked["job"])
			}
			for call, n := range asked {
				total[call] += n
			}
		}
		if total["job"] != 41 || total["job 999"] != 1 {
			t.Errorf("asked %v", total)
		}
		if got := s.news(); !slices.Equal(got, []string{"103 completed", "104 in_progress", "999 completed"}) {
			t.Errorf("heard %q", got)
		}
		if j := s.jobs[muster.JobKey{ID: 999, Attempt: 1}]; j.Conclusion != "cancelled" || j.RanOnRunner() {
			t.Errorf("%+v", j)
		}
		if y.found["completed"] != 2 || y.found["in_progress"] != 1 {
			t.Errorf("found %v", y.found)
		}
		time.Sleep(time.Hour)
		poll(t, p)
		if asked := h.asked(); asked["job"] != 5 {
			t.Errorf("an hour later %v", asked)
		}
		// While GitHub is out of order nothing is taken for gone.
		h.fail = func(call string) error { return muster.Errorf(muster.CodeUnavailable, "down") }
		time.Sleep(2 * time.Hour)
		if err := p.Poll(t.Context()); err == nil {
			t.Error("no error")
		}
		if got := s.news(); len(got) != 0 {
			t.Errorf("heard %q", got)
		}
	})
}

func TestPollTrouble(t *testing.T) { // 4-27 S1-113
	scopeOf := func(text string) muster.Scope {
		s, err := muster.ParseScope(text)
		if err != nil {
			panic(err)
		}
		return s
	}
	t.Run("OneRepositoryIsOutOfOrder", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, s := newHub(), newShelf()
			h.repos = []muster.RemoteRepository{{Name: "org/a", PushedAt: time.Now()}, {Name: "org/b"}, {Name: "org/c"}}
			h.run("org/c", 1, "queued", "gpu")
			h.fail = func(call string) error {
				if strings.HasPrefix(call, "runs org/a") {
					return muster.Errorf(muster.CodeUnavailable, "500")
				}
				return nil
			}
			p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Pools: poolsOf(poolOf("ci", "org", "gpu"))})
			if err := p.Poll(t.Context()); muster.CodeOf(err) != muster.CodeUnavailable {
				t.Errorf("%v", err)
			}
			if got := s.news(); !slices.Equal(got, []string{"100 queued"}) {
				t.Errorf("heard %q", got)
			}
			if _, err := p.Fresh(scopeOf("org")); err == nil {
				t.Error("the look was not whole")
			}
		})
	})
	t.Run("OneRepositoryIsHidden", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, s := newHub(), newShelf()
			h.repos = []muster.RemoteRepository{{Name: "org/a"}, {Name: "org/b"}}
			h.run("org/b", 1, "queued", "gpu")
			h.fail = func(call string) error {
				if strings.HasPrefix(call, "runs org/a") || strings.HasPrefix(call, "runs o/app") {
					return muster.Errorf(muster.CodeNotFound, "Actions are disabled")
				}
				return nil
			}
			p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Pools: poolsOf(poolOf("ci", "org", "gpu"), poolOf("one", "o/app", "gpu"))})
			poll(t, p)
			if got := s.news(); !slices.Equal(got, []string{"100 queued"}) {
				t.Errorf("heard %q", got)
			}
			if _, err := p.Fresh(scopeOf("org")); err != nil {
				t.Error(err)
			}
			if at, err := p.Fresh(scopeOf("o/app")); muster.CodeOf(err) != muster.CodeNotFound || !at.IsZero() {
				t.Errorf("%s, %v", at, err)
			}
			// Where nothing can be seen, nothing is known.
			h.fail = func(call string) error {
				if strings.HasPrefix(call, "runs") {
					return muster.Errorf(muster.CodeForbidden, "it needs the permission actions=read")
				}
				return nil
			}
			time.Sleep(time.Minute)
			poll(t, p)
			if _, err := p.Fresh(scopeOf("org")); muster.CodeOf(err) != muster.CodeForbidden {
				t.Errorf("%v", err)
			}
			h.fail = func(string) error { return muster.Errorf(muster.CodeNotFound, "not installed") }
			time.Sleep(10 * time.Minute)
			poll(t, p)
			if _, err := p.Fresh(scopeOf("org")); muster.CodeOf(err) != muster.CodeNotFound {
				t.Errorf("%v", err)
			}
		})
	})
	t.Run("ThreeTimesInARow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, s, y := newHub(), newShelf(), newTally()
			for i := range 50 {
				h.repos = append(h.repos, muster.RemoteRepository{Name: fmt.Sprint("org/r", i)})
			}
			h.fail = func(call string) error {
				if strings.HasPrefix(call, "runs") {
					return muster.Errorf(muster.CodeUnavailable, "502")
				}
				return nil
			}
			p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Observer: y, Pools: poolsOf(poolOf("ci", "org", "gpu"))})
			if err := p.Poll(t.Context()); err == nil {
				t.Error("no error")
			}
			if asked := h.asked(); asked["runs"] != 3 || y.polls["failed"] != 1 {
				t.Errorf("asked %v, %v", asked, y.polls)
			}
			h.fail = nil
			h.run("org/r7", 1, "queued", "gpu")
			time.Sleep(time.Minute)
			poll(t, p)
			if len(s.jobs) != 1 {
				t.Error("it did not recover")
			}
		})
	})
	t.Run("TheStoreIsDown", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, s := newHub(), newShelf()
			h.run("o/app", 1, "queued", "gpu")
			s.fail = errors.New("database is locked")
			p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))})
			time.Sleep(time.Hour)
			if err := p.Poll(t.Context()); !errors.Is(err, s.fail) {
				t.Errorf("%v", err)
			}
			if _, err := p.Fresh(scopeOf("o/app")); err == nil {
				t.Error("what was not handed on is not known")
			}
			s.fail = nil
			time.Sleep(time.Minute)
			poll(t, p)
			if got := s.news(); !slices.Equal(got, []string{"100 queued"}) {
				t.Errorf("heard %q", got)
			}
		})
	})
	t.Run("PoolsCannotBeRead", func(t *testing.T) {
		down := errors.New("database is locked")
		p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: newHub(), Sink: newShelf(), Pools: func(context.Context) ([]muster.Pool, error) { return nil, down }})
		if err := p.Poll(t.Context()); !errors.Is(err, down) {
			t.Errorf("%v", err)
		}
	})
	t.Run("ARunIsDeleted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, s := newHub(), newShelf()
			h.run("o/app", 1, "queued", "gpu")
			h.run("o/app", 2, "queued", "gpu")
			h.fail = func(call string) error {
				if call == "jobs 1" {
					return muster.Errorf(muster.CodeNotFound, "Not Found")
				}
				return nil
			}
			p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))})
			poll(t, p)
			if got := s.news(); !slices.Equal(got, []string{"200 queued"}) {
				t.Errorf("heard %q", got)
			}
		})
	})
	t.Run("APoolIsTakenAway", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, s := newHub(), newShelf()
			pools := []muster.Pool{poolOf("a", "o/app", "gpu"), poolOf("b", "o/lib", "gpu"), poolOf("c", "x/y", "gpu")}
			p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Pools: func(context.Context) ([]muster.Pool, error) { return pools, nil }})
			poll(t, p)
			pools = pools[:1]
			time.Sleep(time.Minute)
			h.asked()
			poll(t, p)
			if asked := h.asked(); asked["runs"] != 2 {
				t.Errorf("asked %v", asked)
			}
			if _, err := p.Fresh(scopeOf("x/y")); err == nil {
				t.Error("a scope that no pool has is fresh")
			}
		})
	})
}

package ingress_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/ingress"
	"github.com/muster-ci/muster/internal/store"
)

// repairs is a poller as an App with a webhook has one, of o/app; and a step, which
// is a minute and a look.
func repairs(t *testing.T, edit ...func(*ingress.PollerConfig)) (h *hub, s *shelf, y *tally, step func(minutes int) (news []string, asked map[string]int)) {
	t.Helper()
	h, s, y = newHub(), newShelf(), newTally()
	cfg := ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Books: s, Observer: y, Grace: 3 * time.Minute, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))}
	for _, e := range edit {
		e(&cfg)
	}
	p := ingress.NewPoller(cfg)
	return h, s, y, func(minutes int) ([]string, map[string]int) {
		t.Helper()
		for range minutes {
			time.Sleep(time.Minute)
			poll(t, p)
		}
		return s.news(), h.asked()
	}
}

// tell hands a job on as a webhook does.
func tell(t *testing.T, s *shelf, e muster.JobEvent) {
	t.Helper()
	e.Sense, e.ReceivedAt = muster.SenseWebhook, time.Now()
	if _, err := s.Job(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

// Only the beginning of a job was heard, and its run was over before any look: its
// end is asked for all the same, soon and once.
func TestOpenJobsWhoseRunIsOver(t *testing.T) { // 4-7 4-8
	synctest.Test(t, func(t *testing.T) {
		h, s, y, step := repairs(t)
		over := h.run("o/app", 1, "queued", "gpu", "gpu")
		tell(t, s, over.jobs[0])
		tell(t, s, over.jobs[1])
		h.change(over, "completed", 0, "completed")
		h.change(over, "in_progress", 1, "in_progress")
		tell(t, s, over.jobs[1])
		h.change(over, "completed", 1, "completed")
		deleted := muster.JobEvent{Action: "queued", ID: 999, RunID: 9, Repository: "o/app", App: "main", Labels: muster.Labels{"gpu"}, CreatedAt: time.Now()}
		tell(t, s, deleted)
		alive := h.run("o/app", 2, "queued", "gpu")
		tell(t, s, alive.jobs[0])
		s.news()
		if news, asked := step(2); len(news) != 0 || asked["job"] != 0 {
			t.Errorf("within the grace: %q, %v", news, asked)
		}
		news, asked := step(1)
		if !slices.Equal(news, []string{"100 completed", "101 completed", "999 completed"}) || asked["job"] != 1 || asked["jobs"] != 1 {
			t.Errorf("after the grace: %q, %v", news, asked)
		}
		if y.found["completed"] != 3 {
			t.Errorf("found %v", y.found)
		}
		if j := s.jobs[muster.JobKey{ID: 999, Attempt: 1}]; j.Conclusion != "cancelled" || j.RanOnRunner() {
			t.Errorf("%+v", j)
		}
		if j := s.jobs[muster.JobKey{ID: 100, Attempt: 1}]; j.Conclusion != "success" || !j.RanOnRunner() {
			t.Errorf("%+v", j)
		}
		// All is as it should be, and costs nothing but the lists.
		if news, asked := step(30); len(news) != 0 || asked["job"]+asked["jobs"]+asked["created"] != 0 || asked["runs"] != 60 {
			t.Errorf("%q, %v", news, asked)
		}
	})
}

// A run may be neither queued nor in progress and have a queued job, while GitHub
// waits for an approval. Such a job is asked for seldom, and ever more so.
func TestOpenJobsThatTellNothingNew(t *testing.T) { // 4-5 4-7
	synctest.Test(t, func(t *testing.T) {
		h, s, _, step := repairs(t, func(c *ingress.PollerConfig) { c.MaxStale = -1 })
		held := h.run("o/app", 1, "waiting", "gpu")
		tell(t, s, held.jobs[0])
		s.news()
		var at []int
		for i := range 120 {
			news, asked := step(1)
			if asked["job"] > 0 {
				at = append(at, i+1)
			}
			if len(news) != 0 || asked["jobs"] != 0 {
				t.Errorf("%q, %v", news, asked)
			}
		}
		if !slices.Equal(at, []int{3, 7, 15, 31, 63}) {
			t.Errorf("asked in the minutes %v", at)
		}
	})
}

// What was not seen as a whole says nothing; an error is asked again at once; the
// oldest come first, a few at a time.
func TestOpenJobsAreAskedWithCare(t *testing.T) { // 4-7 4-27 S1-113
	t.Run("Errors", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, s, _, step := repairs(t)
			for id := range int64(2) {
				over := h.run("o/app", id+1, "queued", "gpu")
				tell(t, s, over.jobs[0])
				h.change(over, "completed", 0, "completed")
			}
			s.news()
			step(2)
			h.fail = func(call string) error {
				switch call {
				case "job 100":
					return muster.Errorf(muster.CodeUnavailable, "502")
				case "job 200":
					return muster.Errorf(muster.CodeForbidden, "no")
				}
				return nil
			}
			time.Sleep(time.Minute)
			h.asked()
			p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Books: s, Grace: 3 * time.Minute, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))})
			for range 3 {
				if err := p.Poll(t.Context()); muster.CodeOf(err) != muster.CodeUnavailable {
					t.Errorf("%v", err)
				}
				time.Sleep(time.Minute)
			}
			if asked := h.asked(); asked["job 100"] != 3 || asked["job 200"] != 1 || len(s.news()) != 0 {
				t.Errorf("asked %v", asked)
			}
			h.fail = nil
			poll(t, p)
			if got := s.news(); !slices.Equal(got, []string{"100 completed"}) {
				t.Errorf("heard %q", got)
			}
		})
	})
	t.Run("NotWhole", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, s, _, step := repairs(t)
			h.shown = 1
			over := h.run("o/app", 1, "queued", "gpu")
			tell(t, s, over.jobs[0])
			for i := range int64(2) {
				tell(t, s, h.run("o/app", 2+i, "queued", "gpu").jobs[0])
			}
			if _, asked := step(10); asked["job"] != 0 {
				t.Errorf("a list was cut: %v", asked)
			}
			h.shown = 0
			h.fail = func(call string) error {
				if strings.HasPrefix(call, "runs") {
					return muster.Errorf(muster.CodeNotFound, "Actions are disabled")
				}
				return nil
			}
			if _, asked := step(10); asked["job"] != 0 {
				t.Errorf("nothing was seen: %v", asked)
			}
		})
	})
	t.Run("Bounded", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, s, _, step := repairs(t)
			for i := range int64(50) {
				r := h.run("o/app", 1+i, "completed")
				r.jobs = append(r.jobs, h.job(r, 149-i, "queued", "gpu"))
				tell(t, s, r.jobs[0]) // the higher ids are older
				h.change(r, "completed", 0, "completed")
				time.Sleep(time.Second)
			}
			s.news()
			for _, want := range []string{"130 completed", "110 completed", "100 completed"} {
				news, asked := step(1)
				for len(news) == 0 && asked["job"] == 0 {
					news, asked = step(1)
				}
				if asked["job"] > 20 || news[0] != want {
					t.Errorf("%d asked, %q", asked["job"], news)
				}
			}
		})
	})
	t.Run("Rerun", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, s, _, step := repairs(t)
			r := h.run("o/app", 1, "in_progress", "gpu", "gpu")
			for i := range r.jobs {
				tell(t, s, r.jobs[i])
			}
			h.change(r, "in_progress", 0, "completed")
			r.Attempt, r.jobs[1].Attempt = 2, 2 // the first attempt is over, whatever was heard of it
			tell(t, s, r.jobs[1])
			s.news()
			if news, asked := step(3); !slices.Contains(news, "100 completed") || asked["jobs 1"] != 1 || asked["job 101"] != 1 {
				t.Errorf("%q, %v", news, asked)
			}
		})
	})
}

// took is a runner of the pool ci that is gone and whose agent saw a job now.
func (s *shelf) took(name string, edit ...func(*muster.Runner)) {
	r := muster.Runner{ID: muster.RunnerID("id-" + name), Name: name, Pool: "ci", State: muster.RunnerDestroyed, CreatedAt: time.Now().Add(-time.Minute), ActiveAt: time.Now(), FinishedAt: time.Now().Add(time.Second)}
	for _, e := range edit {
		e(&r)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runners[name] = r
}

// Nothing at all was heard of a job. The runner that took it knows that there was one.
func TestJobsOfRunnersAreLookedFor(t *testing.T) { // 4-7 4-18
	t.Run("Over", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, s, y, step := repairs(t)
			for i := range int64(100) { // of others, some long ago, some now
				h.run("o/app", 1+i, "completed", "ubuntu-latest")
				time.Sleep(time.Minute)
			}
			lost := h.run("o/app", 1000, "queued", "gpu")
			h.change(lost, "completed", 0, "completed")
			s.took("runner-1")
			h.asked()
			if news, asked := step(2); len(news) != 0 || asked["created"] != 0 {
				t.Errorf("within the grace: %q, %v", news, asked)
			}
			news, asked := step(1)
			if !slices.Equal(news, []string{"100000 completed"}) || asked["created"] != 1 || asked["jobs"] != 1 {
				t.Errorf("after the grace: %q, %v", news, asked)
			}
			if j := s.jobs[muster.JobKey{ID: 100000, Attempt: 1}]; !j.RanOnRunner() || j.QueuedAt().IsZero() || j.Conclusion != "success" {
				t.Errorf("%+v", j)
			}
			if y.found["completed"] != 1 {
				t.Errorf("found %v", y.found)
			}
			if _, asked := step(60); asked["created"]+asked["jobs"]+asked["job"] != 0 {
				t.Errorf("afterwards: %v", asked)
			}
		})
	})
	t.Run("RunsStill", func(t *testing.T) { // beside a job that is known
		synctest.Test(t, func(t *testing.T) {
			h, s, _, step := repairs(t, func(c *ingress.PollerConfig) { c.Again = time.Hour })
			r := h.run("o/app", 1, "in_progress", "gpu", "gpu")
			h.change(r, "in_progress", 0, "in_progress")
			r.jobs[0].RunnerName = "foreign"
			tell(t, s, r.jobs[0])
			h.change(r, "in_progress", 1, "in_progress")
			s.took("runner-1", func(r *muster.Runner) { r.State, r.FinishedAt = muster.RunnerActive, time.Time{} })
			s.news()
			if news, asked := step(3); !slices.Equal(news, []string{"101 in_progress"}) || asked["jobs"] != 1 {
				t.Errorf("%q, %v", news, asked)
			}
		})
	})
	// Its agent said of which run the job is: one call for the run, and no list.
	t.Run("Hinted", func(t *testing.T) { // S1-113
		synctest.Test(t, func(t *testing.T) {
			h, s, _, step := repairs(t)
			for i := range int64(100) {
				h.run("o/app", 1+i, "completed", "ubuntu-latest")
			}
			r := h.run("o/app", 1000, "queued", "gpu", "gpu", "gpu")
			h.change(r, "completed", 0, "completed")
			r.jobs[0].RunnerName = "foreign"
			tell(t, s, r.jobs[0]) // of the others nothing is heard
			h.change(r, "completed", 1, "completed")
			h.change(r, "completed", 2, "completed")
			r.jobs[2].RunnerName = "runner-2"
			hint := func(r *muster.Runner) { r.RunHint = muster.RunHint{Repository: "o/app", Run: 1000, Attempt: 1} }
			s.took("runner-1", hint)
			s.took("runner-2", hint)
			s.news()
			h.asked()
			if news, asked := step(3); !slices.Equal(news, []string{"100001 completed", "100002 completed"}) || asked["created"] != 0 || asked["jobs"] != 1 {
				t.Errorf("%q, %v", news, asked)
			}
		})
	})
	// An agent may say anything: the runner's job is found all the same, and nothing is
	// asked about what is not the pool's, or of which nothing is known.
	t.Run("HintedWrongly", func(t *testing.T) { // 4-7 4-18
		for name, hint := range map[string]muster.RunHint{
			"AnotherRun": {Repository: "o/app", Run: 7}, "UnknownRun": {Repository: "o/app", Run: 4711}, "Foreign": {Repository: "secret/app", Run: 8},
		} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h, s, _, step := repairs(t)
					for id, repository := range map[int64]string{7: "o/app", 8: "secret/app"} {
						other := h.run(repository, id, "completed", "gpu")
						h.change(other, "completed", 0, "completed")
						other.jobs[0].RunnerName = "foreign"
						tell(t, s, other.jobs[0])
					}
					lost := h.run("o/app", 1000, "queued", "gpu")
					h.change(lost, "completed", 0, "completed")
					s.took("runner-1", func(r *muster.Runner) { r.RunHint = hint })
					s.news()
					h.asked()
					news, asked := step(6)
					if !slices.Contains(news, "100000 completed") || asked["jobs 8"] != 0 || asked["jobs 4711"] != 0 || asked["jobs 7"] > 3 {
						t.Errorf("%q, %v", news, asked)
					}
				})
			})
		}
	})
	t.Run("InVain", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, s, _, step := repairs(t)
			for i := range int64(200) {
				h.run("o/app", 1+i, "completed", "ubuntu-latest")
			}
			s.took("runner-9")
			s.took("runner-8", func(r *muster.Runner) { r.ActiveAt, r.FinishedAt = time.Time{}, time.Now() }) // it died before it could say so
			s.took("theirs", func(r *muster.Runner) { r.Pool = "unknown" })
			var created []int
			total := map[string]int{}
			for i := range 8 * 60 {
				_, asked := step(1)
				if asked["created"] > 0 {
					created = append(created, i+1)
				}
				if asked["jobs"] > 20 {
					t.Errorf("%d calls at a time", asked["jobs"])
				}
				for call, n := range asked {
					total[call] += n
				}
			}
			// The two are looked for together.
			if !slices.Equal(created, []int{3, 4, 6, 10, 18, 34}) || total["jobs"] != 6*20 || total["jobs 200"] != 1 {
				t.Errorf("listed in the minutes %v, %d jobs", created, total["jobs"])
			}
		})
	})
	// A control plane that is killed again and again does not begin anew each time.
	t.Run("KilledMeanwhile", func(t *testing.T) { // S1-113
		synctest.Test(t, func(t *testing.T) {
			h, s, box := newHub(), newShelf(), newInbox()
			for i := range int64(30) {
				h.run("o/app", 1+i, "completed", "ubuntu-latest")
			}
			s.took("runner-9")
			box.SetWatermark(t.Context(), "hunt/main", `{"runners": {"id-runner-9": null}}`) // whatever it was
			var created []int
			jobs := 0
			for i := range 60 {
				time.Sleep(time.Minute)
				poll(t, ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Books: s, Inbox: box, Grace: 3 * time.Minute, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))}))
				asked := h.asked()
				if asked["created"] > 0 {
					created = append(created, i+1)
				}
				jobs += asked["jobs"]
			}
			if !slices.Equal(created, []int{3, 4, 6, 10, 18, 34}) || jobs != 30 {
				t.Errorf("listed in the minutes %v, asked for %d jobs of runs", created, jobs)
			}
			delete(s.runners, "runner-9") // found at last
			poll(t, ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Books: s, Inbox: box, Grace: 3 * time.Minute, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))}))
			if kept, err := box.Watermark(t.Context(), "hunt/main"); err != nil || kept != "" {
				t.Errorf("%q is kept, %v", kept, err)
			}
		})
	})
	t.Run("Bounded", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, s, _, step := repairs(t, func(c *ingress.PollerConfig) { c.Pools = poolsOf(poolOf("ci", "org", "gpu")) })
			for i := range 90 {
				h.repos = append(h.repos, muster.RemoteRepository{Name: fmt.Sprintf("org/r%02d", i), PushedAt: time.Now().Add(-time.Duration(i) * time.Hour)})
			}
			lost := h.run("org/r89", 1, "queued", "gpu")
			h.change(lost, "completed", 0, "completed")
			s.took("runner-1")
			step(2)
			for i, want := range []int{40, 40, 10} {
				news, asked := step(1)
				if asked["created"] != want || len(news) != i/2 {
					t.Errorf("%d lists, %q", asked["created"], news)
				}
			}
		})
	})
	t.Run("WhileGitHubIsDown", func(t *testing.T) { // S1-113
		synctest.Test(t, func(t *testing.T) {
			h, s := newHub(), newShelf()
			p := ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: h, Sink: s, Books: s, Pools: poolsOf(poolOf("ci", "o/app", "gpu"))})
			lost := h.run("o/app", 1, "queued", "gpu")
			h.change(lost, "completed", 0, "completed")
			s.took("runner-1")
			h.fail = func(call string) error { return muster.Errorf(muster.CodeUnavailable, "down") }
			for range 60 {
				time.Sleep(time.Minute)
				if err := p.Poll(t.Context()); err == nil {
					t.Error("no error")
				}
			}
			h.fail, h.stretch = nil, 0
			time.Sleep(time.Minute)
			_ = p.Poll(t.Context())
			if got := s.news(); len(got) != 0 {
				t.Errorf("heard %q without a budget", got)
			}
			h.stretch = 1
			time.Sleep(time.Minute)
			poll(t, p)
			if got := s.news(); !slices.Equal(got, []string{"100 completed"}) {
				t.Errorf("heard %q", got)
			}
		})
	})
}

// Half of the jobs are never heard of, of the others only that they were queued;
// all of them run between two looks. The books end as GitHub has it, each job with
// the runner that had it.
func TestRepairOfWhatNobodyTold(t *testing.T) { // 4-1 4-4 4-7 4-8
	const jobs = 6
	s := newShop(t, githubsim.Config{Seed: 3, NoRateLimits: true}, "")
	ago := time.Now().Add(-time.Minute)
	for i := range jobs {
		id, err := s.sim.InjectJob(githubsim.JobOptions{Repo: "octo-org/app", Labels: []string{"set"}, Fail: i == 1})
		s.must(err)
		if i%2 == 0 {
			e, err := s.github.Job(s.ctx, "octo-org/app", id)
			s.must(err)
			e.Sense, e.ReceivedAt = muster.SenseWebhook, ago
			_, err = s.Job(s.ctx, e)
			s.must(err)
		}
		r := muster.Runner{ID: muster.RunnerID(fmt.Sprintf("r-%04d", i+1)), Pool: "p", Name: fmt.Sprint("r-", i+1), CreatedAt: ago}
		_, err = s.store.RecordDecision(s.ctx, muster.DecisionRecord{Workspace: shopSpace, Pool: "p", At: ago, Runners: []muster.Runner{r}})
		s.must(err)
		_, err = s.store.UpdateRunner(s.ctx, shopSpace, r.ID, ago, "", func(r *muster.Runner) error { r.ActiveAt, r.FinishedAt = ago, time.Now(); return nil })
		s.must(err)
		s.run(s.ctx)
	}
	s.must(s.sim.Wait(s.ctx, func(truth githubsim.Truth) bool { return truth.ByState()["completed"] == jobs }))
	p := ingress.NewPoller(ingress.PollerConfig{
		App: "main", GitHub: s.github, Sink: s, Books: stored{s.store}, Every: time.Second, Grace: 3 * time.Second,
		Pools: func(ctx context.Context) ([]muster.Pool, error) { return s.store.Pools(ctx, shopSpace) },
	})
	poll(t, p)
	s.until("every job's end", allDone(jobs))
	s.books()
	runners, err := s.store.Runners(s.ctx, shopSpace, store.RunnerFilter{})
	s.must(err)
	for _, r := range runners {
		if j, err := s.store.Job(s.ctx, shopSpace, r.Job); err != nil || j.Runner != r.ID || j.RunnerName != r.Name {
			t.Errorf("runner %s: %+v, %v", r.ID, j, err)
		}
	}
	before := s.sim.Truth().Calls
	poll(t, p)
	for caller, routes := range s.sim.Truth().Calls {
		for route, n := range routes {
			if n > before[caller][route] && !strings.HasSuffix(route, "/actions/runs") {
				t.Errorf("all is known, and %s was asked", route)
			}
		}
	}
}

// stored is the Books of a real store.
type stored struct{ *store.Store }

func (b stored) JobsOfRun(ctx context.Context, repository string, run int64) ([]muster.Job, error) {
	return b.Store.JobsOfRun(ctx, shopSpace, repository, run)
}

func (b stored) StaleJobs(ctx context.Context, before time.Time, limit int) ([]muster.Job, error) {
	return b.Store.StaleJobs(ctx, shopSpace, "main", before, limit)
}

func (b stored) OpenJobs(ctx context.Context, repository string) ([]muster.Job, error) {
	return b.Store.OpenJobs(ctx, shopSpace, "main", repository)
}

func (b stored) Unnamed(ctx context.Context, from, to time.Time) ([]muster.Runner, error) {
	return b.UnnamedRunners(ctx, shopSpace, from, to, 100)
}

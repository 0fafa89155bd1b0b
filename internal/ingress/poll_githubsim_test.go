package ingress_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/github"
	"github.com/muster-ci/muster/internal/ingress"
)

// direct carries requests to a server without a network, so that both live on a
// synthetic clock.
type direct struct{ handler http.Handler }

func (d direct) RoundTrip(req *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	in := req.Clone(req.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	in.RequestURI = req.URL.RequestURI()
	d.handler.ServeHTTP(rec, in)
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	return rec.Result(), nil
}

// polled is a simulator without any webhook, and a poller of it: as an App, or with
// a token. Both end with the test.
func polled(t *testing.T, cfg githubsim.Config, withToken bool, pools ...muster.Pool) (sim *githubsim.Server, client *github.Client, p *ingress.Poller, s *shelf) {
	t.Helper()
	cfg.BaseURL = "https://sim.example"
	sim = githubsim.New(cfg)
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const chain = "on: push\njobs:\n  build:\n    runs-on: [gpu]\n    steps: [{run: make}]\n  deploy:\n    needs: build\n    if: always()\n    runs-on: [gpu]\n    steps: [{run: make}]\n"
	must(sim.CreateOrganization("octo-org"))
	must(sim.CreateRepository("octo-org/app", githubsim.RepositoryOptions{Private: true, Files: fstest.MapFS{".github/workflows/ci.yml": {Data: []byte(chain)}}}))
	must(sim.CreateRepository("octo-org/lib", githubsim.RepositoryOptions{}))
	conf := github.Config{Name: "main", URL: cfg.BaseURL, Transport: direct{sim.Handler()}}
	if withToken {
		pat, err := sim.CreateToken("hubot", "repo", "admin:org")
		must(err)
		conf.Token = muster.Secret(pat)
	} else {
		app, err := sim.CreateApp(githubsim.AppOptions{Name: "muster"})
		must(err)
		_, err = sim.Install(app.ID, "octo-org")
		must(err)
		conf.AppID, conf.PrivateKey = app.ID, muster.Secret(app.PEM)
	}
	client, err := github.New(conf)
	must(err)
	s = newShelf()
	return sim, client, ingress.NewPoller(ingress.PollerConfig{App: "main", GitHub: client, Sink: s, Books: s, Pools: poolsOf(pools...)}), s
}

// during runs the poller for a while.
func during(t *testing.T, p *ingress.Poller, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(d)
	cancel()
	all.Wait()
}

// No webhook at all: every job is heard of all the same, in its last state.
func TestPollingAlone(t *testing.T) { // S1-32 S1-108 4-7 4-28 C6 C18
	for _, c := range []struct {
		name  string
		token bool
		pools []muster.Pool
	}{
		{"App", false, []muster.Pool{poolOf("ci", "octo-org", "gpu")}},
		{"Token", true, []muster.Pool{poolOf("app", "octo-org/app", "gpu"), poolOf("lib", "octo-org/lib", "gpu")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim, client, p, s := polled(t, githubsim.Config{Seed: 5}, c.token, c.pools...)
				wanted := map[int64]bool{}
				var last int64
				for i := range 300 {
					repo, label := "octo-org/app", "gpu"
					if i%10 == 0 {
						repo = "octo-org/lib"
					}
					if i%6 == 0 {
						label = "ubuntu-latest"
					}
					id, err := sim.InjectJob(githubsim.JobOptions{Repo: repo, Labels: []string{label}})
					if err != nil {
						t.Fatal(err)
					}
					if label == "gpu" {
						wanted[id], last = true, id
					}
				}
				run, err := sim.Trigger("octo-org/app", ".github/workflows/ci.yml", "push")
				if err != nil {
					t.Fatal(err)
				}
				during(t, p, 3*time.Minute)
				if len(s.jobs) != len(wanted)+1 {
					t.Errorf("%d jobs are known, %d were queued", len(s.jobs), len(wanted)+1)
				}
				// Its first job ends, the second is queued.
				for key, j := range s.jobs {
					if j.RunID == run {
						if j.Trigger != "push" || !j.PublicRepo == (j.Repository == "octo-org/lib") {
							t.Errorf("%+v", j)
						}
						if err := sim.CancelJob(key.ID); err != nil {
							t.Fatal(err)
						}
					}
				}
				if err := sim.CancelJob(last); err != nil {
					t.Fatal(err)
				}
				// GitHub gives the run no new time for that, since it stays queued.
				during(t, p, 12*time.Minute)
				for _, truth := range sim.Truth().Jobs {
					j, known := s.jobs[muster.JobKey{ID: truth.ID, Attempt: truth.Attempt}]
					if want := wanted[truth.ID] || truth.RunID == run; known != want || known && string(j.State) != truth.Status {
						t.Errorf("job %d of %s %q is %s; known %v as %s", truth.ID, truth.Repo, truth.Labels, truth.Status, known, j.State)
					}
				}
				before := client.Budget()
				during(t, p, 30*time.Minute)
				after := client.Budget()
				used := 0
				for i := range after {
					used += after[i].Used - before[i].Used
				}
				lane := after[len(after)-1].PerLane["background"]
				if used > 2 || lane.Unchanged < 60 {
					t.Errorf("half an hour in which nothing changed cost %d calls; %+v", used, lane)
				}
				if limited := sim.Truth().Limited; limited.Primary+limited.Secondary != 0 {
					t.Errorf("GitHub refused calls: %+v", limited)
				}
			})
		})
	}
}

// An installation with so small a limit that polling has to stop again and again:
// GitHub never has to refuse a call, the rest of the limit is left for jobs, and
// every job is known in the end.
func TestPollingWithinASmallLimit(t *testing.T) { // S1-106 S1-113 4-7 4-16 4-27
	synctest.Test(t, func(t *testing.T) {
		sim, client, p, s := polled(t, githubsim.Config{Seed: 6, CoreLimit: 100}, false, poolOf("ci", "octo-org", "gpu"))
		const jobs = 200
		for range jobs {
			if _, err := sim.InjectJob(githubsim.JobOptions{Repo: "octo-org/app", Labels: []string{"gpu"}}); err != nil {
				t.Fatal(err)
			}
		}
		scope := muster.Scope{Kind: muster.ScopeOrganization, Owner: "octo-org"}
		known, held := 0, 0
		for range 8 {
			during(t, p, 30*time.Minute)
			if n := len(s.jobs); n < known {
				t.Errorf("%d jobs are known, %d were", n, known)
			}
			known = len(s.jobs)
			if _, err := p.Fresh(scope); err != nil {
				held++
			}
			for _, v := range client.Budget() {
				if v.Installation != 0 && v.Remaining < 8 {
					t.Errorf("%d calls are left for jobs", v.Remaining)
				}
			}
		}
		if known != jobs || held == 0 {
			t.Errorf("%d of %d jobs after four hours; %d times polling was held up", known, jobs, held)
		}
		for _, j := range s.jobs {
			if j.State != muster.JobQueued {
				t.Errorf("%+v", j)
			}
		}
		if limited := sim.Truth().Limited; limited.Primary+limited.Secondary != 0 {
			t.Errorf("GitHub refused calls: %+v", limited)
		}
	})
}

// GitHub answers with errors, limits, nothing and late.
func TestPollingAHostileGitHub(t *testing.T) { // 4-16 4-27 S1-113
	synctest.Test(t, func(t *testing.T) {
		sim, _, p, s := polled(t, githubsim.Config{Seed: 7}, false, poolOf("ci", "octo-org", "gpu"))
		sim.Faults().Set(githubsim.FaultSettings{
			ServerErrors: 0.2, LoseAnswers: 0.1, EmptyAnswers: 0.1, SecondaryLimit: 0.02, RetryAfter: githubsim.Duration(20 * time.Second),
			SlowAnswers: 0.05, TooManyRequests: 0.5, TokenReplication: githubsim.Duration(500 * time.Millisecond), ClockSkew: githubsim.Duration(-20 * time.Minute),
		})
		var ids []int64
		for i := range 60 {
			id, err := sim.InjectJob(githubsim.JobOptions{Repo: []string{"octo-org/app", "octo-org/lib"}[i%2], Labels: []string{"gpu"}})
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		during(t, p, 30*time.Minute)
		if len(s.jobs) != 60 {
			t.Errorf("%d of 60 jobs are known", len(s.jobs))
		}
		for _, id := range ids[:30] {
			if err := sim.CancelJob(id); err != nil {
				t.Fatal(err)
			}
		}
		during(t, p, 30*time.Minute)
		var wrong []string
		for _, truth := range sim.Truth().Jobs {
			if j := s.jobs[muster.JobKey{ID: truth.ID, Attempt: truth.Attempt}]; string(j.State) != truth.Status {
				wrong = append(wrong, fmt.Sprintf("%d is %s, known as %s", truth.ID, truth.Status, j.State))
			}
		}
		if slices.Sort(wrong); len(wrong) > 0 {
			t.Errorf("%s", strings.Join(wrong, "\n"))
		}
	})
}

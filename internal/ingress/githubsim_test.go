package ingress_test

import (
	"context"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/github"
	"github.com/muster-ci/muster/internal/ingress"
)

// books keeps jobs as the store does.
type books struct {
	mu   sync.Mutex
	jobs map[int64]muster.Job
	bad  []error
	news chan struct{}
}

func (b *books) Job(_ context.Context, e muster.JobEvent) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	job, _, err := b.jobs[e.ID].Apply(e)
	if err != nil {
		b.bad = append(b.bad, err)
		return "", err
	}
	b.jobs[e.ID] = job
	select {
	case b.news <- struct{}{}:
	default:
	}
	return "job " + string(job.State), nil
}

func (b *books) Installation(context.Context, muster.InstallationEvent) (string, error) {
	return "installation noted", nil
}

func (b *books) completed() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range b.jobs {
		if j.State == muster.JobCompleted {
			n++
		}
	}
	return n
}

// Deliveries are dropped, doubled, delayed and reordered, and check runs pose as
// jobs; in the end every job is known in its last state, and none besides.
func TestEveryJobArrivesFromAHostileGitHub(t *testing.T) { // 4-3 4-4 4-7 S3-20 S4-2 S4-70
	sim := githubsim.New(githubsim.Config{Seed: 3, NoRateLimits: true})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	url, err := sim.Start(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	box, observer := newInbox(), &seen{}
	sink := &books{jobs: map[int64]muster.Job{}, news: make(chan struct{}, 1)}
	dispatcher, stop := start(t, ingress.DispatcherConfig{Inbox: box, Sink: sink})
	defer stop()

	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(sim.CreateOrganization("octo-org"))
	must(sim.CreateRepository("octo-org/app", githubsim.RepositoryOptions{Private: true}))
	app, err := sim.CreateApp(githubsim.AppOptions{Name: "muster", WebhookSecret: secret})
	must(err)
	client, err := github.New(github.Config{Name: "main", AppID: app.ID, PrivateKey: muster.Secret(app.PEM), URL: url, MutationsPerMinute: -1})
	must(err)
	redeliverer := ingress.NewRedeliverer(ingress.RedelivererConfig{App: "main", Hooks: client, Inbox: box, Observer: observer})
	hook, err := ingress.NewWebhook(ingress.WebhookConfig{
		Apps: []ingress.App{{Name: "main", Secrets: []muster.Secret{secret}}}, Inbox: box, Nudge: dispatcher.Nudge, Observer: observer,
		Asked: func(_, guid string) (time.Time, bool) { return redeliverer.Asked(guid) },
	})
	must(err)
	server := httptest.NewServer(hook)
	defer server.Close()
	must(sim.SetWebhook(app.ID, server.URL+"/github/webhook/main"))
	_, err = sim.Install(app.ID, "octo-org")
	must(err)

	sim.Faults().Set(githubsim.FaultSettings{
		DropDeliveries: 0.4, DuplicateDeliveries: 0.3, DuplicateOtherGUID: 0.1, CheckRunNoise: 0.2,
		ReorderDeliveries: 0.4, ReorderWindow: githubsim.Duration(200 * time.Millisecond), DelayDeliveries: githubsim.Duration(50 * time.Millisecond),
	})
	const jobs = 60
	for range jobs {
		id, err := sim.InjectJob(githubsim.JobOptions{Repo: "octo-org/app", Labels: []string{"gpu"}})
		must(err)
		must(sim.CancelJob(id))
	}
	must(sim.Wait(ctx, func(truth githubsim.Truth) bool { return truth.Deliveries.Attempts >= truth.Deliveries.Events }))
	if n := sink.completed(); n == jobs {
		t.Error("nothing was lost; the test proves nothing")
	}

	// A redelivery is one more attempt, and is dropped as often as the first.
	scan := time.NewTicker(300 * time.Millisecond)
	defer scan.Stop()
	for sink.completed() < jobs {
		select {
		case <-sink.news:
		case <-scan.C:
			must(redeliverer.Scan(ctx))
		case <-ctx.Done():
			t.Fatalf("%d of %d jobs are completed", sink.completed(), jobs)
		}
	}
	server.Close() // duplicates may still be on their way
	stop()
	sink.mu.Lock()
	defer sink.mu.Unlock()
	if len(sink.jobs) != jobs || len(sink.bad) != 0 {
		t.Errorf("%d jobs, refused: %v", len(sink.jobs), sink.bad)
	}
	for _, j := range sim.Truth().Jobs {
		if ours := sink.jobs[j.ID]; string(ours.State) != j.Status || ours.Conclusion != j.Conclusion || ours.Repository != j.Repo || ours.RanOnRunner() {
			t.Errorf("job %d is %s %s, we think %s %s", j.ID, j.Status, j.Conclusion, ours.State, ours.Conclusion)
		}
	}
	observer.mu.Lock()
	defer observer.mu.Unlock()
	repaired := 0
	for _, d := range box.all() {
		if d.Sense == muster.SenseRedelivery {
			repaired++
		}
	}
	if repaired == 0 || repaired != len(observer.after) {
		t.Errorf("%d deliveries are marked as repaired, %d were counted", repaired, len(observer.after))
	}
	t.Logf("%d deliveries arrived, %d of them only because we asked again; %d requests of GitHub's were duplicates", len(box.all()), repaired, sim.Truth().Deliveries.Duplicated)
}

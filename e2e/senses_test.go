package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/store"
)

// C3 4-7 4-28: the same work comes in by each sense alone, and the books are the
// same: a pool without a webhook, one whose every delivery fails once, one whose
// webhook only works, and one with a scale set.
func TestEachSenseKeepsTheSameBooks(t *testing.T) {
	t.Parallel()
	type line struct {
		Name, Repository, Pool, State, Conclusion string
		Receipts                                  int
		Ran                                       bool
	}
	const jobs = 6
	work := func(t *testing.T, s *Stand) {
		t.Helper()
		for i := range jobs {
			o := githubsim.JobOptions{Repo: Repo, Name: fmt.Sprintf("job %d", i), Labels: Labels, Duration: time.Duration(1000+i*100) * time.Millisecond, Fail: i == jobs-1}
			if _, err := s.Sim.InjectJob(o); err != nil {
				t.Fatal(err)
			}
		}
	}
	senses := []struct {
		name    string
		sense   muster.Sense
		options Options
		faults  githubsim.FaultSettings
	}{
		{"Webhook", muster.SenseWebhook, Options{}, githubsim.FaultSettings{}},
		{"Redelivery", muster.SenseRedelivery, Options{}, githubsim.FaultSettings{DropDeliveries: 0.7}},
		{"Polling", muster.SensePoll, Options{NoWebhook: true}, githubsim.FaultSettings{}},
		{"ScaleSet", muster.SenseScaleSet, Options{NoWebhook: true, Pool: "scale_set: muster-linux"}, githubsim.FaultSettings{}},
	}
	got := map[string][]line{}
	for _, sense := range senses {
		t.Run(sense.name, func(t *testing.T) {
			o := sense.options
			o.Sim = githubsim.Config{Seed: 5, LongPoll: 2 * time.Second}
			poll := "1h" // the other senses are on their own
			if sense.sense == muster.SensePoll {
				poll = "1s"
			}
			o.Settings = `
times: {redelivery_scan: 1s, sweep: 2s, health: 2s, sweep_grace: 5s, heartbeat: 1s, agent_lost: 5s, poll: ` + poll + `}
price_book: {rounding: second}
`
			o.Pool = strings.TrimPrefix(o.Pool+", no_job_timeout: 3s", ", ") // what is made too much leaves soon
			s := stand(t, o)
			s.Serve(t)
			s.Sim.Faults().Set(sense.faults)
			work(t, s)
			s.AwaitJobs(t, jobs, 90*time.Second)
			s.Sim.Faults().Off()
			truth, receipts := s.calm(t, time.Minute)
			db := s.Books(t)
			all, err := db.Jobs(t.Context(), "default", store.JobFilter{})
			if err != nil {
				t.Fatal(err)
			}
			var lines []line
			for _, j := range all {
				l := line{Name: j.Name, Repository: j.Repository, Pool: j.Pool, State: string(j.State), Conclusion: j.Conclusion, Ran: j.Runner != ""}
				for _, r := range receipts {
					if r.JobId == j.Key.ID {
						l.Receipts++
					}
				}
				lines = append(lines, l)
				seen, err := db.Sightings(t.Context(), "default", j.Key)
				if err != nil || len(seen) == 0 {
					t.Fatal(seen, err)
				}
				// Some of the deliveries that fail come through.
				if first := seen[0].Sense; first != sense.sense && (first != muster.SenseWebhook || sense.sense != muster.SenseRedelivery) {
					t.Errorf("job %q was first seen by %s, want %s: %+v", j.Name, seen[0].Sense, sense.sense, seen)
				}
			}
			slices.SortFunc(lines, func(a, b line) int { return cmp.Compare(a.Name, b.Name) })
			got[sense.name] = lines
			if len(truth.BusyKills) > 0 {
				t.Errorf("busy kills: %+v", truth.BusyKills)
			}
		})
	}
	want := got[senses[0].name]
	if len(want) != jobs {
		t.Fatalf("%d jobs in the books, want %d", len(want), jobs)
	}
	for name, lines := range got {
		if !slices.Equal(lines, want) {
			t.Errorf("%s:\n%+v\nwant, as by webhook:\n%+v", name, lines, want)
		}
	}
}

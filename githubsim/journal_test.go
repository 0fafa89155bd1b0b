package githubsim_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster/githubsim"
)

// (q) One seed, one list of acts: two worlds come out the same, though the second
// only read what was done to the first.
func TestReplay(t *testing.T) {
	made := func(seed uint64) *githubsim.Server {
		s := githubsim.New(githubsim.Config{Seed: seed, BaseURL: "http://sim.test", Now: func() time.Time { return epoch }, RunnerKey: key()})
		t.Cleanup(func() { s.Close() })
		if err := s.CreateRepository(repo, githubsim.RepositoryOptions{Private: true}); err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := made(5)
	var ids []int64
	for _, label := range []string{"linux", "gpu", "arm"} {
		id, err := first.InjectJob(githubsim.JobOptions{Repo: repo, Labels: []string{label}, Duration: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	first.Faults().StealRunners(0.5)
	if err := first.CancelJob(ids[1]); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(first.Acts())
	if err != nil {
		t.Fatal(err)
	}
	var acts []githubsim.Act
	if err := json.Unmarshal(text, &acts); err != nil {
		t.Fatal(err)
	}
	again, other := made(5), made(6)
	for _, s := range []*githubsim.Server{again, other} {
		if err := s.Replay(t.Context(), acts, 0); err != nil {
			t.Fatal(err)
		}
		if d := gocmp.Diff(acts, s.Acts()); d != "" {
			t.Errorf("acts (-first +again)\n%s", d)
		}
		if s.Faults().Get().StealRunners != 0.5 {
			t.Error("the faults were not set")
		}
	}
	if d := gocmp.Diff(first.Truth(), again.Truth()); d != "" {
		t.Errorf("the same seed (-first +again)\n%s", d)
	}
	if gocmp.Equal(first.Truth(), other.Truth()) {
		t.Error("another seed makes the same world")
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	late := []githubsim.Act{acts[0], acts[1]}
	late[1].At = late[0].At.Add(time.Hour)
	if again.Replay(ctx, late, 1) == nil {
		t.Error("a replay that was stopped says that all is done")
	}
	if again.Replay(t.Context(), []githubsim.Act{{}}, 0) == nil || again.Replay(t.Context(), []githubsim.Act{{CancelJob: 3}}, 0) == nil {
		t.Error("an act that says nothing was done")
	}
}

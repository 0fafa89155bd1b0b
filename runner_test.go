package muster_test

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/muster-ci/muster"
)

// The full matrix: S1-58 S1-59 S1-60 S1-61 S1-62.
func TestRunnerTransitions(t *testing.T) {
	states := []muster.RunnerState{"", muster.RunnerProvisioning, muster.RunnerRegistered, muster.RunnerActive, muster.RunnerDraining, muster.RunnerDestroyed}
	legal := map[muster.RunnerState]string{ // one letter per state that may follow, in the order of states
		"":                        "np....",
		muster.RunnerProvisioning: ".prad.",
		muster.RunnerRegistered:   "..rad.",
		muster.RunnerActive:       "..rad.",
		muster.RunnerDraining:     "....dx",
		muster.RunnerDestroyed:    ".....x", // terminal
	}
	for from, row := range legal {
		for i, to := range states {
			got, err := from.To(to)
			if row[i] == '.' {
				if muster.CodeOf(err) != muster.CodeConflict || got != from {
					t.Errorf("%q to %q: %q, %v", from, to, got, err)
				}
				if err != nil && (!strings.Contains(err.Error(), string(to)) || !strings.Contains(err.Error(), "cannot become")) {
					t.Errorf("%q to %q: unhelpful %q", from, to, err)
				}
			} else if err != nil || got != to {
				t.Errorf("%q to %q: %q, %v", from, to, got, err)
			}
		}
		if _, err := from.To("odd"); err == nil {
			t.Errorf("%q to an unknown state", from)
		}
	}
	for _, s := range states {
		if want := s != "" && s != muster.RunnerDestroyed; s.Live() != want {
			t.Errorf("%q live: %t", s, s.Live())
		}
	}
}

// S1-104: 100,000 generated names without a repeat, all within GitHub's limit;
// 4-11: a name is the same for the same runner and try, and another for the next.
func TestRunnerNames(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	seen := make(map[string]bool, 100_000)
	pool := strings.Repeat("long_Pool-", 10)
	for range 100_000 {
		var b [10]byte
		binary.LittleEndian.PutUint64(b[:], rng.Uint64())
		binary.LittleEndian.PutUint16(b[8:], uint16(rng.Uint32()))
		id := muster.NewRunnerID(b)
		if strings.Trim(string(id), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || len(id) < 4 || len(id) > 40 {
			t.Fatalf("id %q", id)
		}
		name := muster.RegistrationName(pool, id, 0)
		if seen[name] {
			t.Fatalf("%q repeats", name)
		}
		seen[name] = true
		if !muster.ValidRunnerName(name) || len(name) > 64 {
			t.Fatalf("name %q", name)
		}
	}
	id := muster.NewRunnerID([10]byte{1})
	once, again := muster.RegistrationName("ci", id, 1), muster.RegistrationName("ci", id, 1)
	if once != again || once == muster.RegistrationName("ci", id, 0) ||
		!muster.ValidRunnerName(muster.RegistrationName(pool, id, 99)) {
		t.Error("names per try")
	}
	for _, bad := range []string{"", "a b", "a/b", "a\n", strings.Repeat("x", 65), "$(id)"} {
		if muster.ValidRunnerName(bad) {
			t.Errorf("%q is taken for a name", bad)
		}
	}
}

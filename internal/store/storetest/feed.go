package storetest

import (
	"context"
	"fmt"
	"testing"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
)

// A subscriber that does not read holds nobody up, and one that leaves is
// forgotten.
func subscribeSlowReader(t *testing.T, s *store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	slow := s.Subscribe(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 1000 {
			if err := s.SetWatermark(t.Context(), "w", fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
			if _, err := s.WriteWaste(t.Context(), waste(muster.RunnerID(fmt.Sprintf("r-%04d", i)), "a", 0)); err != nil {
				t.Error(err)
			}
		}
	}()
	within(t, "writing beside a slow reader", done)
	cancel()
	n := 0
	done = make(chan struct{})
	go func() {
		defer close(done)
		for range slow {
			n++
		}
	}()
	within(t, "ending a subscription", done)
	if n == 0 || n >= 1000 {
		t.Fatalf("the slow reader got %d changes", n)
	}
	must(s.WriteWaste(t.Context(), waste("r-last", "a", 0)))(t)
}

// What was written is there after a restart.
func reopen(t *testing.T, url string) {
	s := Open(t, url)
	withPools(t, s)
	save(t, s, delivery("one"))
	apply(t, s, event(1, "queued", ""))
	ok(t, s.Close())
	ok(t, s.Close())
	s = Open(t, url)
	wantLen(t, "deliveries", must(s.Undispatched(t.Context(), base, 10))(t), 1)
	wantLen(t, "jobs", must(s.Jobs(t.Context(), ws, store.JobFilter{}))(t), 1)
	if a := apply(t, s, event(1, "queued", "")); a.Change != muster.JobUnchanged {
		t.Fatalf("after a restart: %+v", a)
	}
}

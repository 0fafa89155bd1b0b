package storetest

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
)

// The inbox keeps what was received byte for byte, hands it out oldest first
// until it was dispatched, and takes each GUID once. S4-8 4-4
func deliveries(t *testing.T, s *store.Store) {
	ctx := t.Context()
	d := delivery("one")
	d.Body = []byte{0, 1, 2, 0xff, '\n', 0}
	first := save(t, s, d)
	second := save(t, s, delivery("two"))
	if second <= first {
		t.Fatalf("sequence goes %d, %d", first, second)
	}
	again := delivery("one")
	again.Body = []byte("changed")
	seq, fresh, err := s.SaveDelivery(ctx, again)
	ok(t, err)
	if fresh || seq != first {
		t.Fatalf("duplicate: seq %d fresh %v, want %d false", seq, fresh, first)
	}
	sameGUID := delivery("one")
	sameGUID.App = "another" // GUIDs are GitHub's, and an enterprise server is another GitHub
	third := save(t, s, sameGUID)
	save(t, s, muster.Delivery{GUID: "empty", App: "app", ReceivedAt: base})

	got := must(s.Undispatched(ctx, base, 10))(t)
	wantLen(t, "undispatched", got, 4)
	d.Seq, d.ReceivedAt = first, utc(d.ReceivedAt)
	want(t, "first undispatched", got[0], d)
	wantLen(t, "limited", must(s.Undispatched(ctx, base, 2))(t), 2)

	// Deferred ones wait, the others go on.
	ok(t, s.DeferDelivery(ctx, first, "sink is down", at(time.Minute)))
	ok(t, s.DeferDelivery(ctx, first, "sink is still down", at(2*time.Minute)))
	got = must(s.Undispatched(ctx, at(time.Minute), 10))(t)
	if len(got) != 3 || got[0].Seq != second {
		t.Fatalf("deferred delivery was not skipped: %v", got)
	}
	got = must(s.Undispatched(ctx, at(2*time.Minute), 1))(t)
	if got[0].Seq != first || got[0].Attempts != 2 || got[0].Error != "sink is still down" {
		t.Fatalf("deferred delivery is %+v", got[0])
	}

	ok(t, s.MarkDispatched(ctx, first, "job 5 queued in 100%_pool", at(time.Hour)))
	ok(t, s.MarkDispatched(ctx, second, "Ignored", at(time.Hour)))
	wantLen(t, "after dispatch", must(s.Undispatched(ctx, at(time.Hour), 10))(t), 2)
	stored := must(s.Delivery(ctx, "two"))(t)
	if stored.Outcome != "Ignored" || !stored.DispatchedAt.Equal(utc(at(time.Hour))) || string(stored.Body) != `{"n":"two"}` {
		t.Fatalf("dispatched delivery is %+v", stored)
	}
	if stored = must(s.Delivery(ctx, "one"))(t); stored.Seq != third {
		t.Fatalf("by GUID: %d, want the newest, %d", stored.Seq, third)
	}

	list := must(s.Deliveries(ctx, store.DeliveryFilter{}))(t)
	if len(list) != 4 || list[0].Seq < list[3].Seq || list[1].Body != nil {
		t.Fatalf("list is %v", list)
	}
	wantLen(t, "by event", must(s.Deliveries(ctx, store.DeliveryFilter{Event: "workflow_job"}))(t), 3)
	wantLen(t, "by outcome", must(s.Deliveries(ctx, store.DeliveryFilter{Outcome: "ignored"}))(t), 1)
	wantLen(t, "by outcome with wildcards", must(s.Deliveries(ctx, store.DeliveryFilter{Outcome: "100%_p"}))(t), 1)
	wantLen(t, "wildcards are plain text", must(s.Deliveries(ctx, store.DeliveryFilter{Outcome: "%"}))(t), 1)
	wantLen(t, "before", must(s.Deliveries(ctx, store.DeliveryFilter{Before: third, Limit: 1}))(t), 1)

	have := must(s.HaveDeliveries(ctx, "app", []string{"one", "two", "none"}))(t)
	want(t, "have", have, map[string]bool{"one": true, "two": true})
	want(t, "have nothing", must(s.HaveDeliveries(ctx, "app", nil))(t), nil)

	// An operator may have one dispatched once more.
	ok(t, s.ReopenDelivery(ctx, "two"))
	got = must(s.Undispatched(ctx, base, 1))(t)
	if got[0].Seq != second || got[0].Outcome != "" {
		t.Fatalf("reopened delivery is not next: %+v", got[0])
	}
	wantCode(t, s.ReopenDelivery(ctx, "none"), muster.CodeNotFound)

	_, err = s.Delivery(ctx, "none")
	wantCode(t, err, muster.CodeNotFound)
	wantCode(t, s.MarkDispatched(ctx, 999, "", base), muster.CodeNotFound)
	wantCode(t, s.DeferDelivery(ctx, 999, "", base), muster.CodeNotFound)
}

// What a hostile sender puts in the text fields never keeps a delivery, or a
// neighbour in its batch, from being stored.
func deliveryHostileText(t *testing.T, s *store.Store) {
	d := delivery("gu\x00id\xff")
	d.Action, d.Headers = "a\x00\xff", map[string]string{"X-Github-Event\x00": "\xfe'; DROP TABLE deliveries; --"}
	d.Event = long(100_000)
	save(t, s, d)
	wantLen(t, "undispatched", must(s.Undispatched(t.Context(), base, 10))(t), 1)
	_, fresh, err := s.SaveDelivery(t.Context(), d)
	ok(t, err)
	if fresh {
		t.Fatal("the same hostile GUID counts twice")
	}
	ok(t, s.DeferDelivery(t.Context(), 1, "bad \x00\xff", base))
}

// Many callers at once, with duplicates among them: each GUID is stored once,
// exactly one of its callers hears that it was fresh, and all hear its number.
func deliveriesConcurrent(t *testing.T, s *store.Store) {
	const guids, copies = 300, 3
	type answer struct {
		guid  int
		seq   int64
		fresh bool
	}
	answers := make(chan answer, guids*copies)
	var wg sync.WaitGroup
	for i := range guids * copies {
		wg.Go(func() {
			d := delivery(fmt.Sprint(i % guids))
			d.Body = bytes.Repeat([]byte{byte(i % guids)}, 1+i%guids*17)
			seq, fresh, err := s.SaveDelivery(t.Context(), d)
			if err != nil {
				t.Error(err)
			}
			answers <- answer{i % guids, seq, fresh}
		})
	}
	wg.Wait()
	close(answers)
	seqs, fresh := map[int]int64{}, map[int]int{}
	for a := range answers {
		if a.fresh {
			fresh[a.guid]++
		}
		if seqs[a.guid] == 0 {
			seqs[a.guid] = a.seq
		}
		if seqs[a.guid] != a.seq || a.seq == 0 {
			t.Fatalf("delivery %d has numbers %d and %d", a.guid, seqs[a.guid], a.seq)
		}
	}
	for i := range guids {
		if fresh[i] != 1 {
			t.Fatalf("delivery %d was fresh %d times", i, fresh[i])
		}
	}
	got := must(s.Undispatched(t.Context(), base, 10_000))(t)
	wantLen(t, "stored", got, guids)
	for _, d := range got {
		var i int
		_, _ = fmt.Sscan(d.GUID, &i)
		if d.Seq != seqs[i] || len(d.Body) != 1+i*17 && (len(d.Body)-1)%17 != 0 || d.Body[0] != byte(i) {
			t.Fatalf("delivery %s has another's number or body", d.GUID)
		}
	}
}

// A store that closes refuses deliveries as unavailable, so that GitHub's
// delivery counts as failed and is asked for again; it never hangs.
func deliveryAfterClose(t *testing.T, s *store.Store) {
	start, done := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			<-start
			_, _, err := s.SaveDelivery(t.Context(), delivery(fmt.Sprint(i)))
			if err != nil && muster.CodeOf(err) != muster.CodeUnavailable {
				t.Errorf("error %v, want none or unavailable", err)
			}
		})
	}
	close(start)
	ok(t, s.Close())
	go func() { wg.Wait(); close(done) }()
	within(t, "answering the callers of a closed store", done)
	_, _, err := s.SaveDelivery(t.Context(), delivery("late"))
	wantCode(t, err, muster.CodeUnavailable)
	wantCode(t, s.SetWatermark(t.Context(), "a", "b"), muster.CodeUnavailable)
	wantCode(t, s.Ping(t.Context()), muster.CodeUnavailable)
}

// Old deliveries go, with their bodies, unless no Sink took them yet.
func pruneDeliveries(t *testing.T, s *store.Store) {
	ctx := t.Context()
	for i := range 30 {
		d := delivery(fmt.Sprint(i))
		d.ReceivedAt = at(time.Duration(i) * 24 * time.Hour)
		seq := save(t, s, d)
		if i != 3 {
			ok(t, s.MarkDispatched(ctx, seq, "done", d.ReceivedAt))
		}
	}
	n, err := s.PruneDeliveries(ctx, at(10*24*time.Hour))
	ok(t, err)
	want(t, "pruned", n, 9)
	wantLen(t, "left", must(s.Deliveries(ctx, store.DeliveryFilter{}))(t), 21)
	if d := must(s.Delivery(ctx, "3"))(t); len(d.Body) == 0 {
		t.Fatal("an undispatched delivery lost its body")
	}
	n, err = s.PruneDeliveries(ctx, at(10*24*time.Hour))
	ok(t, err)
	want(t, "pruned again", n, 0)
}

func watermark(t *testing.T, s *store.Store) {
	ctx := t.Context()
	want(t, "unset", must(s.Watermark(ctx, "redelivery"))(t), "")
	ok(t, s.SetWatermark(ctx, "redelivery", "5"))
	ok(t, s.SetWatermark(ctx, "redelivery", "6"))
	ok(t, s.SetWatermark(ctx, "poll", "x"))
	want(t, "set", must(s.Watermark(ctx, "redelivery"))(t), "6")
	for _, name := range []string{"box/10/r-a", "box/11/r-a", "box/11/r-ab", "boxes/10"} {
		ok(t, s.SetWatermark(ctx, name, "kept"))
	}
	ok(t, s.DropWatermarks(ctx, "box/", "box/11/"))
	ok(t, s.DropWatermarks(ctx, "box/11/r-a", "box/11/r-a0"))
	for name, left := range map[string]string{"box/10/r-a": "", "box/11/r-a": "", "box/11/r-ab": "kept", "boxes/10": "kept"} {
		want(t, "dropped "+name, must(s.Watermark(ctx, name))(t), left)
	}
}

// canceled: a caller that left gets an error of its context, and the store goes on.
func canceled(t *testing.T, s *store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := s.SaveDelivery(ctx, delivery("gone"))
	if err != nil { // the committer may have been quicker
		wantCode(t, err, muster.CodeUnavailable)
	}
	wantCode(t, s.SetWatermark(ctx, "a", "b"), muster.CodeUnavailable)
	_, err = s.Jobs(ctx, ws, store.JobFilter{})
	wantCode(t, err, muster.CodeUnavailable)
	ok(t, s.SetWatermark(t.Context(), "a", "b"))
}

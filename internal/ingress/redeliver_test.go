package ingress_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/ingress"
)

// hooks is GitHub's list of attempts, newest first, as far as tests need it.
type hooks struct {
	mu       sync.Mutex
	attempts []muster.HookDelivery
	since    []time.Time
	news     int // attempts listed that were not known
	pages    int // of 100 attempts that were listed
	asked    []int64
	listing  error
	asking   map[int64]error
}

func (h *hooks) HookDeliveries(_ context.Context, since time.Time, known func(int64) bool) ([]muster.HookDelivery, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.since = append(h.since, since)
	if h.listing != nil {
		return nil, h.listing
	}
	var out []muster.HookDelivery
	newest := slices.Clone(h.attempts)
	slices.Reverse(newest)
	for page := range slices.Chunk(newest, 100) { // as the client does
		h.pages++
		older, news := false, false
		for _, a := range page {
			older, news = older || a.DeliveredAt.Before(since), news || !known(a.ID)
			if !a.DeliveredAt.Before(since) {
				out = append(out, a)
				if !known(a.ID) {
					h.news++
				}
			}
		}
		if older || !news {
			break
		}
	}
	return out, nil
}

func (h *hooks) Redeliver(_ context.Context, id int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, id)
	return h.asking[id]
}

// attempt adds one that happens now.
func (h *hooks) attempt(guid string, code int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	status := "OK"
	if code == 0 {
		status = "failed to connect"
	} else if code >= 400 {
		status = fmt.Sprintf("Invalid HTTP Response: %d", code)
	}
	again := slices.ContainsFunc(h.attempts, func(a muster.HookDelivery) bool { return a.GUID == guid })
	h.attempts = append(h.attempts, muster.HookDelivery{
		Redelivery: again, ID: int64(len(h.attempts) + 1), GUID: guid, Event: "workflow_job", Status: status, StatusCode: code, DeliveredAt: time.Now(),
	})
}

func (h *hooks) calls() (asked []int64, scans int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.asked), len(h.since)
}

func arrive(box *inbox, guid string) {
	box.SaveDelivery(context.Background(), muster.Delivery{GUID: guid, App: "main", Event: "workflow_job", ReceivedAt: time.Now()})
}

func TestRedeliverAsksForWhatWasLost(t *testing.T) { // 4-7
	synctest.Test(t, func(t *testing.T) {
		box, h, observer := newInbox(), &hooks{}, &seen{}
		h.attempt("too-old", 502)
		time.Sleep(30 * time.Minute)
		h.attempt("fine", 200)
		arrive(box, "fine")
		h.attempt("lost", 0)
		h.attempt("refused", 502)
		h.attempt("here-but-late", 0) // saved, and the answer came after GitHub's 10 s
		arrive(box, "here-but-late")
		h.attempt("second-try", 500)
		h.attempt("second-try", 204)
		time.Sleep(time.Minute)
		r := ingress.NewRedeliverer(ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: box, Observer: observer})
		if err := r.Scan(t.Context()); err != nil {
			t.Fatal(err)
		}
		if asked, _ := h.calls(); !slices.Equal(asked, []int64{3, 4}) {
			t.Errorf("asked for %v, want the attempts of lost and refused", asked)
		}
		// The first scan of a process looks back half an hour, not for ever.
		if got := time.Since(h.since[0]); got != 30*time.Minute {
			t.Errorf("looked back %s", got)
		}
		first, asked := r.Asked("lost")
		if !asked || time.Since(first) != time.Minute {
			t.Errorf("asked %v, first tried %s ago", asked, time.Since(first))
		}
		if _, asked := r.Asked("fine"); asked {
			t.Error("it thinks that it asked for a delivery that arrived")
		}
		if !observer.has("asked") {
			t.Errorf("observer saw %v", observer.words)
		}
	})
}

func TestRedeliverAsksOncePerScanUntilItArrives(t *testing.T) { // 4-7
	synctest.Test(t, func(t *testing.T) {
		box, h := newInbox(), &hooks{}
		h.attempt("lost", 502)
		begun := time.Now()
		r := ingress.NewRedeliverer(ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: box})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { r.Run(ctx) })
		defer run.Wait()
		defer cancel()
		time.Sleep(10*time.Minute + time.Second)
		if asked, scans := h.calls(); scans != 6 || len(asked) != 6 {
			t.Fatalf("asked %d times in %d scans of 10 min", len(asked), scans)
		}
		h.attempt("lost", 500) // a redelivery that failed too
		time.Sleep(2 * time.Minute)
		if asked, _ := h.calls(); asked[len(asked)-1] != 2 {
			t.Errorf("asked for attempt %d, not for the last one", asked[len(asked)-1])
		}
		if first, asked := r.Asked("lost"); !asked || !first.Equal(begun) {
			t.Errorf("first tried at %s, not %s", first, begun)
		}
		arrive(box, "lost")
		before, _ := h.calls()
		time.Sleep(10 * time.Minute)
		if after, _ := h.calls(); len(after) != len(before) {
			t.Error("it asked for what had arrived")
		}
		if _, asked := r.Asked("lost"); asked {
			t.Error("it still waits for what has arrived")
		}
	})
}

// GitHub's times have whole seconds, so a redelivery can look as old as the first
// attempt. When it failed too, and the process that asked for it has died, the next
// one has to ask again. A chaos run lost four of six hundred deliveries this way.
func TestRedeliverAfterACrashWithinTheSameSecond(t *testing.T) { // 4-7
	synctest.Test(t, func(t *testing.T) {
		box, h := newInbox(), &hooks{}
		h.attempt("lost", 0)
		h.attempt("lost", 0) // the redelivery, in the same instant
		time.Sleep(time.Minute)
		r := ingress.NewRedeliverer(ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: box})
		if err := r.Scan(t.Context()); err != nil {
			t.Fatal(err)
		}
		if asked, _ := h.calls(); !slices.Equal(asked, []int64{2}) {
			t.Errorf("asked for attempts %v, want the latest, 2", asked)
		}
	})
}

func TestRedeliverGivesUpAfterThreeHours(t *testing.T) { // 4-7
	synctest.Test(t, func(t *testing.T) {
		box, h := newInbox(), &hooks{}
		h.attempt("lost", 502)
		r := ingress.NewRedeliverer(ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: box})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { r.Run(ctx) })
		defer run.Wait()
		defer cancel()
		for range 5 {
			time.Sleep(time.Hour)
			h.attempt("lost", 502) // its attempts stay new, the event does not
		}
		if asked, _ := h.calls(); len(asked) != 91 { // every 2 min from 0:00 to 3:00
			t.Errorf("asked %d times", len(asked))
		}
		if h.news != len(h.attempts)-1 { // the last one came after the last scan
			t.Errorf("%d attempts were new in all scans, of %d that there are", h.news, len(h.attempts))
		}
	})
}

func TestRedeliverRemembersWhereItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, h := newInbox(), &hooks{}
		cfg := ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: box}
		for i := range 60 {
			h.attempt(fmt.Sprint("fine-", i), 200)
			time.Sleep(time.Minute)
		}
		r := ingress.NewRedeliverer(cfg)
		r.Scan(t.Context())
		r.Scan(t.Context())
		// The newest attempt is a minute old, and attempts are listed late: 3 min.
		if got := time.Since(h.since[1]); got != 3*time.Minute {
			t.Errorf("the second scan looked back %s", got)
		}
		// A process that was away for two hours looks back to where it stopped…
		time.Sleep(2 * time.Hour)
		r = ingress.NewRedeliverer(cfg)
		r.Scan(t.Context())
		if got := time.Since(h.since[2]); got != 2*time.Hour+3*time.Minute {
			t.Errorf("after two hours it looked back %s", got)
		}
		// …but not for longer than it would ask for.
		time.Sleep(20 * time.Hour)
		r = ingress.NewRedeliverer(cfg)
		r.Scan(t.Context())
		if got := time.Since(h.since[3]); got != 3*time.Hour {
			t.Errorf("after a day it looked back %s", got)
		}
	})
}

func TestRedeliverHeedsTheBudget(t *testing.T) { // 4-16 S1-113
	synctest.Test(t, func(t *testing.T) {
		h := &hooks{}
		limited := muster.Errorf(muster.CodeUnavailable, "12 of 5000 calls are left, kept for jobs")
		limited.RetryAfter = 40 * time.Minute
		h.listing = limited
		h.attempt("lost", 502)
		r := ingress.NewRedeliverer(ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: newInbox()})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { r.Run(ctx) })
		defer run.Wait()
		defer cancel()
		time.Sleep(39 * time.Minute)
		if _, scans := h.calls(); scans != 1 {
			t.Errorf("%d scans while GitHub wanted none", scans)
		}
		h.mu.Lock()
		h.listing = nil
		h.mu.Unlock()
		time.Sleep(2 * time.Minute)
		// The first scan that gets through still is the first: it looks back.
		if asked, scans := h.calls(); scans != 2 || len(asked) != 0 {
			t.Errorf("%d scans, asked for %v: the delivery is older than half an hour", scans, asked)
		}
	})
}

func TestRedeliverFailuresDoNotLoseOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hooks{asking: map[int64]error{
			1: muster.Errorf(muster.CodeNotFound, "gone"),
			3: muster.Errorf(muster.CodeUnavailable, "not now"),
		}}
		for _, guid := range []string{"a", "b", "c", "d"} {
			h.attempt(guid, 502)
			time.Sleep(time.Second)
		}
		r := ingress.NewRedeliverer(ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: newInbox()})
		if err := r.Scan(t.Context()); muster.CodeOf(err) != muster.CodeUnavailable {
			t.Errorf("error %v", err)
		}
		if asked, _ := h.calls(); !slices.Equal(asked, []int64{1, 2, 3}) {
			t.Errorf("asked %v: one that is gone is passed over, one that is not to be had now stops the scan", asked)
		}
		h.asking = nil
		time.Sleep(20 * time.Minute)
		if err := r.Scan(t.Context()); err != nil {
			t.Error(err)
		}
		if asked, _ := h.calls(); !slices.Equal(asked[3:], []int64{1, 2, 3, 4}) {
			t.Errorf("the next scan asked %v", asked[3:])
		}
	})
}

func TestRedeliverBoundsOneScan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, h := newInbox(), &hooks{}
		for i := range 30 {
			h.attempt(fmt.Sprint("lost-", i), 502)
		}
		r := ingress.NewRedeliverer(ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: box, MaxPerScan: 20})
		r.Scan(t.Context())
		if asked, _ := h.calls(); len(asked) != 20 {
			t.Fatalf("asked for %d", len(asked))
		}
		for i := range 20 {
			arrive(box, fmt.Sprint("lost-", i))
		}
		time.Sleep(time.Hour) // what was not asked for is remembered
		r.Scan(t.Context())
		if asked, _ := h.calls(); len(asked) != 30 {
			t.Errorf("asked for %d in the end", len(asked))
		}
	})
}

// An event that stays lost, and a process that is killed again and again, must not
// make every scan read hours of GitHub's list again: it has 100 attempts a page, and
// every page is a call.
func TestRedeliverReadsTheListOnce(t *testing.T) { // 4-7 S1-113
	synctest.Test(t, func(t *testing.T) {
		box, h := newInbox(), &hooks{}
		cfg := ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: box}
		h.attempt("lost", 502)
		var scanned []time.Time
		for i := range 50 {
			time.Sleep(time.Minute)
			h.attempt(fmt.Sprint("fine-", i), 200)
			if i%10 == 3 { // killed, and started again
				if err := ingress.NewRedeliverer(cfg).Scan(t.Context()); err != nil {
					t.Fatal(err)
				}
				scanned = append(scanned, time.Now())
			}
		}
		asked, scans := h.calls()
		if !slices.Equal(asked, []int64{1, 1, 1, 1, 1}) {
			t.Errorf("asked for %v, want the lost one at every scan", asked)
		}
		for i, since := range h.since[1:] {
			if again := scanned[i].Sub(since); again > 2*time.Minute {
				t.Errorf("scan %d of %d read %s of what the one before had read", i+2, scans, again)
			}
		}
	})
}

// A busy App has many pages of attempts in the minutes by which two scans overlap.
func TestRedeliverKnowsAfterARestartWhatWasRead(t *testing.T) { // S1-113
	synctest.Test(t, func(t *testing.T) {
		box, h := newInbox(), &hooks{}
		for i := range 20 { // each process scans once
			for j := range 90 {
				h.attempt(fmt.Sprint("fine-", i, "-", j), 200)
				time.Sleep(10 * time.Second / 90)
			}
			before := h.pages
			if err := ingress.NewRedeliverer(ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: box}).Scan(t.Context()); err != nil {
				t.Fatal(err)
			}
			if pages := h.pages - before; pages > 2 {
				t.Errorf("scan %d read %d pages for 90 new attempts", i+1, pages)
			}
		}
		if h.news != len(h.attempts) {
			t.Errorf("%d attempts were new in all scans, of %d that there are", h.news, len(h.attempts))
		}
	})
}

func TestRedeliverDoesNotHurryAfterARestart(t *testing.T) { // S1-113
	synctest.Test(t, func(t *testing.T) {
		box, h := newInbox(), &hooks{}
		for range 11 { // lives of ten seconds each
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			ingress.NewRedeliverer(ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: box}).Run(ctx)
			cancel()
		}
		if _, scans := h.calls(); scans != 1 {
			t.Errorf("%d scans in two minutes", scans)
		}
		time.Sleep(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ingress.NewRedeliverer(ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: box}).Run(ctx)
		if _, scans := h.calls(); scans != 2 {
			t.Errorf("%d scans: after an hour away the first one must come at once", scans)
		}
	})
}

// What in_progress says matters while a runner runs a job that nobody named.
func TestRedeliverAsksForInProgressWhileSomebodyIsUnnamed(t *testing.T) { // 4-7
	synctest.Test(t, func(t *testing.T) {
		box, h := newInbox(), &hooks{}
		var since time.Time
		r := ingress.NewRedeliverer(ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: box, Unnamed: func(context.Context) (time.Time, error) { return since, nil }})
		h.attempt("old", 502)
		h.attempts[0].Action = "in_progress"
		time.Sleep(10 * time.Minute)
		since = time.Now()
		h.attempt("new", 502)
		h.attempts[1].Action = "in_progress"
		h.attempt("queued", 502)
		h.attempts[2].Action = "queued"
		h.attempt("completed", 502)
		h.attempts[3].Action = "completed"
		time.Sleep(time.Second)
		if err := r.Scan(t.Context()); err != nil {
			t.Fatal(err)
		}
		if asked, _ := h.calls(); !slices.Equal(asked, []int64{3, 2, 4}) {
			t.Errorf("asked for %v, want what may name the runner, and all that is not in_progress, queued jobs first", asked)
		}
		since = time.Time{}
		if err := r.Scan(t.Context()); err != nil {
			t.Fatal(err)
		}
		if asked, _ := h.calls(); !slices.Equal(asked[3:], []int64{3, 4}) {
			t.Errorf("asked for %v although every runner is named", asked[3:])
		}
		since = time.Now().Add(-time.Second) // its agent was slow to tell
		if err := r.Scan(t.Context()); err != nil {
			t.Fatal(err)
		}
		if asked, _ := h.calls(); !slices.Equal(asked[5:], []int64{3, 2, 4}) {
			t.Errorf("asked for %v: the runner has become known, and nobody says what it runs", asked[5:])
		}
	})
}

// The end of a job is noticed without its event: by its runner's agent, and by polls.
func TestRedeliverIsPatientWithWhatHasEnded(t *testing.T) { // 4-7 S1-113
	synctest.Test(t, func(t *testing.T) {
		box, h := newInbox(), &hooks{}
		var unnamed, open time.Time
		r := ingress.NewRedeliverer(ingress.RedelivererConfig{
			App: "main", Hooks: h, Inbox: box, Patience: 3 * time.Minute,
			Unnamed: func(context.Context) (time.Time, error) { return unnamed, nil },
			Open:    func(context.Context) (time.Time, error) { return open, nil },
		})
		asks := func(want ...int64) {
			t.Helper()
			before, _ := h.calls()
			if err := r.Scan(t.Context()); err != nil {
				t.Fatal(err)
			}
			if asked, _ := h.calls(); !slices.Equal(asked[len(before):], want) {
				t.Errorf("asked for %v, want %v", asked[len(before):], want)
			}
		}
		open = time.Now() // a job is queued
		time.Sleep(10 * time.Second)
		for _, guid := range []string{"one", "two"} {
			h.attempt(guid, 502)
			h.attempts[len(h.attempts)-1].Action = "completed"
		}
		h.attempt("queued", 502)
		h.attempts[2].Action = "queued"
		time.Sleep(time.Second)
		asks(3)
		arrive(box, "queued")
		time.Sleep(3 * time.Minute)
		asks(1, 2) // nobody noticed the end of the job, and one of these may tell
		arrive(box, "one")
		open = time.Now() // another job; that one is over
		asks()
		open = time.Time{}
		h.attempt("three", 502)
		h.attempts[3].Action = "completed"
		unnamed = time.Now().Add(-time.Second)
		time.Sleep(3 * time.Minute)
		asks(4) // it may name what a runner runs
		unnamed = time.Time{}
		asks()
	})
}

// More is lost than is remembered: nothing is forgotten.
func TestRedeliverAfterALongOutage(t *testing.T) { // 4-7
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprintf("killed=%v", killed), func(t *testing.T) { redeliverAfterALongOutage(t, killed) })
	}
}

func redeliverAfterALongOutage(t *testing.T, killed bool) {
	synctest.Test(t, func(t *testing.T) {
		box, h := newInbox(), &hooks{}
		r := ingress.NewRedeliverer(ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: box})
		const many = 2500
		for i := range many {
			h.attempt(fmt.Sprint("lost-", i), 502)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(5 * time.Minute)
		for range many/200 + 2 {
			if killed {
				r = ingress.NewRedeliverer(ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: box})
			}
			if err := r.Scan(t.Context()); err != nil {
				t.Fatal(err)
			}
			asked, _ := h.calls()
			for _, id := range asked {
				arrive(box, fmt.Sprint("lost-", id-1))
			}
			time.Sleep(time.Minute)
		}
		asked, _ := h.calls()
		if slices.Sort(asked); len(slices.Compact(asked)) != many {
			t.Errorf("asked for %d of %d", len(asked), many)
		}
	})
}

func TestRedeliverGoesOnWhereAnEarlierReleaseStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, h := newInbox(), &hooks{}
		h.attempt("lost", 502)
		time.Sleep(2 * time.Hour)
		box.SetWatermark(t.Context(), "redelivery/main", time.Now().Add(-2*time.Hour).Format(time.RFC3339Nano))
		if err := ingress.NewRedeliverer(ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: box}).Scan(t.Context()); err != nil {
			t.Fatal(err)
		}
		if asked, _ := h.calls(); !slices.Equal(asked, []int64{1}) {
			t.Errorf("asked for %v", asked)
		}
	})
}

// Lost, found, asked for, delivered again, repaired: the pieces fit together.
func TestLostDeliveryIsRepaired(t *testing.T) { // 4-7 S4-8
	synctest.Test(t, func(t *testing.T) {
		box, h, s, observer := newInbox(), &hooks{}, &sink{}, &seen{}
		r := ingress.NewRedeliverer(ingress.RedelivererConfig{App: "main", Hooks: h, Inbox: box, Observer: observer})
		d, stop := start(t, ingress.DispatcherConfig{Inbox: box, Sink: s})
		defer stop()
		w, err := ingress.NewWebhook(ingress.WebhookConfig{
			Apps: []ingress.App{{Name: "main", Secrets: []muster.Secret{secret}}}, Inbox: box, Nudge: d.Nudge, Observer: observer,
			Asked: func(_, guid string) (time.Time, bool) { return r.Asked(guid) },
		})
		if err != nil {
			t.Fatal(err)
		}
		const guid = "72d3162e-cc78-11e3-81ab-4c9367dc0958"
		h.attempt(guid, 0)
		time.Sleep(100 * time.Second)
		if err := r.Scan(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if rec := serve(w, deliver(minimal)); rec.Code != 200 {
			t.Fatalf("answer %d", rec.Code)
		}
		synctest.Wait()
		if got := box.all()[0]; got.Sense != muster.SenseRedelivery || got.Outcome != "job queued" {
			t.Errorf("%+v", got)
		}
		if !slices.Equal(observer.after, []time.Duration{102 * time.Second}) {
			t.Errorf("repaired after %v", observer.after)
		}
	})
}

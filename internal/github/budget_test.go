package github_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/github"
)

const (
	jobRoute    = "GET /repos/octo-org/app/actions/jobs/7"
	lookRoute   = "GET /orgs/Octo-Org/actions/runners/5"
	deleteRoute = "DELETE /orgs/Octo-Org/actions/runners/5"
)

// With all of a lane's places taken by calls that hang, less urgent calls wait and
// more urgent ones go.
func TestLanesKeepRoomForUrgentCalls(t *testing.T) { // 4-16: 100 calls at once
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		hang := make(chan struct{})
		var mu sync.Mutex
		running, peak := map[string]int{}, 0
		count := func(name string, by int) {
			mu.Lock()
			defer mu.Unlock()
			running[name] += by
			peak = max(peak, running["poll"]+running["look"]+running["jit"])
		}
		slow := func(name, body string, status int) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				count(name, 1)
				<-hang
				count(name, -1)
				answer(w, status, body)
			}
		}
		s.on[jobRoute] = slow("poll", `{"id":7,"status":"queued"}`, 200)
		s.on[lookRoute] = slow("look", `{"id":5}`, 200)
		s.on[jitRoute] = slow("jit", jitAnswer, 201)
		c := newClient(t, s, unpaced)
		var all sync.WaitGroup
		failed := 0
		start := func(n int, call func() error) {
			for range n {
				all.Go(func() {
					if call() != nil {
						mu.Lock()
						failed++
						mu.Unlock()
					}
				})
			}
			synctest.Wait()
		}
		now := func(name string) int {
			mu.Lock()
			defer mu.Unlock()
			return running[name]
		}
		poll := func() error { _, err := c.Job(t.Context(), "octo-org/app", 7); return err }
		start(200, poll)
		if n := now("poll"); n != 20 {
			t.Errorf("%d polls are under way", n)
		}
		start(200, func() error { _, err := c.Runner(t.Context(), org, 5); return err })
		if n := now("look"); n != 40 {
			t.Errorf("%d look-ups are under way beside the polls", n)
		}
		start(200, func() error { _, err := generate(t.Context(), c); return err })
		if n := now("jit"); n != 30 {
			t.Errorf("%d registrations are under way beside the others", n)
		}
		views := c.Budget()
		v := views[len(views)-1]
		if v.PerLane["critical"].Waiting != 170 || v.PerLane["normal"].Waiting != 160 || v.PerLane["background"].Waiting != 180 {
			t.Errorf("%+v", v.PerLane)
		}
		close(hang)
		all.Wait()
		if peak > 100 || failed != 0 {
			t.Errorf("%d calls at once, %d failed", peak, failed)
		}
		// Who does not get a place in time is told so.
		hang = make(chan struct{})
		start(200, poll)
		time.Sleep(time.Minute)
		close(hang)
		all.Wait()
		if failed < 180 {
			t.Errorf("only %d of 180 polls without a place were refused", failed)
		}
		views = c.Budget()
		if v := views[len(views)-1].PerLane["background"]; v.Parked != 180 || v.Waiting != 0 {
			t.Errorf("%+v", v)
		}
	})
}

// A sweep that deletes many runners takes the minute's points; a removal that a
// machine waits for goes first all the same.
func TestUrgentCallsGoFirst(t *testing.T) { // 4-16: 900 points a minute, 5 for a change and 1 for a read
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		var mu sync.Mutex
		var order []string
		var at []time.Time
		s.on[deleteRoute] = func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, "delete")
			at = append(at, time.Now())
			w.WriteHeader(204)
		}
		c := newClient(t, s)
		remove := func(lane github.Lane) error {
			return c.RemoveRunner(github.WithLane(t.Context(), lane), org, 5)
		}
		var all sync.WaitGroup
		for range 100 { // 60 go at once, 40 wait for half a second each
			all.Go(func() {
				if err := remove(github.Background); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		begun := time.Now()
		if len(order) != 60 {
			t.Errorf("%d removals went at once", len(order))
		}
		all.Go(func() {
			if err := remove(github.Normal); err != nil {
				t.Error(err)
			}
			if took := time.Since(begun); took > 1100*time.Millisecond {
				t.Errorf("the sweep waited %s", took)
			}
		})
		all.Go(func() {
			if err := remove(github.Critical); err != nil {
				t.Error(err)
			}
			if took := time.Since(begun); took > 600*time.Millisecond {
				t.Errorf("the job waited %s behind the others", took)
			}
		})
		all.Wait()
		for i := range at {
			if j := i + 180; j < len(at) && at[j].Sub(at[i]) < time.Minute {
				t.Fatalf("181 changes within %s", at[j].Sub(at[i]))
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		var at []time.Time
		s.on[jobRoute] = func(w http.ResponseWriter, _ *http.Request) {
			at = append(at, time.Now())
			answer(w, 200, `{"id":7,"status":"queued"}`)
		}
		c := newClient(t, s)
		for range 2000 {
			if _, err := c.Job(t.Context(), "octo-org/app", 7); err != nil {
				t.Fatal(err)
			}
		}
		for i := range at {
			if j := i + 900; j < len(at) && at[j].Sub(at[i]) < time.Minute {
				t.Fatalf("901 reads within %s", at[j].Sub(at[i]))
			}
		}
		if took := at[len(at)-1].Sub(at[0]); took > 3*time.Minute {
			t.Errorf("2000 reads took %s", took)
		}
	})
}

func TestCallBeyondItsTimeIsParkedAtOnce(t *testing.T) { // S1-106 S1-113 4-16
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		s.on[deleteRoute] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }
		c := newClient(t, s)
		var all sync.WaitGroup
		var mu sync.Mutex
		var refused []error
		begun := time.Now()
		for range 300 {
			all.Go(func() {
				if err := c.RemoveRunner(t.Context(), org, 5); err != nil {
					mu.Lock()
					refused = append(refused, err)
					mu.Unlock()
					if took := time.Since(begun); took > 0 {
						t.Errorf("it was told after %s", took)
					}
				}
			})
		}
		all.Wait()
		// 60 at once and two a second for the 30 s that a call may take.
		if len(refused) < 175 || len(refused) > 182 {
			t.Errorf("%d of 300 were parked", len(refused))
		}
		for _, err := range refused {
			e, _ := errors.AsType[*muster.Error](err)
			if e == nil || e.Code != muster.CodeUnavailable || e.RetryAfter < 30*time.Second || e.RetryAfter > 31*time.Second || !errors.Is(err, github.ErrDeregistration) {
				t.Fatalf("%v", err)
			}
		}
	})
}

func TestRegistrationsOfAScope(t *testing.T) { // 4-16: 1500 in 5 minutes
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		s.on[jitRoute] = func(w http.ResponseWriter, _ *http.Request) { answer(w, 201, jitAnswer) }
		s.on["POST /repos/octo-org/app/actions/runners/registration-token"] = func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 201, `{"token":"`+canaryRegist+`","expires_at":"`+time.Now().Add(time.Hour).Format(time.RFC3339)+`"}`)
		}
		c := newClient(t, s, func(cfg *github.Config) { cfg.MutationsPerMinute = 1000 })
		begun := time.Now()
		var first error
		made := 0
		for first == nil {
			if _, first = generate(t.Context(), c); first == nil {
				made++
			}
		}
		e, _ := errors.AsType[*muster.Error](first)
		left := 5*time.Minute - time.Since(begun)
		if made != 1500 || e == nil || e.Code != muster.CodeUnavailable || (e.RetryAfter-left).Abs() > time.Second || !strings.Contains(e.Message, "1500 runners") || !errors.Is(first, github.ErrRegistration) {
			t.Fatalf("%d registrations in %s, then %v, retry after %s", made, time.Since(begun), first, e.RetryAfter)
		}
		if n := s.seen(jitRoute); n != 1500 {
			t.Errorf("%d requests", n)
		}
		// Another scope of the same installation has a count of its own; each token
		// handed out is for one runner, wherever it came from.
		for i := range 1501 {
			_, _, err := c.RegistrationToken(t.Context(), repo)
			if failed := err != nil; failed != (i == 1500) {
				t.Fatalf("token %d: %v", i, err)
			}
		}
		views := c.Budget()
		v := views[len(views)-1]
		if v.Registrations["octo-org"] != 1500 || v.Registrations["octo-org/app"] != 1500 || v.RegistrationLimit != 1500 {
			t.Errorf("%+v", v.Registrations)
		}
		time.Sleep(e.RetryAfter)
		if _, err := generate(t.Context(), c); err != nil {
			t.Errorf("after the wait that was named: %v", err)
		}
		time.Sleep(6 * time.Minute)
		views = c.Budget()
		if v := views[len(views)-1]; len(v.Registrations) != 0 {
			t.Errorf("%+v are still counted", v.Registrations)
		}
	})
}

func TestForecast(t *testing.T) { // 4-7
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		left, reset := 5000, time.Now().Add(time.Hour)
		s.on[lookRoute] = func(w http.ResponseWriter, r *http.Request) {
			h := []string{"X-RateLimit-Limit", "5000", "X-RateLimit-Reset", fmt.Sprint(reset.Unix()), "ETag", `"x"`}
			if r.Header.Get("If-None-Match") != "" {
				answer(w, 304, "", append(h, "X-RateLimit-Remaining", fmt.Sprint(left))...)
				return
			}
			left--
			answer(w, 200, `{"id":5}`, append(h, "X-RateLimit-Remaining", fmt.Sprint(left))...)
		}
		s.on[deleteRoute] = func(w http.ResponseWriter, _ *http.Request) {
			left--
			answer(w, 404, `{}`, "X-RateLimit-Limit", "5000", "X-RateLimit-Reset", fmt.Sprint(reset.Unix()), "X-RateLimit-Remaining", fmt.Sprint(left))
		}
		c := newClient(t, s)
		view := func() github.BudgetView {
			views := c.Budget()
			return views[slices.IndexFunc(views, func(v github.BudgetView) bool { return v.Installation == 9 })]
		}
		for range 10 { // a call a minute that costs, and nine that do not
			c.RemoveRunner(t.Context(), org, 5)
			for range 9 {
				if _, err := c.Runner(t.Context(), org, 5); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
		}
		v := view()
		if v.PerMinute < 0.9 || v.PerMinute > 1.3 || !v.Forecast.IsZero() || v.Used != 5000-left || v.Remaining != left {
			t.Errorf("%+v", v)
		}
		if lane := v.PerLane["normal"]; lane.Calls != 90 || lane.Unchanged != 89 {
			t.Errorf("%+v", lane)
		}
		c.RemoveRunner(t.Context(), org, 5)
		c.Runner(t.Context(), org, 5)
		if n := view().PointsThisMinute; n != 6 {
			t.Errorf("%d points in this minute", n)
		}
		for range 10 {
			for range 100 {
				c.RemoveRunner(t.Context(), org, 5)
			}
			time.Sleep(time.Minute)
		}
		v = view() // 100 every 80 s: about 4,000 are left, and 37 minutes to go
		if v.PerMinute < 65 || v.PerMinute > 80 || !v.Forecast.IsZero() && v.Forecast.Before(time.Now().Add(30*time.Minute)) {
			t.Errorf("%+v at %s", v, time.Now())
		}
		left -= 3000
		c.RemoveRunner(t.Context(), org, 5)
		v = view()
		if want := time.Duration(float64(left) / v.PerMinute * float64(time.Minute)); v.Forecast.IsZero() || (time.Until(v.Forecast)-want).Abs() > time.Second || !v.Forecast.Before(v.ResetAt) {
			t.Errorf("with %d left at %.0f a minute the forecast is %s, now is %s", left, v.PerMinute, v.Forecast, time.Now())
		}
		time.Sleep(time.Hour)
		if v := view(); !v.Forecast.IsZero() || v.Used != 0 || v.Remaining != 5000 {
			t.Errorf("after the reset: %+v", v)
		}
	})
}

func TestUsedUpMeansNoCallAtAll(t *testing.T) { // 4-16 S1-113
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		left := 5000
		s.on[lookRoute] = func(w http.ResponseWriter, _ *http.Request) { rate(w, left, `{"id":5}`) }
		s.on[jitRoute] = func(w http.ResponseWriter, _ *http.Request) { answer(w, 201, jitAnswer) }
		c := newClient(t, s)
		look := func(lane github.Lane) error {
			_, err := c.Runner(github.WithLane(t.Context(), lane), org, 5)
			return err
		}
		for _, step := range []struct {
			left     int
			critical bool
			normal   bool
		}{{100, true, true}, {99, true, false}, {1, true, false}, {0, false, false}} {
			left = step.left
			if err := look(github.Critical); err != nil {
				t.Fatal(err)
			}
			if err := look(github.Normal); (err == nil) != step.normal {
				t.Errorf("with %d left a sweep got %v", step.left, err)
			}
			_, err := generate(t.Context(), c)
			if (err == nil) != step.critical {
				t.Errorf("with %d left a job got %v", step.left, err)
			}
			if e, _ := errors.AsType[*muster.Error](err); e != nil && (e.Code != muster.CodeUnavailable || e.RetryAfter < 29*time.Minute) {
				t.Errorf("%v", e)
			}
		}
		if c.Stretch(org) != 0 {
			t.Error("polls go on")
		}
		before := len(s.calls)
		time.Sleep(29 * time.Minute)
		generate(t.Context(), c)
		if len(s.calls) != before {
			t.Error("GitHub was asked before the reset")
		}
		time.Sleep(2 * time.Minute)
		if _, err := generate(t.Context(), c); err != nil {
			t.Error(err)
		}
	})
}

func TestCallerWhoLeavesTheGateMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t)
		s.on[deleteRoute] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }
		c := newClient(t, s)
		for range 60 {
			if err := c.RemoveRunner(t.Context(), org, 5); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if err := c.RemoveRunner(ctx, org, 5); !errors.Is(err, context.Canceled) {
					t.Errorf("%v", err)
				}
			})
		}
		synctest.Wait()
		cancel()
		all.Wait()
		begun := time.Now()
		if err := c.RemoveRunner(t.Context(), org, 5); err != nil || time.Since(begun) > time.Second {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		views := c.Budget()
		if n := views[len(views)-1].PerLane["critical"].Waiting; n != 0 {
			t.Errorf("%d calls still wait", n)
		}
	})
}

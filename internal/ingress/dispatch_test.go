package ingress_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/ingress"
)

// sink is a Sink that notes down the jobs it is given and does what do says.
type sink struct {
	mu   sync.Mutex
	ids  []int64
	now  int
	peak int
	do   func(ctx context.Context, e muster.JobEvent) (string, error)
}

func (s *sink) Job(ctx context.Context, e muster.JobEvent) (string, error) {
	s.mu.Lock()
	s.ids = append(s.ids, e.ID)
	s.now++
	s.peak = max(s.peak, s.now)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.now--
		s.mu.Unlock()
	}()
	if s.do == nil {
		return "job " + e.Action, nil
	}
	return s.do(ctx, e)
}

func (s *sink) Installation(context.Context, muster.InstallationEvent) (string, error) {
	return "installation noted", nil
}

func (s *sink) seen() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ids)
}

func job(id int) string {
	return fmt.Sprintf(`{"action":"queued","workflow_job":{"id":%d,"labels":["x"]},"repository":{"full_name":"o/r"}}`, id)
}

// start runs a dispatcher until the test ends and returns what stops it and
// waits for it.
func start(t *testing.T, cfg ingress.DispatcherConfig) (*ingress.Dispatcher, func()) {
	d := ingress.NewDispatcher(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := d.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	return d, func() { cancel(); <-ended }
}

func TestDispatchTakesTheOldestFirstAndNotTooMany(t *testing.T) { // 4-53
	synctest.Test(t, func(t *testing.T) {
		box, s := newInbox(), &sink{}
		for i := range 500 {
			box.add(job(i + 1))
		}
		s.do = func(context.Context, muster.JobEvent) (string, error) {
			time.Sleep(time.Second) // the bubble's clock
			return "job queued", nil
		}
		begun := time.Now()
		_, stop := start(t, ingress.DispatcherConfig{Inbox: box, Sink: s})
		synctest.Wait()
		if got := len(s.seen()); got != 32 { // admission: the rest stays in the inbox
			t.Errorf("%d in flight at once", got)
		}
		time.Sleep(16 * time.Second)
		synctest.Wait()
		stop()
		ids := s.seen()
		if len(ids) != 500 || s.peak != 32 {
			t.Fatalf("%d dispatched, peak %d", len(ids), s.peak)
		}
		// Those that started together are in any order among themselves.
		for i, id := range ids {
			if int(id-1)/32 != i/32 {
				t.Fatalf("job %d came as number %d", id, i)
			}
		}
		for _, d := range box.all() {
			if d.Outcome != "job queued" || d.DispatchedAt.IsZero() {
				t.Fatalf("delivery %d is %q", d.Seq, d.Outcome)
			}
		}
		if took := time.Since(begun); took > 17*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestDispatchIsNudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, s := newInbox(), &sink{}
		d, stop := start(t, ingress.DispatcherConfig{Inbox: box, Sink: s, Tick: time.Hour})
		defer stop()
		synctest.Wait()
		box.add(job(1))
		d.Nudge()
		d.Nudge()
		synctest.Wait()
		if len(s.seen()) != 1 {
			t.Error("a nudge did not wake it")
		}
		// Without a nudge, as after another process saved it, the tick finds it.
		box.add(job(2))
		synctest.Wait()
		if len(s.seen()) != 1 {
			t.Error("it looked without reason")
		}
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		if len(s.seen()) != 2 {
			t.Error("the tick did not find it")
		}
	})
}

func TestDispatchDefersWhatFails(t *testing.T) { // S4-70 4-7
	synctest.Test(t, func(t *testing.T) {
		box, s, observer := newInbox(), &sink{}, &seen{}
		var at []time.Time
		s.do = func(_ context.Context, e muster.JobEvent) (string, error) {
			if e.ID == 2 {
				return "job queued", nil
			}
			at = append(at, time.Now())
			if len(at) < 12 {
				return "", errors.New("the database is away")
			}
			return "job queued", nil
		}
		box.add(job(1), job(2))
		d, stop := start(t, ingress.DispatcherConfig{Inbox: box, Sink: s, Observer: observer})
		defer stop()
		synctest.Wait()
		if got := box.all(); got[0].Attempts != 1 || !got[0].DispatchedAt.IsZero() || got[1].Outcome != "job queued" {
			t.Fatalf("after the first failure: %+v", got)
		}
		for range 1000 { // a storm of other news makes nothing come sooner
			d.Nudge()
		}
		synctest.Wait()
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(at) != 12 {
			t.Fatalf("%d attempts", len(at))
		}
		for i := 1; i < len(at); i++ {
			want := min(time.Second<<(i-1), 5*time.Minute)
			// What is due later than the next tick is found by a tick, every 5 s.
			if gap := at[i].Sub(at[i-1]); gap < want/2 || gap > want+5*time.Second {
				t.Errorf("wait %d was %s, want between %s and %s", i, gap, want/2, want)
			}
		}
		if d := box.all()[0]; d.Outcome != "job queued" || d.Attempts != 11 || d.Error != "the database is away" {
			t.Errorf("in the end %+v", d)
		}
		if !observer.has("workflow_job: deferred") || !observer.has("workflow_job: done") {
			t.Errorf("observer saw %v", observer.words)
		}
	})
}

func TestDispatchLooksWhenSomethingIsDue(t *testing.T) { // S4-70
	synctest.Test(t, func(t *testing.T) {
		box, s := newInbox(), &sink{}
		first := map[int64]time.Time{}
		var mu sync.Mutex
		s.do = func(_ context.Context, e muster.JobEvent) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			if begun, again := first[e.ID]; again {
				if late := time.Since(begun); late > time.Second {
					t.Errorf("job %d was due within a second and came after %s", e.ID, late)
				}
				return "job queued", nil
			}
			first[e.ID] = time.Now()
			return "", errors.New("once")
		}
		d, stop := start(t, ingress.DispatcherConfig{Inbox: box, Sink: s, Tick: 20 * time.Second})
		defer stop()
		for i := range 40 { // failures that are due at many different times
			box.add(job(i + 1))
			d.Nudge()
			time.Sleep(70 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := len(s.seen()); n != 80 {
			t.Errorf("%d offers", n)
		}
	})
}

func TestDispatchWaitsAsLongAsItIsTold(t *testing.T) { // 4-16
	synctest.Test(t, func(t *testing.T) {
		box, s := newInbox(), &sink{}
		var at []time.Time
		s.do = func(context.Context, muster.JobEvent) (string, error) {
			at = append(at, time.Now())
			if len(at) == 1 {
				e := muster.Errorf(muster.CodeUnavailable, "later")
				e.RetryAfter = 10 * time.Minute
				return "", e
			}
			return "ok", nil
		}
		box.add(job(1))
		_, stop := start(t, ingress.DispatcherConfig{Inbox: box, Sink: s})
		defer stop()
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(at) != 2 || at[1].Sub(at[0]) < 10*time.Minute {
			t.Errorf("attempts at %v", at)
		}
	})
}

func TestDispatchKeepsPoison(t *testing.T) { // 4-4, reference: cloudbase/garm#812
	synctest.Test(t, func(t *testing.T) {
		box, s, observer := newInbox(), &sink{}, &seen{}
		s.do = func(_ context.Context, e muster.JobEvent) (string, error) {
			switch e.ID {
			case 2:
				return "", muster.Errorf(muster.CodeInvalid, "no such thing")
			case 3:
				panic("a bug")
			}
			return "job queued", nil
		}
		box.add(`{"action":"queued"}`, job(2), job(3), job(4))
		box.SaveDelivery(t.Context(), muster.Delivery{GUID: "p", App: "main", Event: "ping", Body: []byte(`{}`), ReceivedAt: time.Now()})
		_, stop := start(t, ingress.DispatcherConfig{Inbox: box, Sink: s, Observer: observer})
		defer stop()
		synctest.Wait()
		got := box.all()
		if !strings.HasPrefix(got[0].Outcome, "poison: ") || !strings.Contains(got[0].Outcome, "without an id") || string(got[0].Body) != `{"action":"queued"}` {
			t.Errorf("unparsable: %+v", got[0])
		}
		if got[1].Outcome != "poison: no such thing" {
			t.Errorf("refused for ever: %q", got[1].Outcome)
		}
		if got[2].Outcome != "" || got[2].Attempts != 1 {
			t.Errorf("panicked: %+v", got[2])
		}
		if got[3].Outcome != "job queued" || got[4].Outcome != "counted" {
			t.Errorf("the others: %q, %q", got[3].Outcome, got[4].Outcome)
		}
		for _, word := range []string{"workflow_job: poison", "workflow_job: deferred", "workflow_job: done", "ping: counted"} {
			if !observer.has(word) {
				t.Errorf("observer saw %v, not %s", observer.words, word)
			}
		}
	})
}

func TestDispatchStopsGracefully(t *testing.T) { // S4-73
	synctest.Test(t, func(t *testing.T) {
		box, s := newInbox(), &sink{}
		s.do = func(ctx context.Context, e muster.JobEvent) (string, error) {
			time.Sleep(5 * time.Second)
			return "job queued", ctx.Err() // it is not cancelled by the stop
		}
		for i := range 40 {
			box.add(job(i + 1))
		}
		_, stop := start(t, ingress.DispatcherConfig{Inbox: box, Sink: s})
		synctest.Wait()
		begun := time.Now()
		stop()
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("the stop took %s", took)
		}
		done := 0
		for _, d := range box.all() {
			if d.Outcome == "job queued" {
				done++
			} else if d.Attempts != 0 {
				t.Errorf("delivery %d was started or deferred by the stop: %+v", d.Seq, d)
			}
		}
		if done != 32 {
			t.Errorf("%d finished", done)
		}
	})
}

func TestDispatchSurvivesTheInbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, s := newInbox(), &sink{}
		box.add(job(1))
		s.do = func(context.Context, muster.JobEvent) (string, error) {
			if len(s.seen()) == 1 {
				box.fail(errors.New("database is locked")) // its outcome cannot be noted down
			}
			return "job queued", nil
		}
		d, stop := start(t, ingress.DispatcherConfig{Inbox: box, Sink: s})
		defer stop()
		synctest.Wait()
		before := box.reads
		for range 100 {
			d.Nudge()
			time.Sleep(time.Second)
		}
		if asked := box.reads - before; asked < 3 || asked > 12 {
			t.Errorf("a failing inbox was asked %d times in 100 s", asked)
		}
		box.fail(nil)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if got := box.all()[0]; got.Outcome != "job queued" || len(s.seen()) != 2 {
			t.Errorf("%+v after %d offers", got, len(s.seen()))
		}
	})
}

func TestDispatchBoundsTheSink(t *testing.T) { // 4-52
	synctest.Test(t, func(t *testing.T) {
		box, s := newInbox(), &sink{}
		s.do = func(ctx context.Context, _ muster.JobEvent) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}
		box.add(job(1))
		_, stop := start(t, ingress.DispatcherConfig{Inbox: box, Sink: s})
		defer stop()
		time.Sleep(30*time.Second + time.Millisecond)
		synctest.Wait()
		if got := box.all()[0]; got.Attempts != 1 {
			t.Errorf("%+v", got)
		}
	})
}

func TestDispatchCarriesTheTraceID(t *testing.T) { // S4-69
	synctest.Test(t, func(t *testing.T) {
		box, s := newInbox(), &sink{}
		var inContext, inEvent string
		s.do = func(ctx context.Context, e muster.JobEvent) (string, error) {
			inContext, inEvent = muster.TraceOf(ctx), e.TraceID
			return "job queued", nil
		}
		box.add(job(1))
		_, stop := start(t, ingress.DispatcherConfig{Inbox: box, Sink: s})
		defer stop()
		synctest.Wait()
		if want := box.all()[0].TraceID; inContext != want || inEvent != want || want == "" {
			t.Errorf("delivery %q, context %q, event %q", want, inContext, inEvent)
		}
	})
}

func TestDispatchReportsItsLag(t *testing.T) { // S4-55
	synctest.Test(t, func(t *testing.T) {
		box, observer := newInbox(), &seen{}
		box.add(job(1))
		time.Sleep(time.Minute)
		_, stop := start(t, ingress.DispatcherConfig{Inbox: box, Sink: &sink{}, Observer: observer})
		defer stop()
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if len(observer.lag) < 2 || observer.lag[0] != time.Minute || observer.lag[len(observer.lag)-1] != 0 {
			t.Errorf("lags %v", observer.lag)
		}
	})
}

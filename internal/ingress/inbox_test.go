package ingress_test

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/muster-ci/muster"
)

// inbox is an Inbox in memory. Failing makes every call fail with it.
type inbox struct {
	mu         sync.Mutex
	deliveries []muster.Delivery
	notBefore  map[int64]time.Time
	marks      map[string]string
	failing    error
	reads      int
}

func newInbox() *inbox {
	return &inbox{notBefore: map[int64]time.Time{}, marks: map[string]string{}}
}

func (b *inbox) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failing = err
}

func (b *inbox) SaveDelivery(ctx context.Context, d muster.Delivery) (int64, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	if b.failing != nil {
		return 0, false, b.failing
	}
	for _, old := range b.deliveries {
		if old.GUID == d.GUID && old.App == d.App {
			return old.Seq, false, nil
		}
	}
	d.Seq = int64(len(b.deliveries) + 1)
	b.deliveries = append(b.deliveries, d)
	return d.Seq, true, nil
}

func (b *inbox) Undispatched(_ context.Context, now time.Time, limit int) ([]muster.Delivery, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads++
	if b.failing != nil {
		return nil, b.failing
	}
	var out []muster.Delivery
	for _, d := range b.deliveries {
		if d.DispatchedAt.IsZero() && !b.notBefore[d.Seq].After(now) && len(out) < limit {
			out = append(out, d)
		}
	}
	return out, nil
}

func (b *inbox) MarkDispatched(_ context.Context, seq int64, outcome string, at time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failing != nil {
		return b.failing
	}
	b.deliveries[seq-1].Outcome, b.deliveries[seq-1].DispatchedAt = outcome, at
	return nil
}

func (b *inbox) DeferDelivery(_ context.Context, seq int64, cause string, notBefore time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failing != nil {
		return b.failing
	}
	b.deliveries[seq-1].Attempts++
	b.deliveries[seq-1].Error = cause
	b.notBefore[seq] = notBefore
	return nil
}

func (b *inbox) HaveDeliveries(_ context.Context, app string, guids []string) (map[string]bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	have := map[string]bool{}
	for _, d := range b.deliveries {
		if d.App == app && slices.Contains(guids, d.GUID) {
			have[d.GUID] = true
		}
	}
	return have, b.failing
}

func (b *inbox) Watermark(_ context.Context, name string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.marks[name], b.failing
}

func (b *inbox) SetWatermark(_ context.Context, name, value string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.marks[name] = value
	return b.failing
}

func (b *inbox) all() []muster.Delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.deliveries)
}

// add puts deliveries of workflow_job events into the inbox.
func (b *inbox) add(bodies ...string) {
	for _, body := range bodies {
		b.mu.Lock()
		guid := time.Now().Format(time.RFC3339Nano) + body
		b.mu.Unlock()
		b.SaveDelivery(context.Background(), muster.Delivery{
			GUID: guid, App: "main", Event: "workflow_job", Body: []byte(body), ReceivedAt: time.Now(), TraceID: "trace-" + guid,
		})
	}
}

// seen is an Observer that writes down the words it is given.
type seen struct {
	mu    sync.Mutex
	words []string
	lag   []time.Duration
	after []time.Duration
}

func (s *seen) note(words ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.words = append(s.words, words...)
}

func (s *seen) Received(app, event, outcome string, _ time.Duration) { s.note(event + ": " + outcome) }
func (s *seen) Dispatched(event, outcome string, _ time.Duration)    { s.note(event + ": " + outcome) }
func (s *seen) Asked(_, outcome string)                              { s.note(outcome) }

func (s *seen) Waiting(oldest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lag = append(s.lag, oldest)
}

func (s *seen) Repaired(_ string, after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.after = append(s.after, after)
}

func (s *seen) has(word string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.words, word)
}

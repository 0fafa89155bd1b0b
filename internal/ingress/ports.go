package ingress

import (
	"context"
	"time"

	"github.com/muster-ci/muster"
)

// Inbox is the durable memory of deliveries. The store implements it.
type Inbox interface {
	// SaveDelivery is durable when it returns. fresh is false, and nothing has
	// changed, when the App's delivery of that GUID was there already.
	SaveDelivery(ctx context.Context, d muster.Delivery) (seq int64, fresh bool, err error)
	// Undispatched returns the oldest deliveries that are neither dispatched nor
	// deferred beyond now, with their bodies, in order of arrival.
	Undispatched(ctx context.Context, now time.Time, limit int) ([]muster.Delivery, error)
	MarkDispatched(ctx context.Context, seq int64, outcome string, at time.Time) error
	// DeferDelivery counts a failed attempt and hides the delivery until notBefore.
	DeferDelivery(ctx context.Context, seq int64, cause string, notBefore time.Time) error
	// HaveDeliveries says which of the GUIDs of an App are in the inbox.
	HaveDeliveries(ctx context.Context, app string, guids []string) (map[string]bool, error)
	// Watermark returns a small named fact, "" if it was never set.
	Watermark(ctx context.Context, name string) (string, error)
	SetWatermark(ctx context.Context, name, value string) error
}

// Sink is where everything that GitHub tells ends up. Both methods are
// idempotent, and say in a few words what became of the event. An error of
// muster.CodeInvalid means that the event can never be taken; any other error
// means that it is to be offered again.
type Sink interface {
	Job(ctx context.Context, e muster.JobEvent) (outcome string, err error)
	Installation(ctx context.Context, e muster.InstallationEvent) (outcome string, err error)
}

// Hooks is what the Redeliverer needs of one App's GitHub client.
type Hooks interface {
	// HookDeliveries lists the attempts since a time, newest first. It may end early, once
	// a whole page of GitHub's list is known.
	HookDeliveries(ctx context.Context, since time.Time, known func(attempt int64) bool) ([]muster.HookDelivery, error)
	// Redeliver asks for one more attempt.
	Redeliver(ctx context.Context, id int64) error
}

// Observer counts what happens. Its methods are called on hot paths and must
// return at once; they are safe for concurrent use. Words given as outcome come
// from a fixed list, event is GitHub's own word and unchecked.
type Observer interface {
	// Received counts one request to the webhook: outcome is "accepted",
	// "duplicate", "unauthorized", "unknown_app", "too_large", "invalid" or "unavailable".
	Received(app, event, outcome string, took time.Duration)
	// Dispatched counts one delivery handed on, delay after its arrival: outcome
	// is "done", "counted", "ignored", "poison" or "deferred".
	Dispatched(event, outcome string, delay time.Duration)
	// Waiting reports the age of the oldest delivery that the dispatcher found
	// waiting, 0 if it found none.
	Waiting(oldest time.Duration)
	// Asked counts a delivery that GitHub was asked to send again: outcome is
	// "asked" or "failed".
	Asked(app, outcome string)
	// Repaired reports a delivery that arrived only because Muster asked again,
	// and how long after GitHub's first attempt.
	Repaired(app string, after time.Duration)
}

// deaf is the Observer of those who gave none.
type deaf struct{}

func (deaf) Received(string, string, string, time.Duration) {}
func (deaf) Dispatched(string, string, time.Duration)       {}
func (deaf) Waiting(time.Duration)                          {}
func (deaf) Asked(string, string)                           {}
func (deaf) Repaired(string, time.Duration)                 {}

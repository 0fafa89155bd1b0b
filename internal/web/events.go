package web

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/muster-ci/muster"
)

const (
	// eventGap is the least time between two messages of one stream.
	eventGap = 250 * time.Millisecond
	// eventGather is the least time that a change waits for company: one
	// transaction often changes a job, its runner and a delivery.
	eventGather = 25 * time.Millisecond
	// heartbeat keeps proxies from closing a quiet stream.
	heartbeat = 15 * time.Second
	// eventWrite is how long a reader may take for one message before it is given up.
	eventWrite = 10 * time.Second
	// maxChanges is the most that one message names; beyond, it says "everything".
	maxChanges = 100
	// maxTraces is the most traces that one message names; beyond, it says "traces". Every
	// one that is recorded changes each second, and must not have all pages drawn anew.
	maxTraces = 20
)

// kindTrace is the kind of change that traces make; the store names it so.
const kindTrace = "trace"

// change is a muster.Change as the script gets it.
type change struct {
	Kind string `json:"kind"`
	ID   string `json:"id,omitempty"`
}

// events streams what has changed, as server-sent events, until the request or
// the server ends. Changes are gathered and sent at most four times a second.
func (s *site) events(w http.ResponseWriter, r *http.Request) {
	if s.Subscribe == nil {
		http.Error(w, "live updates are off", http.StatusNotFound)
		return
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		w.Header().Set("Retry-After", "30")
		http.Error(w, "too many live streams", http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	out := &eventWriter{w: w, rc: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would gather the stream
	changes := s.Subscribe(ctx)
	if out.send("retry: 2000\n: connected\n\n") != nil {
		return
	}
	s.stream(ctx, changes, out)
}

// stream copies changes to out until either side ends.
func (s *site) stream(ctx context.Context, changes <-chan muster.Change, out *eventWriter) {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	var flush <-chan time.Time // not nil while something is gathered
	pending := map[change]bool{}
	var last time.Time
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-s.Stopping:
			return
		case c, open := <-changes:
			if !open {
				return
			}
			pending[change{c.Kind, c.ID}] = true
			if flush == nil {
				flush = time.After(max(eventGather, eventGap-time.Since(last)))
			}
		case <-flush:
			err = out.send("data: " + encodeChanges(pending) + "\n\n")
			clear(pending)
			flush, last = nil, time.Now()
		case <-beat.C:
			err = out.send(": still here\n\n")
		}
		if err != nil {
			return
		}
	}
}

// encodeChanges is the JSON array of the changes, or one that stands for all if
// there are too many to name.
func encodeChanges(pending map[change]bool) string {
	list := make([]change, 0, len(pending))
	traces := 0
	for c := range pending {
		if c.Kind == kindTrace {
			traces++
			continue
		}
		list = append(list, c)
	}
	for c := range pending {
		if c.Kind == kindTrace && traces <= maxTraces {
			list = append(list, c)
		}
	}
	if traces > maxTraces {
		list = append(list, change{Kind: kindTrace})
	}
	if len(list) > maxChanges {
		list = []change{{Kind: "*"}}
	}
	b, err := json.Marshal(list)
	if err != nil { // two strings always encode
		return `[{"kind":"*"}]`
	}
	return string(b)
}

// eventWriter writes whole messages and gives up on a reader that does not read.
type eventWriter struct {
	w  io.Writer
	rc *http.ResponseController
}

func (e *eventWriter) send(message string) error {
	// A writer without deadlines (a test's recorder) does not block either.
	_ = e.rc.SetWriteDeadline(time.Now().Add(eventWrite))
	if _, err := io.WriteString(e.w, message); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	return e.rc.Flush()
}

package agent

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/wire"
)

// sender calls the control plane with the session token.
type sender func(ctx context.Context, path string, in, out any) error

// outbox delivers reports one at a time and in order, each until it was taken. The
// runner never waits for it.
type outbox struct {
	send    sender
	log     *slog.Logger
	command func(wire.Answer) // must not block

	mu      sync.Mutex
	queue   []wire.Report
	seq     int
	busy    bool       // in the next heartbeat
	job     *trace.Job // in every report from now on; nil if it is not known
	gone    bool       // the control plane wants no more
	changed chan struct{}
}

// maxQueue is how many undelivered reports are kept. A runner of one job makes
// five; a kept one that has lost its control plane forgets its oldest jobs.
const maxQueue = 64

func newOutbox(send sender, log *slog.Logger, command func(wire.Answer)) *outbox {
	return &outbox{send: send, log: log, command: command, changed: make(chan struct{}, 1)}
}

// add queues a report. Seq and At are filled in.
func (o *outbox) add(r wire.Report) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.busy = r.Busy
	if o.gone {
		return
	}
	o.seq++
	r.Seq, r.At, r.Job = o.seq, time.Now().UTC(), o.job
	if len(o.queue) >= maxQueue {
		// Not the first, which may be under way.
		o.log.Warn("report dropped", "phase", o.queue[1].Phase, "seq", o.queue[1].Seq)
		o.queue = append(o.queue[:1], o.queue[2:]...)
	}
	o.queue = append(o.queue, r)
	o.signal()
}

// know sets what is said of the job from now on.
func (o *outbox) know(job *trace.Job) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.job = job
}

func (o *outbox) signal() {
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

func (o *outbox) head() (wire.Report, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		return wire.Report{}, false
	}
	return o.queue[0], true
}

func (o *outbox) pop(gone bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = o.queue[1:]
	if gone {
		o.gone, o.queue = true, nil
	}
}

// run delivers until ctx ends; every beat without another report, it sends a
// heartbeat. It returns early when drain is closed and everything was delivered.
func (o *outbox) run(ctx context.Context, beat time.Duration, drain <-chan struct{}) {
	heart := time.NewTicker(beat)
	defer heart.Stop()
	var tries backoff
	for {
		r, ok := o.head()
		if !ok {
			select {
			case <-drain:
				if _, more := o.head(); !more {
					return
				}
			case <-o.changed:
			case <-heart.C:
				o.mu.Lock()
				busy := o.busy
				o.mu.Unlock()
				o.add(wire.Report{Phase: wire.PhaseHeartbeat, Busy: busy})
			case <-ctx.Done():
				return
			}
			continue
		}
		var answer wire.Answer
		err := o.send(ctx, wire.ReportPath, r, &answer)
		switch {
		case err == nil:
			tries.reset()
			heart.Reset(beat)
			o.pop(false)
			o.command(answer)
		case status(err) == http.StatusGone:
			// Nobody waits for this runner. A job that it may run is not ours to end.
			o.log.Info("runner is no longer needed", "error", err)
			o.pop(true)
			o.command(wire.Answer{Command: wire.CommandDrain, Reason: "no longer needed"})
		case again(err), status(err) == http.StatusUnauthorized, status(err) == http.StatusForbidden:
			// A session that is refused may be one that a restored control plane does
			// not know yet. The job goes on in any case.
			wait := tries.next(err)
			o.log.Warn("report not delivered", "phase", r.Phase, "seq", r.Seq, "error", err, "again_in", wait)
			if pause(ctx, wait) != nil {
				return
			}
		default:
			o.log.Error("report refused", "phase", r.Phase, "seq", r.Seq, "error", err)
			o.pop(false)
		}
	}
}

// shipper sends the runner's output in pieces. What cannot be sent for long is
// given up, not kept.
type shipper struct {
	send    sender
	log     *slog.Logger
	command func(wire.Answer)

	mu      sync.Mutex
	pending []byte
	offset  int64 // of pending[0]
	lost    bool  // output was dropped since the last byte of pending
	changed chan struct{}
}

const (
	maxPending = 256 << 10 // bytes of output that wait for the control plane
	maxChunk   = 32 << 10  // bytes in one call
	// shipAfter is how long output waits for more of it.
	shipAfter = time.Second
	lostMark  = "\n[muster: output was dropped here because the control plane could not be reached]\n"
)

func newShipper(send sender, log *slog.Logger, command func(wire.Answer)) *shipper {
	return &shipper{send: send, log: log, command: command, changed: make(chan struct{}, 1)}
}

// write queues redacted output.
func (s *shipper) write(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	room := maxPending - len(s.pending) - len(lostMark)
	if s.lost && room >= len(p) {
		s.pending = append(s.pending, lostMark...)
		s.lost = false
	}
	if s.lost || room < len(p) {
		s.lost = true
		return
	}
	s.pending = append(s.pending, p...)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *shipper) chunk() wire.LogChunk {
	s.mu.Lock()
	defer s.mu.Unlock()
	return wire.LogChunk{Offset: s.offset, Data: append([]byte(nil), s.pending[:min(len(s.pending), maxChunk)]...)}
}

func (s *shipper) sent(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(s.pending[:0], s.pending[n:]...)
	s.offset += int64(n)
}

// run ships until ctx ends. It returns early when drain is closed and everything
// was shipped.
func (s *shipper) run(ctx context.Context, drain <-chan struct{}) {
	var tries backoff
	draining := false
	for {
		c := s.chunk()
		if len(c.Data) == 0 {
			if draining {
				return
			}
			select {
			case <-s.changed:
			case <-drain:
				draining = true
			case <-ctx.Done():
				return
			}
			continue
		}
		if len(c.Data) < maxChunk && !draining {
			t := time.NewTimer(shipAfter)
			select {
			case <-t.C:
			case <-drain:
				draining = true
			case <-ctx.Done():
				t.Stop()
				return
			}
			t.Stop()
			c = s.chunk()
		}
		for {
			var answer wire.Answer
			err := s.send(ctx, wire.LogPath, c, &answer)
			if err == nil {
				tries.reset()
				s.command(answer)
				break
			}
			if !again(err) {
				s.log.Warn("output refused", "offset", c.Offset, "bytes", len(c.Data), "error", err)
				break
			}
			if pause(ctx, tries.next(err)) != nil {
				return
			}
		}
		s.sent(len(c.Data))
	}
}

// secretSession makes a sender of a client and a session token.
func secretSession(c *client, token muster.Secret) sender {
	return func(ctx context.Context, path string, in, out any) error { return c.call(ctx, path, token, in, out) }
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"

	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/wire"
)

// traceBox delivers the segments and seals of traces, one at a time and in order, each
// until it was taken. What waits is kept in memory up to a limit, then in files up to
// another; after that there is no room, and whoever records has to leave out.
type traceBox struct {
	send sender
	log  *slog.Logger
	dir  string // of the files

	mu      sync.Mutex
	queue   []parcel
	memory  int // bytes of data that wait in memory
	disk    int // and in files
	files   int
	gone    int // traces up to this number are over for the control plane
	broken  int // the trace of which no more segments can be delivered
	taken   []parcel
	kept    int               // bytes of data in taken
	jobs    map[int]trace.Job // what is known of each trace's job
	changed chan struct{}
}

// Limits of what waits for the control plane, in bytes.
const (
	maxTraceMemory = 4 << 20
	maxTraceDisk   = 256 << 20
	// maxTaken is how much of what was delivered is kept, for a control plane that has lost it.
	maxTaken = 2 << 20
)

// parcel is one segment, or the seal of a trace.
type parcel struct {
	trace   int
	segment trace.Segment
	file    string // where the segment's data is, if not in it
	size    int    // of that file
	seal    *wire.TraceSeal
}

func newTraceBox(send sender, log *slog.Logger, dir string) *traceBox {
	return &traceBox{send: send, log: log, dir: dir, jobs: map[int]trace.Job{}, changed: make(chan struct{}, 1)}
}

// room reports whether another segment can be kept.
func (b *traceBox) room() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.memory < maxTraceMemory || b.disk < maxTraceDisk
}

// unwanted reports whether the control plane takes nothing of a trace any more.
func (b *traceBox) unwanted(number int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return number <= b.gone
}

// know sets what is told of a trace's job from now on.
func (b *traceBox) know(number int, job trace.Job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.jobs[number] = job
}

// add queues a segment. The error is of the disk; the segment is lost then.
func (b *traceBox) add(number int, s trace.Segment) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if number <= b.gone || number == b.broken {
		return nil
	}
	p := parcel{trace: number, segment: s}
	if b.memory+len(s.Data) > maxTraceMemory {
		b.files++
		name := filepath.Join(b.dir, fmt.Sprintf("segment-%d", b.files))
		if err := os.WriteFile(name, s.Data, 0o600); err != nil {
			_ = os.Remove(name)
			return fmt.Errorf("keep a segment of the trace: %w", err)
		}
		b.disk += len(s.Data)
		p.file, p.size, p.segment.Data = name, len(s.Data), nil
	}
	b.memory += len(p.segment.Data)
	b.put(p)
	return nil
}

// seal queues the end of a trace.
func (b *traceBox) seal(number int, seal trace.Seal, r trace.Recorder) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if number > b.gone {
		b.put(parcel{trace: number, seal: &wire.TraceSeal{Trace: number, Seal: seal, Recorder: r}})
	}
}

func (b *traceBox) put(p parcel) {
	b.queue = append(b.queue, p)
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// head returns what is to be delivered next, with its data.
func (b *traceBox) head() (p parcel, job trace.Job, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.queue) > 0 {
		p = b.queue[0]
		if p.file == "" {
			return p, b.jobs[p.trace], true
		}
		data, err := os.ReadFile(p.file)
		if err == nil {
			p.segment.Data = data
			return p, b.jobs[p.trace], true
		}
		// Somebody has removed it; the control plane will see the gap in what the seal says.
		b.log.Error("segment of the trace is gone", "trace", p.trace, "segment", p.segment.Seq, "error", err)
		b.broken = p.trace
		b.drop(p.trace, false)
	}
	return parcel{}, trace.Job{}, false
}

// pop takes the first one away; it was delivered.
func (b *traceBox) pop(data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		return
	}
	p := b.queue[0]
	b.queue = b.queue[1:]
	b.forget(p)
	if p.seal != nil {
		b.taken, b.kept = nil, 0
		delete(b.jobs, p.trace)
		return
	}
	p.file, p.segment.Data = "", data
	b.taken, b.kept = append(b.taken, p), b.kept+len(data)
	for b.kept > maxTaken {
		b.kept -= len(b.taken[0].segment.Data)
		b.taken = b.taken[1:]
	}
}

// forget gives the room of a parcel back.
func (b *traceBox) forget(p parcel) {
	b.memory -= len(p.segment.Data)
	if p.file != "" {
		b.disk -= p.size
		_ = os.Remove(p.file)
	}
}

// drop takes a trace's segments away, and with all set its seal and what may still come.
func (b *traceBox) drop(number int, all bool) {
	var left []parcel
	for _, p := range b.queue {
		if p.trace != number || p.seal != nil && !all {
			left = append(left, p)
			continue
		}
		b.forget(p)
	}
	b.queue = left
	if all {
		b.gone = max(b.gone, number)
	}
}

// resume puts the queue where the control plane wants to go on; ok is false if that
// segment is not there any more.
func (b *traceBox) resume(number, want int) (ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// What it has already.
	for len(b.queue) > 0 && b.queue[0].trace == number && b.queue[0].seal == nil && b.queue[0].segment.Seq < want {
		b.forget(b.queue[0])
		b.queue = b.queue[1:]
		ok = true
	}
	if ok {
		return true
	}
	for i, p := range b.taken {
		if p.trace == number && p.segment.Seq == want {
			for _, again := range b.taken[i:] {
				b.memory += len(again.segment.Data)
			}
			b.queue = append(append([]parcel(nil), b.taken[i:]...), b.queue...)
			b.taken, b.kept = nil, 0
			return true
		}
	}
	return false
}

// wanted is the number that a refusal asks for.
var wanted = regexp.MustCompile(`(\d+) is wanted`)

// run delivers until ctx ends. It returns early when drain is closed and everything was
// delivered.
func (b *traceBox) run(ctx context.Context, drain <-chan struct{}) {
	var tries backoff
	resumed := 0
	for {
		p, job, ok := b.head()
		if !ok {
			select {
			case <-drain:
				if _, _, more := b.head(); !more {
					return
				}
			case <-b.changed:
			case <-ctx.Done():
				return
			}
			continue
		}
		err := b.deliver(ctx, p, job)
		if err == nil {
			tries.reset()
			resumed = 0
			b.pop(p.segment.Data)
			continue
		}
		switch status(err) {
		case http.StatusGone, http.StatusNotFound:
			b.log.Info("trace is not wanted", "trace", p.trace, "error", err)
			b.end(p.trace, true)
			continue
		case http.StatusConflict:
			var refused *refusal
			if errors.As(err, &refused) && resumed < 8 {
				if m := wanted.FindStringSubmatch(refused.message); m != nil {
					resumed++
					want, _ := strconv.Atoi(m[1])
					if want != p.segment.Seq && b.resume(p.trace, want) {
						b.log.Info("trace goes on elsewhere", "trace", p.trace, "segment", want)
						continue
					}
				}
			}
		}
		if again(err) || status(err) == http.StatusUnauthorized || status(err) == http.StatusForbidden {
			wait := tries.next(err)
			b.log.Warn("trace not delivered", "trace", p.trace, "segment", p.segment.Seq, "error", err, "again_in", wait)
			if pause(ctx, wait) != nil {
				return
			}
			continue
		}
		// What comes after a segment that is refused cannot be joined to what is there.
		b.log.Error("trace refused", "trace", p.trace, "segment", p.segment.Seq, "error", err)
		b.end(p.trace, p.seal != nil)
	}
}

// end gives a trace up, or with all false its segments only: the seal will tell what is
// missing.
func (b *traceBox) end(number int, all bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drop(number, all)
	if !all {
		b.broken = number
	}
}

func (b *traceBox) deliver(ctx context.Context, p parcel, job trace.Job) error {
	var answer wire.Answer
	if p.seal != nil {
		seal := *p.seal
		seal.Job = job
		return b.send(ctx, wire.TraceSealPath, seal, &answer)
	}
	return b.send(ctx, wire.TracePath, wire.TraceSegment{Trace: p.trace, Job: job, Segment: p.segment}, &answer)
}

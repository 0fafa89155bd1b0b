package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/wire"
)

// recorder sees what processes do. Package bpf has the one of the kernel, and a node's
// daemon lends its own to agents that may not.
type recorder interface {
	// Describe says what it records and what not; Missing["all"] is why it records nothing.
	Describe() trace.Recorder
	// Follow begins to record a process and all that will descend from it.
	Follow(ctx context.Context, root int, egress trace.Egress) (scope, error)
	Close() error
}

// placer is a recorder that can have a cgroup ready before the process is there which is to
// be followed.
type placer interface {
	// Place makes a cgroup below that of a process, whose child may be started in it. Follow
	// then need not move the child, for which the kernel takes 10 to 30 ms. dir is "" where
	// there can be none. leave removes what Follow was not asked for.
	Place(parent int) (dir string, leave func())
}

// scope is what is recorded of one process and its descendants.
type scope interface {
	// Events yields batches, roughly in the order of time. It is closed by Close, after
	// what was seen before.
	Events() <-chan []trace.Event
	// Lost is how many events were dropped so far, by reason. Each is told by a Dropped
	// among the events too. Safe for concurrent use.
	Lost() map[string]int64
	// Describe says how processes are known to be the scope's, and what is recorded.
	Describe() trace.Recorder
	Close() error
}

// Times of a trace. What is held and what is gathered is what a killed agent loses: less
// than a second.
const (
	// holdEvents is how long events wait for the runner to say which step they belong to.
	holdEvents = 250 * time.Millisecond
	// gather is how long a segment is open.
	gather = 600 * time.Millisecond
	// traceTick is how often the runner's log is read while a job runs, idleTick otherwise.
	traceTick = 50 * time.Millisecond
	idleTick  = time.Second
	// quietTurns is how many turns in a row must bring nothing of a job that has ended until
	// its trace ends, if the runner goes on. Time alone does not say that the recorder is
	// done: on a busy machine neither it nor this program may have had a turn in it.
	quietTurns = int(holdEvents / traceTick)
	// traceGap is how long a program that is alive does not take between two turns.
	traceGap = 2 * time.Second
	// waitForWord is how long an agent that cannot record waits to learn which job it
	// will not have recorded.
	waitForWord = 15 * time.Second
	// drainScope is how long the recorder may take to hand over the rest.
	drainScope = 15 * time.Second
	// defaultSeal is how long a trace may take to be delivered after its job.
	defaultSeal = 2 * time.Minute
)

// Sizes of a trace.
const (
	// maxEarly is how many events are kept of what a runner does before it has a job.
	maxEarly = 4096
	// maxHeld is how many events wait for their step at most; more are written earlier.
	maxHeld = 1 << 16
	// maxText is how much text a segment has before it is compressed, and maxPacked how
	// large it may be after; what is larger is divided.
	maxText   = 1 << 20
	maxPacked = 256 << 10
)

// tracer records what the jobs of one runner do and has it delivered. A nil tracer does
// nothing. Its goroutine owns all that is not a channel.
type tracer struct {
	settings wire.TraceSettings
	log      *slog.Logger
	rec      recorder
	agent    string         // the agent's version
	about    trace.Recorder // the recorder's description
	missing  string         // why nothing is recorded
	place    string         // a cgroup for the runner's process, "" if there is none
	kept     bool           // the runner may have several jobs
	box      *traceBox
	hook     *hook
	diag     *diagnostics
	hide     redaction
	plane    string          // the control plane as an entry of a policy
	learnt   func(trace.Job) // is told what becomes known of the job
	packer   *trace.Packer
	dir      string // of the segments' files

	notes     chan note
	continued <-chan os.Signal
	scope     scope
	running   sync.WaitGroup

	number    int
	now       *recording
	later     []note           // told and not done yet
	quiet     int              // turns since the recorder brought something of the job that has ended
	coming    []worklog        // of jobs that have not begun here
	following bool             // the goroutine was started
	told      map[string]int64 // what Dropped events of the recorder have told, by reason
	last      time.Time        // of the loop's last turn
	gap       time.Duration    // between two turns, too long; 0 once it was told
	gapAt     time.Time

	sealed   chan struct{} // closed when nothing more is queued for delivery
	hangUp   context.CancelFunc
	delivery sync.WaitGroup
}

// note is what the watch tells the tracer.
type note struct {
	what noteKind
	job  string
	at   time.Time
}

type noteKind int

const (
	jobBegan noteKind = iota
	jobEnded
	runnerEnded
)

// recording is one trace while it is made.
type recording struct {
	number  int // 0 before a job runs
	since   time.Time
	began   time.Time // when its job did
	job     trace.Job
	heard   bool // the hook has spoken
	sealed  bool
	held    []trace.Event
	ordered bool // held is in the order of time
	steps   worklog
	limit   *traceLimit
	seq     uint64
	chain   trace.Chain
	lines   []byte
	count   int // events in lines
	cuts    []int
	times   []time.Time // first and last of lines are needed when it is divided
	opened  time.Time   // when the first of lines was written
	written map[string]int64
	lost    map[string]int64 // by reason
	untold  map[drop]int64   // dropped and not yet told
}

// drop is a kind of events that were dropped.
type drop struct {
	reason string
	kind   trace.Type
}

// began tells that the runner has a job.
func (t *tracer) began(job string) { t.tell(note{jobBegan, job, time.Now()}) }

// ended tells that the job is over.
func (t *tracer) ended() { t.tell(note{jobEnded, "", time.Now()}) }

func (t *tracer) tell(n note) {
	if t != nil {
		t.notes <- n
	}
}

// unenforced is why a policy of egress that is to be enforced is not, nil if there is none
// or it is. Such a job must not run.
func (t *tracer) unenforced() error {
	if t == nil || t.missing == "" || t.settings.Egress.Mode != trace.EgressEnforce {
		return nil
	}
	return fmt.Errorf("the pool enforces its egress, which this machine cannot: %s; let its agent run as root or with the capabilities BPF, PERFMON and NET_ADMIN on Linux 5.17 or newer, or set the pool's egress to audit", t.missing)
}

// follow begins to record the process, which has not begun to do anything. An error means
// that it must not begin.
func (t *tracer) follow(ctx context.Context, root int) error {
	if t == nil {
		return nil
	}
	since := time.Now()
	if t.missing == "" {
		s, err := t.rec.Follow(ctx, root, t.policy())
		if err != nil {
			t.missing = err.Error()
		} else {
			t.scope, t.about = s, s.Describe()
			t.about.Agent = t.agent
		}
	}
	if t.missing != "" {
		t.log.Warn("trace: not recorded, because " + t.missing)
	}
	t.now, t.following = t.fresh(since), true
	t.running.Go(t.run)
	return t.unenforced()
}

// policy is the pool's, and the control plane allowed besides: the recorder may be the
// node's, which does not know it.
func (t *tracer) policy() trace.Egress {
	p := t.settings.Egress
	if p.Mode != trace.EgressOff && t.plane != "" {
		p.Allow = append(slices.Clone(p.Allow), t.plane)
	}
	return p
}

// planeEntry is the control plane as an entry of a policy, "" if its URL has no host.
func planeEntry(base string) string {
	u, err := url.Parse(base)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func (t *tracer) fresh(since time.Time) *recording {
	return &recording{since: since, ordered: true, limit: newTraceLimit(t.settings.MaxEvents, t.settings.MaxBytes), written: map[string]int64{}, lost: map[string]int64{}, untold: map[drop]int64{}}
}

// run is the tracer's goroutine. It ends after runnerEnded.
func (t *tracer) run() {
	tick := time.NewTicker(idleTick)
	defer tick.Stop()
	var events <-chan []trace.Event
	if t.scope != nil {
		events = t.scope.Events()
	}
	t.last = time.Now()
	for {
		select {
		case batch, ok := <-events:
			if !ok {
				events = nil
				t.log.Error("recorder ended before the job")
				// From here on nothing is known, and how much is not either.
				batch = []trace.Event{{Type: trace.Dropped, Timestamp: time.Now(), Method: lostRecorder, Count: 1}}
			}
			t.take(batch)
		case n := <-t.notes:
			switch n.what {
			case jobBegan:
				tick.Reset(traceTick)
				t.later = append(t.later, n)
				t.settle(time.Now(), false)
			case jobEnded:
				if t.kept {
					t.later, t.quiet = append(t.later, n), 0
				}
			case runnerEnded:
				t.drain(events)
				t.read(time.Now())
				t.settle(time.Now(), true)
				t.finish(time.Now(), true)
				return
			}
		case <-t.continued:
			t.paused(time.Now())
		case <-tick.C:
			t.waiting(events)
			now := time.Now()
			t.passed(now)
			t.turn(now)
			t.quiet++
			if t.settle(now, false) {
				tick.Reset(idleTick)
			}
		}
	}
}

// settle does what the watch has told, in its order. A job's end waits for what the recorder
// has not handed over yet, unless all of it is there; a job that begins meanwhile waits behind
// it. idle is whether a job has ended and none runs.
func (t *tracer) settle(now time.Time, all bool) (idle bool) {
	for len(t.later) > 0 {
		n := t.later[0]
		if n.what == jobEnded && !all && !t.handedOver(now.Sub(n.at)) {
			return false
		}
		at := t.end()
		t.later = t.later[1:]
		if n.what == jobBegan {
			t.begin(n)
			idle = false
			continue
		}
		t.finish(at, false)
		idle = true
	}
	return idle
}

// handedOver reports whether a job that ended so long ago has been told whole, as far as one
// can know without an end of the recording.
func (t *tracer) handedOver(since time.Duration) bool {
	return since >= drainScope || since >= holdEvents && t.quiet >= quietTurns
}

// waiting takes what the recorder has handed over already, but no flood's worth of it.
func (t *tracer) waiting(events <-chan []trace.Event) {
	for range cap(events) + 1 {
		select {
		case batch, ok := <-events:
			if !ok {
				return // run sees it, too
			}
			t.take(batch)
		default:
			return
		}
	}
}

// end is when the job of now ended, on a runner that goes on; zero while it runs. The
// runner's log knows better than the moment at which its output was read.
func (t *tracer) end() time.Time {
	for _, n := range t.later {
		if n.what == jobEnded {
			if at := t.now.steps.over; !at.IsZero() && at.Before(n.at) {
				return at
			}
			return n.at
		}
	}
	return time.Time{}
}

// drain closes the scope and takes what it still had.
func (t *tracer) drain(events <-chan []trace.Event) {
	if t.scope == nil {
		return
	}
	closed := make(chan error, 1)
	t.running.Go(func() { closed <- t.scope.Close() })
	late := time.NewTimer(drainScope)
	defer late.Stop()
	for events != nil {
		select {
		case batch, ok := <-events:
			if !ok {
				events = nil
				break
			}
			t.take(batch)
		case <-late.C:
			t.log.Error("recorder does not end")
			return
		}
	}
	if err := <-closed; err != nil {
		t.log.Warn("recorder not closed", "error", err)
	}
}

// take holds events back until it is known which step they belong to.
func (t *tracer) take(batch []trace.Event) {
	r, end := t.now, t.end()
	for _, e := range batch {
		if !e.Timestamp.After(end) {
			t.quiet = 0
		}
		if n := len(r.held); n > 0 && e.Timestamp.Before(r.held[n-1].Timestamp) {
			r.ordered = false
		}
		r.held = append(r.held, e)
	}
	switch {
	case r.number == 0 && len(r.held) > 2*maxEarly:
		over := len(r.held) - maxEarly
		for _, e := range r.held[:over] {
			r.drop(lostBuffer, e.Type, max(e.Count, 1))
		}
		r.held = append(r.held[:0], r.held[over:]...)
	case r.number > 0 && len(r.held) > maxHeld:
		t.release(r.held[len(r.held)/2].Timestamp, time.Now())
	}
}

// turn does what is due.
func (t *tracer) turn(now time.Time) {
	t.read(now)
	r := t.now
	if r.number == 0 {
		return
	}
	if t.box.unwanted(r.number) {
		r.held, r.steps.bounds = r.held[:0], nil
		return
	}
	if t.missing != "" {
		if !r.sealed && (r.heard || now.Sub(r.began) > waitForWord) {
			t.absent(now)
		}
		return
	}
	until := now.Add(-holdEvents)
	if end := t.end(); !end.IsZero() && until.After(end) {
		until = end
	}
	t.release(until, now)
	if r.count > 0 && now.Sub(r.opened) >= gather {
		t.close()
	}
}

// read takes what the runner has written: its log, and the hook's word.
func (t *tracer) read(now time.Time) {
	r := t.now
	t.diag.read(now, func(line string, there time.Time) {
		log := &r.steps
		if n := len(t.coming); n > 0 {
			log = &t.coming[n-1]
		}
		if t.kept && log.another(line) {
			t.coming = append(t.coming, worklog{})
			log = &t.coming[len(t.coming)-1]
		}
		log.line(line, there.UTC())
	})
	if t.hook == nil || r.heard || r.number == 0 {
		return
	}
	if job, ok := t.hook.word(t.end()); ok {
		job.Name = r.job.Name
		r.job, r.heard = job, true
		t.box.know(r.number, job)
		t.learnt(job)
	}
}

// begin makes a trace of what is recorded.
func (t *tracer) begin(n note) {
	r := t.now
	if r.number > 0 {
		return // it says so twice
	}
	t.number++
	r.number, r.began = t.number, n.at
	r.job.Name = clip(n.job, 512)
	t.box.know(r.number, r.job)
	if t.missing != "" {
		return
	}
	about := t.about
	t.write(trace.Event{Type: trace.TraceStart, Timestamp: r.since.UTC(), Recorder: &about}, n.at)
	t.turn(n.at)
}

// passed notes how long it is since the loop's last turn.
func (t *tracer) passed(now time.Time) {
	if gap := now.Sub(t.last); gap > traceGap {
		t.gap, t.gapAt = gap, now
	}
	t.last = now
}

// paused notes that this program was stopped for a while, in which nothing was shipped.
// The signal that says so may come after the first turn of the loop.
func (t *tracer) paused(now time.Time) {
	t.passed(now)
	if t.missing != "" || t.gap == 0 || now.Sub(t.gapAt) > traceGap {
		return
	}
	gap := t.gap
	t.gap = 0
	t.log.Warn("agent was stopped", "for", gap.Round(time.Millisecond))
	t.take([]trace.Event{{Type: trace.Tamper, Timestamp: now.UTC(), Method: "stopped", Target: os.Getpid(), TargetCommand: "muster-agent", DurationUS: gap.Microseconds()}})
}

// release writes the events up to a time, and between them the bounds of steps.
func (t *tracer) release(until, now time.Time) {
	r := t.now
	if !r.ordered {
		slices.SortStableFunc(r.held, func(a, b trace.Event) int { return a.Timestamp.Compare(b.Timestamp) })
		r.ordered = true
	}
	n, _ := slices.BinarySearchFunc(r.held, until, func(e trace.Event, at time.Time) int {
		if e.Timestamp.After(at) {
			return 1
		}
		return -1
	})
	for _, e := range r.held[:n] {
		t.mark(e.Timestamp, now)
		e.Step = r.steps.at(e.Timestamp) // also of one that comes late
		t.write(e, now)
	}
	r.held = append(r.held[:0], r.held[n:]...)
	t.mark(until, now)
}

// mark writes the bounds of steps up to a time.
func (t *tracer) mark(until, now time.Time) {
	r := t.now
	for {
		e, ok := r.steps.next(until)
		if !ok {
			return
		}
		t.write(e, now)
	}
}

// write adds an event to the open segment, or counts it as dropped.
func (t *tracer) write(e trace.Event, now time.Time) {
	r := t.now
	if !r.limit.admit(e) {
		if r.lost[lostLimit] == 0 {
			// Once, where it happened; the rest is told at the end.
			r.lost[lostLimit] = max(e.Count, 1)
			t.put(trace.Event{Type: trace.Dropped, Timestamp: e.Timestamp, Step: e.Step, Method: lostLimit, Name: string(e.Type), Count: max(e.Count, 1)}, now)
			return
		}
		r.drop(lostLimit, e.Type, max(e.Count, 1))
		return
	}
	if !ours(e.Type) && !t.box.room() {
		r.drop(lostDisk, e.Type, max(e.Count, 1))
		return
	}
	if e.Type == trace.Dropped {
		r.lost[e.Method] += max(e.Count, 1)
		t.told[e.Method] += max(e.Count, 1)
	}
	t.hide.event(&e)
	t.put(e, now)
}

// put adds an event to the open segment.
func (t *tracer) put(e trace.Event, now time.Time) {
	r := t.now
	e.Seq, e.Timestamp = r.seq+1, e.Timestamp.UTC()
	before := len(r.lines)
	lines, err := trace.AppendEvent(r.lines, e)
	if err != nil {
		t.log.Error("event not written", "error", err)
		r.drop("encoding", e.Type, 1)
		return
	}
	if r.count == 0 {
		r.opened = now
	}
	r.seq, r.lines = e.Seq, lines
	r.count++
	r.cuts, r.times = append(r.cuts, len(lines)), append(r.times, e.Timestamp)
	r.written[string(e.Type)]++
	r.limit.wrote(len(lines) - before)
	if len(lines) >= maxText {
		t.close()
	}
}

// drop counts events that are missing.
func (r *recording) drop(reason string, kind trace.Type, n int64) {
	r.lost[reason] += n
	r.untold[drop{reason, kind}] += n
}

// unaccounted tells of what the recorder has dropped without saying so among its events.
// They have all been taken.
func (t *tracer) unaccounted(now time.Time) {
	lost := t.scope.Lost()
	for _, reason := range slices.Sorted(maps.Keys(lost)) {
		if more := lost[reason] - t.told[reason]; more > 0 {
			t.write(trace.Event{Type: trace.Dropped, Timestamp: now, Method: reason, Count: more}, now)
		}
	}
}

// close packs what is open into segments.
func (t *tracer) close() {
	r := t.now
	if r.count == 0 {
		return
	}
	t.segment(0, r.count)
	r.lines, r.cuts, r.times, r.count = r.lines[:0], r.cuts[:0], r.times[:0], 0
}

// segment packs the events from one to before another, in two if one is too large.
func (t *tracer) segment(from, to int) {
	r := t.now
	begin := 0
	if from > 0 {
		begin = r.cuts[from-1]
	}
	data := t.packer.Pack(r.lines[begin:r.cuts[to-1]])
	if len(data) > maxPacked && to-from > 1 {
		half := (from + to) / 2
		t.segment(from, half)
		t.segment(half, to)
		return
	}
	s := trace.Segment{Seq: r.chain.Seq + 1, Events: to - from, First: r.times[from], Last: r.times[to-1], Data: data}
	s.Link = r.chain.Head.Next(s.Seq, data)
	if err := t.box.add(r.number, s); err != nil {
		t.log.Error("trace not kept", "error", err)
		r.lost[lostDisk] += int64(s.Events)
		return
	}
	r.chain.Seq, r.chain.Head = s.Seq, s.Link
}

// finish ends the trace, if a job ran, and begins to record what may become another. With
// last set the recorder has handed over everything.
func (t *tracer) finish(at time.Time, last bool) {
	r := t.now
	t.read(time.Now())
	switch {
	case r.number == 0: // no job, no trace
	case t.missing != "":
		if !r.sealed {
			t.absent(at)
		}
	default:
		r.steps.end("", at.UTC())
		until := at
		if last {
			until = at.Add(time.Hour) // whatever clock it has
		}
		t.release(until, at)
		if last {
			t.unaccounted(at)
		}
		for _, d := range slices.SortedFunc(maps.Keys(r.untold), func(a, b drop) int {
			return cmp.Or(cmp.Compare(a.reason, b.reason), cmp.Compare(a.kind, b.kind))
		}) {
			t.put(trace.Event{Type: trace.Dropped, Timestamp: at, Method: d.reason, Name: string(d.kind), Count: r.untold[d]}, at)
		}
		t.put(trace.Event{Type: trace.TraceEnd, Timestamp: at, Counts: maps.Clone(r.written), Lost: maps.Clone(r.lost)}, at)
		t.close()
		t.box.seal(r.number, trace.Seal{
			Segments: r.chain.Seq, Events: int64(r.seq), Head: r.chain.Head, Lost: r.lost, StartedAt: r.since.UTC(), EndedAt: at.UTC(),
		}, t.about)
	}
	t.now = t.fresh(at)
	if last {
		return
	}
	if t.hook != nil {
		t.hook.forget(at)
	}
	t.now.held, t.now.ordered = r.held, r.ordered // of the time after
	if len(t.coming) > 0 {
		t.now.steps, t.coming = t.coming[0], t.coming[1:]
	}
}

// deliver starts the delivery, which goes on after ctx has ended.
func (t *tracer) deliver(ctx context.Context) {
	talk, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	t.sealed, t.hangUp = make(chan struct{}), hangUp
	t.delivery.Go(func() { t.box.run(talk, t.sealed) })
}

// delivered waits until everything was taken, and reports whether it was in time.
func (t *tracer) delivered(limit time.Duration) bool {
	quit := time.AfterFunc(limit, t.hangUp)
	close(t.sealed)
	t.delivery.Wait()
	intime := quit.Stop()
	t.hangUp()
	return intime
}

// absent seals a trace of which nothing was recorded.
func (t *tracer) absent(at time.Time) {
	r := t.now
	r.sealed = true
	t.box.seal(r.number, trace.Seal{Missing: t.missing, StartedAt: r.began.UTC(), EndedAt: at.UTC()}, t.about)
}

// over ends the recording after the runner has ended, and waits until everything was
// delivered, or for as long as the control plane allows.
func (t *tracer) over(ctx context.Context) {
	if t == nil {
		return
	}
	if t.following {
		t.tell(note{runnerEnded, "", time.Now()})
		t.running.Wait()
	}
	limit := time.Duration(t.settings.SealSeconds) * time.Second
	if limit <= 0 {
		limit = defaultSeal
	}
	if ctx.Err() != nil {
		limit = min(limit, sealInHaste)
	}
	if !t.delivered(limit) {
		t.log.Error("trace not delivered in time", "limit", limit)
	}
	if t.rec != nil {
		if err := t.rec.Close(); err != nil {
			t.log.Warn("recorder not closed", "error", err)
		}
	}
	if t.hook != nil {
		if err := t.hook.restore(); err != nil {
			t.log.Warn("job hook stays", "error", err)
		}
	}
	t.diag.close()
	if err := os.RemoveAll(t.dir); err != nil {
		t.log.Warn("files of the trace stay", "error", err)
	}
}

// sealInHaste is how long the agent stays for its trace once it was told to end at once.
const sealInHaste = 10 * time.Second

// reaching allows a policy of egress the control plane, which a job may talk to as well.
func reaching(settings wire.TraceSettings, address string) wire.TraceSettings {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || settings.Egress.Mode == trace.EgressOff {
		return settings
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	settings.Egress.Allow = append(slices.Clone(settings.Egress.Allow), net.JoinHostPort(u.Hostname(), port))
	return settings
}

// newTracer opens the recorder and prepares what is needed beside it. env is the runner's
// environment with the hook in it.
func (w *watch) newTracer(ctx context.Context, environ []string) (t *tracer, env []string) {
	if w.boot.Trace == nil {
		if w.cfg.warm != nil {
			_ = w.cfg.warm.Close() // it holds nothing yet, and nobody wants it
		}
		return nil, environ
	}
	t = &tracer{
		settings: reaching(*w.boot.Trace, w.cfg.URL), log: w.log, notes: make(chan note, 16), told: map[string]int64{}, kept: w.boot.Registration != nil && !w.boot.Registration.Ephemeral,
		diag: &diagnostics{dir: filepath.Join(w.cfg.RunnerDir, "_diag"), began: time.Now().Add(-time.Second)},
		hide: newRedaction(w.secrets()...), learnt: w.learnt, plane: planeEntry(w.cfg.URL),
	}
	var err error
	if t.packer, err = trace.NewPacker(); err == nil {
		t.dir, err = os.MkdirTemp("", "muster-trace-")
	}
	if err != nil {
		t.missing = fmt.Sprintf("the agent has nowhere to keep it: %v", err)
	}
	t.box = newTraceBox(w.send, w.log, t.dir)
	// Where there can be no hook, the environment is the same.
	if t.hook, env, err = newHook(w.cfg.RunnerDir, environ); err != nil {
		w.log.Warn("jobs are not asked for their names", "error", err)
	}
	if t.missing == "" {
		t.rec, t.missing = w.cfg.openRecorder(ctx, w.agent.version, t.settings.Egress, w.log)
	}
	if t.rec != nil {
		t.about = t.rec.Describe()
		if p, ok := t.rec.(placer); ok {
			t.place, _ = p.Place(os.Getpid()) // it goes with the recorder
		}
	} else {
		t.about = trace.Recorder{Missing: map[string]string{"all": t.missing}}
	}
	t.about.Agent, t.agent = w.agent.version, w.agent.version
	t.continued = w.cfg.continued
	t.deliver(ctx)
	return t, env
}

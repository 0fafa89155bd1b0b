package agent

import "github.com/muster-ci/muster/internal/trace"

// Why events are missing, as Event.Method of a Dropped says.
const (
	lostBuffer = "buffer_full"
	lostLimit  = "job_limit"
	lostDisk   = "disk_full"
	// lostRecorder: the recorder ended before the job did. It counts as one.
	lostRecorder = "recorder_gone"
)

// traceLimit decides which events of one job are written. After a limit, those that
// matter most go on within a reserve.
type traceLimit struct {
	events, bytes int64 // limits; 0 is none
	reserve       int64 // how many events are written after a limit
	written, size int64
	reached       bool
	programs      map[string]bool
}

// maxPrograms is how many programs a job may run before none counts as new.
const maxPrograms = 10_000

func newTraceLimit(events, bytes int64) *traceLimit {
	return &traceLimit{events: events, bytes: bytes, reserve: max(1000, events/10), programs: map[string]bool{}}
}

// admit reports whether the event is written.
func (l *traceLimit) admit(e trace.Event) bool {
	fresh := e.Type == trace.ProcessExec && !l.programs[e.Path] && len(l.programs) < maxPrograms
	if fresh {
		l.programs[e.Path] = true
	}
	l.reached = l.reached || l.events > 0 && l.written >= l.events || l.bytes > 0 && l.size >= l.bytes
	if !l.reached || ours(e.Type) {
		return true
	}
	if l.reserve > 0 && (fresh || grave(e)) {
		l.reserve--
		return true
	}
	return false
}

// wrote counts an event that was written, with the size of its text.
func (l *traceLimit) wrote(size int) {
	l.written++
	l.size += int64(size)
}

// ours reports whether the agent itself makes events of the type; their number is bounded.
func ours(t trace.Type) bool {
	switch t {
	case trace.TraceStart, trace.TraceEnd, trace.StepStart, trace.StepEnd, trace.Dropped:
		return true
	}
	return false
}

// grave reports whether an event is one that nobody wants to miss.
func grave(e trace.Event) bool {
	switch e.Type {
	case trace.MemRead, trace.Tamper, trace.BPFLoad, trace.ModuleLoad, trace.CgroupMove, trace.RawSocket, trace.IOUring:
		return true
	}
	return e.Verdict == trace.VerdictDenied || e.Verdict == trace.VerdictWouldDeny
}

package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-ci/muster"
)

// traceMetrics are the metrics of traces.
type traceMetrics struct {
	ended    *prometheus.CounterVec
	segments *prometheus.CounterVec
	bytes    prometheus.Counter
	events   prometheus.Counter
	lost     *prometheus.CounterVec
	findings *prometheus.CounterVec
	analysis prometheus.Histogram
	damaged  *prometheus.CounterVec
}

type counterMaker func(name, help string, labels ...string) *prometheus.CounterVec

type histogramMaker func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec

func newTraceMetrics(counter counterMaker, histogram histogramMaker) traceMetrics {
	return traceMetrics{
		ended:    counter("traces_total", "Traces that ended, by what became of them.", "pool", "state"),
		segments: counter("trace_segments_total", "Segments of traces that agents sent, by what they were answered.", "outcome"),
		bytes:    counter("trace_bytes_total", "Compressed bytes of the segments that were taken.").WithLabelValues(),
		events:   counter("trace_events_total", "Events in the segments that were taken.").WithLabelValues(),
		lost:     counter("trace_events_lost_total", "Events that recorders dropped, by why.", "reason"),
		findings: counter("trace_findings_total", "What rules found in traces.", "severity", "rule"),
		damaged:  counter("traces_damaged_total", "Traces of which a stored segment was found to be missing or changed.", "pool", "what"),
		analysis: histogram("trace_analysis_seconds", "Time to make views and findings of a trace.", slow).WithLabelValues().(prometheus.Histogram),
	}
}

// TraceSegment counts a segment of a trace that was taken or, with an error, refused.
func (r *Registry) TraceSegment(bytes, events int, err error) {
	if err != nil {
		r.traces.segments.WithLabelValues(r.set.outcome.of(string(muster.CodeOf(err)))).Inc()
		return
	}
	r.traces.segments.WithLabelValues("ok").Inc()
	r.traces.bytes.Add(float64(max(0, bytes)))
	r.traces.events.Add(float64(max(0, events)))
}

// TraceEnded counts a trace that is recorded no more.
func (r *Registry) TraceEnded(t muster.Trace) {
	r.traces.ended.WithLabelValues(r.set.pool.of(t.Pool), r.set.state.of(string(t.State))).Inc()
	for reason, n := range t.Lost {
		r.traces.lost.WithLabelValues(lossOf(reason)).Add(float64(max(0, n)))
	}
}

// lossOf is why events were dropped, as far as it is known here: agents choose the words.
func lossOf(reason string) string {
	switch reason {
	case "buffer_full", "job_limit", "rate_limit", "disk_full":
		return reason
	}
	return "other"
}

// TraceDamaged counts a trace of which a stored segment was found to be missing or changed.
func (r *Registry) TraceDamaged(t muster.Trace) {
	what := "changed"
	if t.Damage.Missing {
		what = "missing"
	}
	r.traces.damaged.WithLabelValues(r.set.pool.of(t.Pool), what).Inc()
}

// TraceAnalysed counts what rules found in a trace, and how long it took.
func (r *Registry) TraceAnalysed(found []muster.Detection, took time.Duration) {
	r.traces.analysis.Observe(seconds(took))
	for _, d := range found {
		r.traces.findings.WithLabelValues(r.set.state.of(string(d.Severity)), r.set.rule.of(d.Rule)).Inc()
	}
}

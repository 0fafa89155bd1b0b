// Package metrics is how Muster shows what it does to those who run it:
// Prometheus metrics, OpenTelemetry traces, and log lines that carry the trace id
// of the job that they are about.
//
// Registry owns every metric's name and labels, and is the Observer that ingress,
// github and lifecycle declare for themselves. Labels come from small sets only:
// pool, provider, App, event, outcome, route template, state. A job, a runner, a
// repository or a message is never a label, and each label has a limit beyond
// which values become "other", whatever the callers do.
//
// It never decides anything, and nothing in it blocks a caller. internal/server
// builds it.
package metrics

package muster

import "context"

type traceKey struct{}

// WithTrace returns a context that carries the trace id under which a job is
// followed through every log line (S4-69). An empty id leaves ctx as it is.
func WithTrace(ctx context.Context, id string) context.Context {
	if id == "" {
		return ctx
	}
	return context.WithValue(ctx, traceKey{}, id)
}

// TraceOf returns the trace id that ctx carries, "" if it carries none.
func TraceOf(ctx context.Context) string {
	id, _ := ctx.Value(traceKey{}).(string)
	return id
}

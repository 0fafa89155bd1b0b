package metrics

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/muster-ci/muster"
)

// Tracing sends the process's spans to an OpenTelemetry collector by OTLP over
// HTTP, and returns what has to be called before the process ends, with a context
// that bounds how long the last spans may take. Endpoint is a URL such as
// "http://collector:4318"; without one nothing is set up and spans cost nothing.
func Tracing(ctx context.Context, endpoint, version string) (shutdown func(context.Context) error, err error) {
	if endpoint == "" {
		return func(context.Context) error { return nil }, nil
	}
	if !strings.HasPrefix(endpoint, "http://") && !strings.HasPrefix(endpoint, "https://") {
		return nil, muster.Errorf(muster.CodeInvalid, "the OpenTelemetry endpoint %q is not a URL like http://collector:4318", endpoint)
	}
	if rest := strings.SplitN(endpoint, "/", 4); len(rest) < 4 || rest[3] == "" {
		endpoint = strings.TrimSuffix(endpoint, "/") + "/v1/traces"
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint))
	if err != nil {
		return nil, fmt.Errorf("set up OpenTelemetry: %w", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "muster"),
			attribute.String("service.version", version),
		)),
	)
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	return provider.Shutdown, nil
}

// SpanContext returns a context in which new spans belong to the trace of our own
// trace id, so that all spans of a job join, whichever process made them. An id
// that is not 32 hex digits is hashed into one; an empty one leaves ctx as it is.
func SpanContext(ctx context.Context, traceID string) context.Context {
	if traceID == "" {
		return ctx
	}
	sum := sha256.Sum256([]byte(traceID))
	var id trace.TraceID
	if raw, err := hex.DecodeString(traceID); err == nil && len(raw) == len(id) {
		copy(id[:], raw)
	}
	if !id.IsValid() {
		copy(id[:], sum[:])
	}
	// Every span needs a parent to inherit the trace from; this one is the same
	// for all and is never sent.
	var parent trace.SpanID
	copy(parent[:], sum[len(sum)-len(parent):])
	return trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: id, SpanID: parent, TraceFlags: trace.FlagsSampled, Remote: true,
	}))
}

// WithTrace returns a context whose log lines carry the trace id and whose spans
// belong to its trace.
func WithTrace(ctx context.Context, id string) context.Context {
	return SpanContext(muster.WithTrace(ctx, id), id)
}

// LogHandler returns h with trace_id added to every record whose context carries
// one, by WithTrace or by a span (S4-69).
func LogHandler(h slog.Handler) slog.Handler { return &traceHandler{h} }

type traceHandler struct{ slog.Handler }

// Handle implements slog.Handler.
func (t *traceHandler) Handle(ctx context.Context, r slog.Record) error {
	id := muster.TraceOf(ctx)
	if id == "" {
		if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
			id = span.TraceID().String()
		}
	}
	if id != "" {
		r = r.Clone()
		r.AddAttrs(slog.String("trace_id", id))
	}
	return t.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (t *traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &traceHandler{t.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (t *traceHandler) WithGroup(name string) slog.Handler {
	return &traceHandler{t.Handler.WithGroup(name)}
}

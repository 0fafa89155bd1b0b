package metrics_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	tracev1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/metrics"
)

const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"

func TestLogLinesCarryTheTraceID(t *testing.T) { // S4-69
	var out bytes.Buffer
	log, err := metrics.NewLogger(&out, metrics.LogConfig{Format: metrics.LogJSON})
	if err != nil {
		t.Fatal(err)
	}
	log.InfoContext(muster.WithTrace(t.Context(), traceID), "job queued", "job", 7, "token", muster.Secret("hunter2"))
	log.With("pool", "ci").InfoContext(metrics.WithTrace(t.Context(), traceID), "runner launched")
	log.InfoContext(metrics.SpanContext(t.Context(), traceID), "from a span alone")
	log.Info("about nothing in particular")
	log.Debug("not shown")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 4 {
		t.Fatalf("%q", lines)
	}
	for i, line := range lines {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		if want := any(traceID); i < 3 && fields["trace_id"] != want {
			t.Errorf("%s has no trace id", line)
		}
		if _, has := fields["trace_id"]; i == 3 && has {
			t.Errorf("%s has a trace id", line)
		}
	}
	if strings.Contains(out.String(), "hunter2") || !strings.Contains(lines[1], `"pool":"ci"`) {
		t.Errorf("%q", lines)
	}
}

func TestLogFormats(t *testing.T) { // S3-59 S3-60
	for format, want := range map[metrics.LogFormat][]string{
		"":               {"level=WARN", `msg="a thing"`, "pool=ci"},
		metrics.LogText:  {"level=WARN", `msg="a thing"`},
		metrics.LogJSON:  {`"level":"WARN"`, `"msg":"a thing"`},
		metrics.LogCloud: {`"severity":"WARNING"`, `"message":"a thing"`, `"inner":{"msg":"kept"}`},
	} {
		var out bytes.Buffer
		log, err := metrics.NewLogger(&out, metrics.LogConfig{Format: format, Level: slog.LevelWarn})
		if err != nil {
			t.Fatal(err)
		}
		log.Info("not shown")
		log.Warn("a thing", "pool", "ci", slog.Group("inner", "msg", "kept"))
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%q: %s has no %s", format, out.String(), w)
			}
		}
		if strings.Contains(out.String(), "not shown") {
			t.Errorf("%q ignores the level", format)
		}
	}
	if _, err := metrics.NewLogger(io.Discard, metrics.LogConfig{Format: "xml"}); muster.CodeOf(err) != muster.CodeInvalid {
		t.Errorf("error %v", err)
	}
}

func TestSpansOfAJobJoin(t *testing.T) { // S4-69
	for _, id := range []string{traceID, "not hex at all", strings.Repeat("0", 32)} {
		a := trace.SpanContextFromContext(metrics.SpanContext(t.Context(), id))
		b := trace.SpanContextFromContext(metrics.SpanContext(context.Background(), id))
		if !a.IsValid() || !a.IsSampled() || a.TraceID() != b.TraceID() || a.SpanID() != b.SpanID() {
			t.Errorf("%s: %v and %v", id, a, b)
		}
	}
	if got := trace.SpanContextFromContext(metrics.SpanContext(t.Context(), traceID)).TraceID().String(); got != traceID {
		t.Errorf("trace %s", got)
	}
	if trace.SpanContextFromContext(metrics.SpanContext(t.Context(), "")).IsValid() {
		t.Error("no id made a trace")
	}
}

func TestTracing(t *testing.T) {
	t.Run("OffWithoutEndpoint", func(t *testing.T) {
		before := otel.GetTracerProvider()
		shutdown, err := metrics.Tracing(t.Context(), "", "1")
		if err != nil || shutdown(t.Context()) != nil || otel.GetTracerProvider() != before {
			t.Errorf("error %v", err)
		}
	})
	t.Run("RefusesWhatIsNoURL", func(t *testing.T) {
		if _, err := metrics.Tracing(t.Context(), "collector:4318", "1"); muster.CodeOf(err) != muster.CodeInvalid {
			t.Errorf("error %v", err)
		}
	})
	t.Run("SendsSpansToTheCollector", func(t *testing.T) { // S4-69
		got := make(chan *tracev1.ExportTraceServiceRequest, 1)
		collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			var req tracev1.ExportTraceServiceRequest
			if err := proto.Unmarshal(body, &req); err != nil || r.URL.Path != "/v1/traces" {
				t.Errorf("%s: %v", r.URL, err)
			}
			got <- &req
			w.Header().Set("Content-Type", "application/x-protobuf")
		}))
		defer collector.Close()
		defer otel.SetTracerProvider(noop.NewTracerProvider())
		shutdown, err := metrics.Tracing(t.Context(), collector.URL, "1.2.3")
		if err != nil {
			t.Fatal(err)
		}
		_, span := otel.Tracer("test").Start(metrics.WithTrace(t.Context(), traceID), "dispatch")
		span.End()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := shutdown(ctx); err != nil {
			t.Fatal(err)
		}
		select {
		case req := <-got:
			sent := req.ResourceSpans[0].ScopeSpans[0].Spans[0]
			if id := trace.TraceID(sent.TraceId).String(); id != traceID || sent.Name != "dispatch" {
				t.Errorf("span %s of trace %s", sent.Name, id)
			}
		case <-ctx.Done():
			t.Error("no span arrived")
		}
	})
}

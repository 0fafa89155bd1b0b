package agent

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/wire"
)

// BenchmarkTraceSession is what one event costs the agent from the recorder to the segment:
// held, ordered, given its step, searched for secrets, written, compressed and chained.
func BenchmarkTraceSession(b *testing.B) {
	packer, err := trace.NewPacker()
	if err != nil {
		b.Fatal(err)
	}
	tr := &tracer{packer: packer, box: newTraceBox(nil, slog.New(slog.DiscardHandler), b.TempDir()), log: slog.New(slog.DiscardHandler),
		diag: &diagnostics{dir: b.TempDir()}, hide: newRedaction(bootToken, sessionToken, jitConfig), told: map[string]int64{}, settings: wire.TraceSettings{MaxEvents: 1 << 40}}
	tr.now = tr.fresh(time.Now())
	tr.now.number = 1
	now := time.Now()
	batch := make([]trace.Event, 512)
	var bytes, segments int
	b.ReportAllocs()
	for n := 0; n < b.N; n += len(batch) {
		for i := range batch {
			now = now.Add(50 * time.Microsecond) // 20,000 in a second
			batch[i] = trace.Event{Type: trace.FileOpen, Timestamp: now, PID: 1000 + i%40, Start: 1 << 40, PPID: 999, Command: "compile", Path: fmt.Sprintf("/root/.cache/go-build/%02x/%x-d", i%256, i*7919), Flags: "write,create,truncate"}
			if i%8 == 0 {
				batch[i] = trace.Event{Type: trace.ProcessExec, Timestamp: now, PID: 1000 + i, Start: 1 << 40, PPID: 999, Command: "compile", Path: "/usr/local/go/pkg/tool/linux_amd64/compile",
					Args: []string{"compile", "-o", "$WORK/b001/_pkg_.a", "-trimpath", "$WORK/b001=>", "-p", fmt.Sprint("example.com/x/", i), "-complete", "-buildid", "x", "./main.go"}}
			}
		}
		tr.take(batch)
		tr.release(now.Add(-holdEvents), now)
		for _, p := range tr.box.queue {
			bytes += len(p.segment.Data)
			segments++
			tr.box.forget(p)
		}
		tr.box.queue = nil
	}
	tr.close()
	b.ReportMetric(float64(bytes)/float64(b.N), "bytes/event")
	b.ReportMetric(float64(segments), "segments")
}

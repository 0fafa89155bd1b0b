package bench

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/archive"
	"github.com/muster-ci/muster/internal/trace"
)

const (
	segmentBytes = 44 << 10 // 4,600 events
	storeRounds  = 5
)

// BenchmarkTraceStore compares the archive in a folder, which has a segment on the disk
// before it is acknowledged, with the same file given to gocloud.dev's folder, which does
// not. Rounds alternate, and the ratio is that of the medians.
func BenchmarkTraceStore(b *testing.B) {
	for _, jobs := range []int{1, 16, 200} {
		b.Run(fmt.Sprint("jobs=", jobs), func(b *testing.B) {
			each := max(4, 400/jobs)
			dir := b.TempDir()
			plain, err := fileblob.OpenBucket(dir, &fileblob.Options{NoTempDir: true, Metadata: fileblob.MetadataDontWrite})
			if err != nil {
				b.Fatal(err)
			}
			defer plain.Close()
			ours, err := archive.Open(b.Context(), "file://"+filepath.ToSlash(b.TempDir()))
			if err != nil {
				b.Fatal(err)
			}
			defer ours.Close()
			rnd := rand.NewChaCha8([32]byte{1})
			data := make([]byte, segmentBytes)
			_, _ = rnd.Read(data) // it never fails
			round := 0
			run := func(put func(id muster.TraceID, seq int) error) (perSecond float64, latencies []time.Duration) {
				round++
				all := make([][]time.Duration, jobs)
				began := time.Now()
				var wg sync.WaitGroup
				for j := range jobs {
					wg.Go(func() {
						id := muster.TraceID{Runner: muster.RunnerID(fmt.Sprintf("r-%d-%d", round, j)), Number: 1}
						for seq := 1; seq <= each; seq++ {
							at := time.Now()
							if err := put(id, seq); err != nil {
								b.Error(err)
								return
							}
							all[j] = append(all[j], time.Since(at))
						}
					})
				}
				wg.Wait()
				return float64(jobs*each) / time.Since(began).Seconds(), slices.Concat(all...)
			}
			before := func(id muster.TraceID, seq int) error {
				return plain.Upload(b.Context(), fmt.Sprintf("default/%s/1/segments/%08d.zst", id.Runner, seq), bytes.NewReader(data),
					&blob.WriterOptions{ContentType: "application/octet-stream", IfNotExist: true})
			}
			after := func(id muster.TraceID, seq int) error {
				return ours.PutSegment(b.Context(), "default", id, trace.Segment{Seq: seq, Events: 4600, Data: data})
			}
			for b.Loop() {
				var was, is []float64
				var latencies []time.Duration
				for range storeRounds {
					rate, _ := run(before)
					was = append(was, rate)
					rate, ls := run(after)
					is, latencies = append(is, rate), append(latencies, ls...)
				}
				slices.Sort(was)
				slices.Sort(is)
				slices.Sort(latencies)
				b.ReportMetric(is[storeRounds/2]/was[storeRounds/2], "ratio")
				b.ReportMetric(is[storeRounds/2], "segments/s")
				b.ReportMetric(was[storeRounds/2], "before-segments/s")
				b.ReportMetric(ms(percentile(latencies, 50)), "p50-ms")
				b.ReportMetric(ms(percentile(latencies, 99)), "p99-ms")
			}
			b.ReportMetric(0, "ns/op") // the time of a whole comparison says nothing
		})
	}
}

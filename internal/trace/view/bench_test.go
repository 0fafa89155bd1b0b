package view

import (
	"bytes"
	"testing"

	"github.com/muster-ci/muster/bench/tracegen"
	"github.com/muster-ci/muster/internal/trace"
)

func collect(o tracegen.Options) []trace.Event {
	var all []trace.Event
	for e := range tracegen.Events(o) {
		all = append(all, e)
	}
	return all
}

func viewsOf(o tracegen.Options) *Views {
	b := NewBuilder(tracegen.Job(o))
	for e := range tracegen.Events(o) {
		b.Add(e)
	}
	return b.Views()
}

func BenchmarkBuild(b *testing.B) {
	events := collect(tracegen.Options{Events: 200_000, Run: 1})
	b.ReportAllocs()
	for b.Loop() {
		v := NewBuilder(tracegen.Job(tracegen.Options{Run: 1}))
		for _, e := range events {
			v.Add(e)
		}
		v.Views()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(events)), "ns/event")
}

func BenchmarkDecode(b *testing.B) {
	var text bytes.Buffer
	if err := Encode(&text, viewsOf(tracegen.Options{Events: 1_000_000, Run: 1})); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d KiB", text.Len()>>10)
	for b.Loop() {
		if _, err := Decode(bytes.NewReader(text.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
}

package trace

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A trace is what was recorded, in its order, or it is told to have been changed:
// whatever is altered, left out, repeated or swapped.
func TestChainHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 1, 20), 1, 8).Draw(t, "data")
		var made Chain
		var links []Link
		for i, d := range data {
			link := made.Head.Next(i+1, d)
			if err := made.Add(i+1, link, d); err != nil {
				t.Fatal(err)
			}
			links = append(links, link)
		}
		seal := Seal{Segments: len(data), Head: made.Head}
		read := func(order []int, data [][]byte) error {
			var c Chain
			for _, i := range order {
				if err := c.Add(i+1, links[i], data[i]); err != nil {
					return err
				}
			}
			return c.Closed(seal)
		}
		order := make([]int, len(data))
		for i := range order {
			order[i] = i
		}
		if err := read(order, data); err != nil {
			t.Fatalf("an unchanged trace: %v", err)
		}
		at := rapid.IntRange(0, len(data)-1).Draw(t, "at")
		for what, changed := range map[string]func() error{
			"a byte": func() error {
				other := slices.Clone(data)
				other[at] = bytes.Clone(data[at])
				other[at][0] ^= 1
				return read(order, other)
			},
			"a segment left out":   func() error { return read(slices.Delete(slices.Clone(order), at, at+1), data) },
			"a segment twice":      func() error { return read(slices.Insert(slices.Clone(order), at, at), data) },
			"the last one missing": func() error { return read(order[:len(order)-1], data) },
		} {
			if err := changed(); !errors.Is(err, ErrBroken) {
				t.Fatalf("%s: %v", what, err)
			}
		}
	})
}

func TestLinkValid(t *testing.T) {
	for link, want := range map[Link]bool{
		"": true, Link(strings.Repeat("0a", 32)): true,
		Link(strings.Repeat("0A", 32)): false, Link(strings.Repeat("0a", 31)): false, "../etc/passwd": false,
	} {
		if link.Valid() != want {
			t.Errorf("%q: %v", link, !want)
		}
	}
}

// What is written is what is read.
func TestEventsSurvive(t *testing.T) {
	want := []Event{
		{Type: TraceStart, Timestamp: time.Date(2026, 11, 21, 1, 2, 3, 4, time.UTC), Seq: 1, Recorder: &Recorder{Agent: "1", Missing: map[string]string{"file_open": "no"}}},
		{Type: ProcessExec, Timestamp: time.Date(2026, 11, 21, 1, 2, 3, 5, time.UTC), Seq: 2, PID: 7, Start: 1 << 50, Path: "/bin/ä\n\"", Args: []string{"a", "", "\x00\u202e"}},
		{Type: ProcessExit, Timestamp: time.Date(2026, 11, 21, 1, 2, 3, 6, time.UTC), Seq: 3, PID: 7, ExitCode: 256},
	}
	var lines []byte
	for _, e := range want {
		var err error
		if lines, err = AppendEvent(lines, e); err != nil {
			t.Fatal(err)
		}
	}
	if n := bytes.Count(lines, []byte("\n")); n != len(want) {
		t.Fatalf("%d lines", n)
	}
	packer, err := NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	text, err := Unpack(packer.Pack(lines))
	if err != nil {
		t.Fatal(err)
	}
	var got []Event
	for e, err := range Events(bytes.NewReader(text)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// A small segment that unpacks to a lot is refused before it is unpacked.
func TestUnpackIsBounded(t *testing.T) {
	packer, err := NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	bomb := packer.Pack(make([]byte, maxSegment+1))
	if len(bomb) > 1<<20 {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	if _, err := Unpack(bomb); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
	if _, err := Unpack([]byte("no frame")); err == nil {
		t.Error("rubbish was unpacked")
	}
}

// A broken line ends the reading with an error that names it.
func TestEventsNameTheBrokenLine(t *testing.T) {
	var last error
	n := 0
	for _, err := range Events(strings.NewReader("{\"type\":\"file_open\"}\n\n{broken\n{}\n")) {
		n++
		last = err
	}
	if n != 2 || last == nil || !strings.Contains(last.Error(), "line 3") {
		t.Errorf("%d items, the last with %v", n, last)
	}
}

func FuzzUnpack(f *testing.F) {
	packer, err := NewPacker()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packer.Pack([]byte("{\"type\":\"file_open\"}\n")))
	f.Fuzz(func(t *testing.T, data []byte) {
		text, err := Unpack(data)
		if err != nil {
			return
		}
		for range Events(bytes.NewReader(text)) { //nolint:revive // reading is the test
		}
	})
}

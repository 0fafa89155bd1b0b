package inspect_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/inspect"
)

// checked are the problems that a check of all traces finds, and its tally.
func (w *world) checked(t *testing.T, where inspect.Where) ([]string, inspect.Tally) {
	t.Helper()
	out := []string{}
	tally, err := w.CheckTraces(t.Context(), ws, where, func(p *inspect.Problem, _ inspect.Tally) bool {
		if p != nil {
			out = append(out, fmt.Sprintf("%s %s %s: %s", p.Kind, p.Trace.ID, p.Trace.State, p.Text))
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out, tally
}

// A check of everything that is stored finds what is damaged, missing, not sealed or not
// signed as it was, and what belongs to nobody; and it finds when it is put back. 4-45 C24
func TestCheckTraces(t *testing.T) {
	w := newWorld(t)
	s, damaged := w.onShelf(t)
	analysed := func() *job {
		j := w.ended(t, 3)
		if _, err := w.Analyse(t.Context(), ws, j.id); err != nil {
			t.Fatal(err)
		}
		return j
	}
	beside := func(j *job, name string) string {
		return filepath.Join(s.dir, ws, string(j.id.Runner), "1", name)
	}
	remove := func(paths ...string) {
		for _, path := range paths {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	good, middle, all, unseen, noSeal, otherSeal, swapped, tampered, unsigned, extra := analysed(), analysed(), analysed(), w.ended(t, 3), analysed(), analysed(), analysed(), analysed(), w.ended(t, 3), analysed()
	live := w.begin(t, "octo/app")
	live.send(t, build("a.example")...)
	old := analysed()
	old.update(t, func(tr *muster.Trace) { tr.DeletedAt = w.now })
	w.now = time.Now().Add(2 * time.Hour) // objects have the time of the machine
	if got, tally := w.checked(t, inspect.Where{}); len(got) != 1 || !strings.HasPrefix(got[0], "orphan "+old.id.String()) || tally.Traces != 10 || tally.Whole != 10 || tally.Unsigned != 2 || tally.Bytes == 0 ||
		!cmp.Equal(tally.Skipped, map[string]int{"recording": 1, "deleted": 1}) {
		t.Fatalf("%q %+v", got, tally)
	}

	kept := map[string][]byte{}
	for _, j := range []*job{middle, all, unseen} {
		for path, b := range saved(t, s, j.id) {
			kept[path] = b
		}
	}
	attestation, err := os.ReadFile(beside(good, "attestation.json"))
	if err != nil {
		t.Fatal(err)
	}
	remove(s.segment(middle.id, 2), s.segment(all.id, 1), s.segment(all.id, 2), s.segment(all.id, 3), s.segment(unseen.id, 3), beside(noSeal, "seal.json"))
	change(t, beside(otherSeal, "seal.json"), func(b []byte) []byte { return bytes.Replace(b, []byte(`"segments":3`), []byte(`"segments":2`), 1) })
	change(t, beside(swapped, "attestation.json"), func([]byte) []byte { return attestation })
	change(t, beside(tampered, "attestation.json"), func(b []byte) []byte { return b[:len(b)/2] })
	three, err := s.Archive.Segment(t.Context(), ws, extra.id, 3)
	if err != nil {
		t.Fatal(err)
	}
	three.Seq = 4
	stray := muster.TraceID{Runner: "r-nobody", Number: 2}
	if err := errors.Join(s.PutSegment(t.Context(), ws, extra.id, three), s.PutSegment(t.Context(), ws, stray, three)); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"attestation " + swapped.id.String() + " complete: the attestation does not hold:",
		"attestation " + tampered.id.String() + " complete: the attestation does not hold:",
		"damaged " + middle.id.String() + " truncated: segment 2 of 3 is missing in the archive",
		"damaged " + all.id.String() + " lost: segment 1 of 3 is missing in the archive",
		"damaged " + unseen.id.String() + " truncated: segment 3 of 3 is missing in the archive",
		"extra " + extra.id.String() + " complete: segment 4 lies beyond the last of 3 that were sealed",
		"orphan " + stray.String() + " : the archive has objects of it",
		"orphan " + old.id.String() + " : the archive has objects of it",
		"seal " + noSeal.id.String() + " complete: the seal is missing in the archive",
		"seal " + otherSeal.id.String() + " complete: the seal is of 2 segments and 21 events",
	}
	slices.Sort(want)
	for range 2 { // it is found again, and told once
		got, tally := w.checked(t, inspect.Where{})
		if len(got) != len(want) || !slices.EqualFunc(got, want, strings.HasPrefix) {
			t.Errorf("%s", cmp.Diff(want, got))
		}
		if tally.Traces != 10 || tally.Whole != 2 || tally.Problems[inspect.ProblemDamaged] != 3 || tally.Mended != 0 {
			t.Errorf("%+v", tally)
		}
		if len(*damaged) != 3 {
			t.Errorf("%d were told", len(*damaged))
		}
	}
	if got, tally := w.checked(t, inspect.Where{Trace: middle.id}); len(got) != 1 || tally.Traces != 1 {
		t.Errorf("one: %q %+v", got, tally)
	}
	if got, tally := w.checked(t, inspect.Where{TraceFilter: inspect.TraceFilter{Pool: "none"}}); len(got) != 0 || tally.Traces != 0 {
		t.Errorf("none: %q %+v", got, tally)
	}

	// A bucket that is away takes nothing, and is told.
	s.fail = func(call string) error {
		if call == "segments" {
			return muster.Errorf(muster.CodeUnavailable, "the bucket is away")
		}
		return nil
	}
	if got, tally := w.checked(t, inspect.Where{Trace: good.id}); len(got) != 1 || got[0] != "unread "+good.id.String()+" complete: the bucket is away" || tally.Whole != 0 {
		t.Errorf("%q %+v", got, tally)
	}
	s.fail = nil

	restore(t, kept)
	got, tally := w.checked(t, inspect.Where{})
	if n := len(want) - 3; len(got) != n || tally.Mended != 3 {
		t.Errorf("put back: %q %+v", got, tally)
	}
	for _, j := range []*job{middle, all, unseen} {
		if tr := j.row(t); tr.State != muster.TraceComplete || tr.Reason != "" || tr.AnalysisError != "" {
			t.Errorf("put back: %+v", tr)
		}
		if c, err := w.Verify(t.Context(), ws, j.id); err != nil || c.Problem != "" {
			t.Errorf("put back: %+v %v", c, err)
		}
	}
	if tr := unsigned.row(t); !tr.AnalysedAt.IsZero() {
		t.Error("a check analyses what was not damaged")
	}

	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	_, err = w.CheckTraces(ctx, ws, inspect.Where{}, func(*inspect.Problem, inspect.Tally) bool { n++; cancel(); return true })
	if !errors.Is(err, context.Canceled) || n != 1 {
		t.Errorf("%d calls after the end: %v", n, err)
	}
}

// Pages are asked for until the last.
func TestCheckManyTraces(t *testing.T) {
	w := newWorld(t)
	first := w.ended(t, 1)
	row := first.row(t)
	const many = 450
	for n := 2; n <= many; n++ { // of a runner that is kept, without segments of their own
		row.ID.Number, row.State, row.Segments, row.SealedAt = n, muster.TraceLost, 0, time.Time{}
		if _, _, err := w.books.AddTrace(t.Context(), row, w.now); err != nil {
			t.Fatal(err)
		}
	}
	told := 0
	tally, err := w.CheckTraces(t.Context(), ws, inspect.Where{}, func(p *inspect.Problem, _ inspect.Tally) bool {
		if p != nil {
			t.Errorf("%+v", p)
		}
		told++
		return true
	})
	if err != nil || tally.Traces != 1 || tally.Skipped["lost"] != many-1 || told != many {
		t.Errorf("%+v, told %d times, %v", tally, told, err)
	}
}

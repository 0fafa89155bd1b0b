package inspect_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/archive"
	"github.com/muster-ci/muster/internal/inspect"
	"github.com/muster-ci/muster/internal/trace"
)

// shelf is an archive in a folder that can be reached into, and that can fail.
type shelf struct {
	*archive.Archive
	dir string
	// fail is asked before every call what it fails of.
	fail func(call string) error
}

func (s *shelf) failing(call string) error {
	if s.fail == nil {
		return nil
	}
	return s.fail(call)
}

func (s *shelf) Segment(ctx context.Context, ws string, id muster.TraceID, seq int) (trace.Segment, error) {
	if err := s.failing("segment"); err != nil {
		return trace.Segment{}, err
	}
	return s.Archive.Segment(ctx, ws, id, seq)
}

func (s *shelf) Segments(ctx context.Context, ws string, id muster.TraceID) iter.Seq2[trace.Segment, error] {
	return func(yield func(trace.Segment, error) bool) {
		for seg, err := range s.Archive.Segments(ctx, ws, id) {
			if e := s.failing("segments"); e != nil {
				seg, err = trace.Segment{}, e
			}
			if !yield(seg, err) || err != nil {
				return
			}
		}
	}
}

func (s *shelf) Traces(ctx context.Context, ws string) iter.Seq2[muster.TraceID, error] {
	if err := s.failing("traces"); err != nil {
		return func(yield func(muster.TraceID, error) bool) { yield(muster.TraceID{}, err) }
	}
	return s.Archive.Traces(ctx, ws)
}

func (s *shelf) Has(ctx context.Context, ws string, id muster.TraceID) ([]int, int64, error) {
	if err := s.failing("has"); err != nil {
		return nil, 0, err
	}
	return s.Archive.Has(ctx, ws, id)
}

func (s *shelf) Check(ctx context.Context) error {
	return errors.Join(s.failing("check"), s.Archive.Check(ctx))
}

// segment is where one lies.
func (s *shelf) segment(id muster.TraceID, seq int) string {
	return filepath.Join(s.dir, ws, string(id.Runner), fmt.Sprint(id.Number), "segments", fmt.Sprintf("%08d.zst", seq))
}

// onShelf has a world keep its traces in a folder, and counts the traces that are found to be
// damaged.
func (w *world) onShelf(t *testing.T) (*shelf, *[]muster.Trace) {
	t.Helper()
	dir := t.TempDir()
	a, err := archive.Open(t.Context(), "file://"+filepath.ToSlash(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	s, damaged := &shelf{Archive: a, dir: dir}, &[]muster.Trace{}
	w.archive, w.Archive = a, s
	w.Damaged = func(tr muster.Trace) { *damaged = append(*damaged, tr) }
	return s, damaged
}

// ended is a trace of n segments that is sealed and not analysed.
func (w *world) ended(t *testing.T, n int) *job {
	t.Helper()
	j := w.begin(t, "octo/app")
	for part := range slices.Chunk(build("proxy.golang.org", "evil.example", "a.example", "b.example"), (len(build("", "", "", ""))+n-1)/n) {
		j.send(t, part...)
	}
	if j.chain.Seq != n {
		t.Fatal(j.chain.Seq, "segments")
	}
	j.seal(t, "success")
	return j
}

// readers are all who read segments; each returns what it says of a trace that is damaged.
var readers = map[string]func(t *testing.T, w *world, id muster.TraceID) error{
	"raw": func(t *testing.T, w *world, id muster.TraceID) error {
		return w.Raw(t.Context(), ws, id, true, io.Discard, func(muster.Trace) {})
	},
	"query": func(t *testing.T, w *world, id muster.TraceID) error {
		stats, err := w.Query(t.Context(), ws, `type == "dns_query"`, inspect.Where{Trace: id}, 0, func(inspect.Hit) bool { return true })
		if err == nil && stats.Failed > 0 {
			err = muster.Errorf(muster.CodeConflict, "%s", stats.Errors[0])
		}
		return err
	},
	"tail": func(t *testing.T, w *world, id muster.TraceID) error {
		return w.Tail(t.Context(), ws, id, 0, "", func(inspect.Batch) bool { return true })
	},
	"views": func(t *testing.T, w *world, id muster.TraceID) error {
		v, err := w.Views(t.Context(), ws, id)
		if err == nil && v.Overview.Verdict.Word == "incomplete" {
			err = muster.Errorf(muster.CodeConflict, "%s", v.Overview.Verdict.Text)
		}
		return err
	},
	"analysis": func(t *testing.T, w *world, id muster.TraceID) error {
		tr, err := w.Analyse(t.Context(), ws, id)
		if err == nil && tr.AnalysisError != "" {
			err = muster.Errorf(muster.CodeConflict, "%s", tr.AnalysisError)
		}
		return err
	},
}

// attested are the readers of what an analysis made.
var attested = map[string]func(t *testing.T, w *world, id muster.TraceID) error{
	"bundle": func(t *testing.T, w *world, id muster.TraceID) error {
		return w.Bundle(t.Context(), ws, id, io.Discard, func(muster.Trace) {})
	},
	"verify": func(t *testing.T, w *world, id muster.TraceID) error {
		c, err := w.Verify(t.Context(), ws, id)
		if err == nil && c.Problem != "" {
			err = muster.Errorf(muster.CodeConflict, "%s", c.Problem)
			if c.Trace.State != muster.TraceTruncated && c.Trace.State != muster.TraceLost {
				t.Errorf("a check that fails shows a trace that is %s", c.Trace.State)
			}
		}
		return err
	},
	"raw": readers["raw"],
}

// What the archive loses after the seal is found by whoever reads it first: the trace's state
// becomes what is true, with the segment, it is told once, and no check passes. Put back, the
// trace is what it was. C24 4-45
func TestDamage(t *testing.T) {
	w := newWorld(t)
	s, damaged := w.onShelf(t)
	var log bytes.Buffer
	w.Logger = logger(&log)
	w.ended(t, 3) // the bucket has others too
	remove := func(t *testing.T, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		hurt  func(t *testing.T, s *shelf, j *job)
		state muster.TraceState
		want  string
	}{
		"middle": {func(t *testing.T, s *shelf, j *job) { remove(t, s.segment(j.id, 2)) }, muster.TraceTruncated, "segment 2 of 3 is missing in the archive"},
		"last":   {func(t *testing.T, s *shelf, j *job) { remove(t, s.segment(j.id, 3)) }, muster.TraceTruncated, "segment 3 of 3 is missing"},
		"first":  {func(t *testing.T, s *shelf, j *job) { remove(t, s.segment(j.id, 1)) }, muster.TraceTruncated, "segment 1 of 3 is missing"},
		"all": {func(t *testing.T, s *shelf, j *job) {
			for n := range 3 {
				remove(t, s.segment(j.id, n+1))
			}
		}, muster.TraceLost, "segment 1 of 3 is missing"},
		"changed": {func(t *testing.T, s *shelf, j *job) {
			change(t, s.segment(j.id, 2), func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
		}, muster.TraceTruncated, "segment 2 of 3 was changed in the archive"},
		"empty": {func(t *testing.T, s *shelf, j *job) {
			change(t, s.segment(j.id, 3), func([]byte) []byte { return nil })
		}, muster.TraceTruncated, "segment 3 of 3 was changed"},
		// One that fits to what is before it, but is not what was sealed.
		"forged": {func(t *testing.T, s *shelf, j *job) {
			remove(t, s.segment(j.id, 3))
			two, err := s.Archive.Segment(t.Context(), ws, j.id, 2)
			if err != nil {
				t.Fatal(err)
			}
			forged := trace.Segment{Seq: 3, Data: two.Data, Link: two.Link.Next(3, two.Data)}
			if err := s.PutSegment(t.Context(), ws, j.id, forged); err != nil {
				t.Fatal(err)
			}
		}, muster.TraceTruncated, "segment 3 of 3 was changed"},
	} {
		for analysed, all := range map[bool]map[string]func(*testing.T, *world, muster.TraceID) error{false: readers, true: attested} {
			for _, reader := range slices.Sorted(maps.Keys(all)) {
				t.Run(fmt.Sprintf("%s/%s/analysed=%v", name, reader, analysed), func(t *testing.T) {
					*damaged = nil
					log.Reset()
					j := w.ended(t, 3)
					before := j.row(t)
					if analysed {
						var err error
						if before, err = w.Analyse(t.Context(), ws, j.id); err != nil {
							t.Fatal(err)
						}
					}
					kept := saved(t, s, j.id)
					c.hurt(t, s, j)
					for n := range 3 {
						err := all[reader](t, w, j.id)
						if c.state == muster.TraceLost && !analysed && (n > 0 || reader == "views") {
							if reader != "analysis" { // it has nothing to do any more
								wantCode(t, err, muster.CodeNotFound, "they are lost, because "+c.want)
							}
							continue
						}
						wantCode(t, err, muster.CodeConflict, c.want)
					}
					after := j.row(t)
					if after.State != c.state || !strings.HasPrefix(after.Reason, c.want) || after.Damage.State != muster.TraceComplete || after.Segments != 3 || after.Head != before.Head || after.Events != before.Events || after.Bytes != before.Bytes {
						t.Errorf("%+v", after)
					}
					if len(*damaged) != 1 || (*damaged)[0].Damage != after.Damage || strings.Count(log.String(), "trace damaged") != 1 {
						t.Errorf("told %d times: %s", len(*damaged), log.String())
					}
					if tr, err := w.Analyse(t.Context(), ws, j.id); analysed && (err != nil || tr.AnalysisError != "" || !tr.AnalysedAt.Equal(before.AnalysedAt)) {
						t.Errorf("what was made of all of it is made of less: %+v %v", tr, err)
					}
					if c, err := w.Verify(t.Context(), ws, j.id); err == nil && c.Problem == "" {
						t.Error("it is verified")
					}
					if views, err := w.Views(t.Context(), ws, j.id); analysed && (err != nil || views.Overview.Counts.Queries != 4 || !strings.Contains(views.Overview.Verdict.Text, c.want)) {
						t.Errorf("what was made of it is not shown: %v", err)
					}
					restore(t, kept)
					if err := w.Raw(t.Context(), ws, j.id, true, io.Discard, func(muster.Trace) {}); err != nil && after.State != muster.TraceLost {
						t.Fatal(err)
					}
					if c.state == muster.TraceLost && !analysed {
						return // whoever checks all of them reads it again
					}
					if mended := j.row(t); mended.State != muster.TraceComplete || mended.Reason != "" || mended.Damage != (muster.TraceDamage{}) {
						t.Errorf("put back: %+v", mended)
					}
					if c, err := w.Verify(t.Context(), ws, j.id); analysed && (err != nil || c.Problem != "") {
						t.Errorf("put back: %+v %v", c, err)
					}
				})
			}
		}
	}
}

// What passes takes nothing from a trace: a bucket that does not answer, a folder that is not
// mounted, a trace whose time is over, a word that was misheard.
func TestNoDamage(t *testing.T) {
	away := &muster.Error{Code: muster.CodeUnavailable, Message: "the bucket is away"}
	gone := func(t *testing.T, s *shelf, j *job) {
		if err := os.Remove(s.segment(j.id, 2)); err != nil {
			t.Fatal(err)
		}
	}
	failing := func(calls ...string) func(*testing.T, *world, *shelf, *job) {
		return func(t *testing.T, _ *world, s *shelf, j *job) {
			if calls[0] != "segments" {
				for n := range 3 {
					_ = os.Remove(s.segment(j.id, n+1))
				}
			}
			s.fail = func(call string) error {
				if slices.Contains(calls, call) {
					return away
				}
				return nil
			}
		}
	}
	for name, hurt := range map[string]func(*testing.T, *world, *shelf, *job){
		"segments":   failing("segments", "segment"),
		"secondLook": failing("segment"),
		"check":      failing("check"),
		"traces":     failing("traces"),
		"has":        failing("has"),
		"unmounted": func(t *testing.T, _ *world, s *shelf, _ *job) {
			if err := os.Rename(s.dir, s.dir+".away"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(s.dir + ".away") })
		},
		"anotherFolder": func(t *testing.T, _ *world, s *shelf, _ *job) {
			if err := os.RemoveAll(filepath.Join(s.dir, ws)); err != nil {
				t.Fatal(err)
			}
		},
		"permission": func(t *testing.T, _ *world, s *shelf, j *job) {
			if os.Geteuid() == 0 { // nothing is forbidden to root; a directory in its place cannot be read either
				gone(t, s, j)
				if err := os.Symlink(s.segment(j.id, 2), s.segment(j.id, 2)); err != nil { // a loop
					t.Fatal(err)
				}
				return
			}
			if err := os.Chmod(s.segment(j.id, 2), 0); err != nil {
				t.Fatal(err)
			}
		},
		"misheard": func(t *testing.T, _ *world, s *shelf, _ *job) {
			s.fail = func(call string) error {
				if call == "segments" {
					return fmt.Errorf("%w: once", trace.ErrBroken)
				}
				return nil
			}
		},
		"expired": func(t *testing.T, w *world, s *shelf, j *job) {
			gone(t, s, j)
			j.update(t, func(tr *muster.Trace) { tr.ExpiresAt = w.now.Add(-time.Second) })
		},
		"deletedMeanwhile": func(t *testing.T, w *world, s *shelf, j *job) {
			gone(t, s, j)
			s.fail = func(call string) error {
				if call == "segments" {
					j.update(t, func(tr *muster.Trace) { tr.DeletedAt = w.now })
				}
				return nil
			}
		},
	} {
		for _, reader := range []string{"raw", "views", "tail", "analysis"} {
			if (name == "misheard" || name == "deletedMeanwhile") && (reader == "views" || reader == "tail") || name == "segments" && reader == "analysis" {
				continue // it does not read in that way, or keeps a baseline first
			}
			t.Run(name+"/"+reader, func(t *testing.T) {
				w := newWorld(t)
				s, damaged := w.onShelf(t)
				j := w.ended(t, 3)
				hurt(t, w, s, j)
				err := readers[reader](t, w, j.id)
				if c := muster.CodeOf(err); c != muster.CodeUnavailable && (c != muster.CodeGone || name != "expired" && name != "deletedMeanwhile") {
					t.Errorf("%q: %v", c, err)
				}
				if tr := j.row(t); tr.State != muster.TraceComplete || tr.Reason != "" || tr.Damage != (muster.TraceDamage{}) || len(*damaged) != 0 || !tr.AnalysedAt.IsZero() {
					t.Errorf("%+v", tr)
				}
			})
		}
	}
}

func logger(to io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(to, nil)) }

func (j *job) row(t *testing.T) muster.Trace {
	t.Helper()
	tr, err := j.books.Trace(t.Context(), ws, j.id)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func change(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// saved is a copy of the segments of a trace, by path.
func saved(t *testing.T, s *shelf, id muster.TraceID) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	paths, err := filepath.Glob(filepath.Join(filepath.Dir(s.segment(id, 1)), "*"))
	for _, path := range paths {
		if err == nil {
			out[path], err = os.ReadFile(path)
		}
	}
	if err != nil || len(out) == 0 {
		t.Fatal(out, err)
	}
	return out
}

func restore(t *testing.T, kept map[string][]byte) {
	t.Helper()
	for path, b := range kept {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/archive"
	"github.com/muster-ci/muster/internal/trace"
)

const ws = "default"

var one = muster.TraceID{Runner: "r-0001", Number: 1}

// recorded makes n segments of events each, chained.
func recorded(t testing.TB, n, events int) (out []trace.Segment, all []trace.Event) {
	t.Helper()
	p, err := trace.NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	var head trace.Link
	began := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for seq := 1; seq <= n; seq++ {
		var text []byte
		s := trace.Segment{Seq: seq, Events: events}
		for range events {
			e := trace.Event{Type: trace.ProcessExec, Seq: uint64(len(all) + 1), Timestamp: began.Add(time.Duration(len(all)) * time.Millisecond), PID: 7, Path: fmt.Sprint("/bin/", len(all))}
			if text, err = trace.AppendEvent(text, e); err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
		s.First, s.Last = all[len(all)-events].Timestamp, all[len(all)-1].Timestamp
		s.Data = p.Pack(text)
		head = head.Next(seq, s.Data)
		s.Link = head
		out = append(out, s)
	}
	return out, all
}

// buckets runs a test with every kind of bucket that there can be here: a folder, memory,
// and S3 as the AWS client speaks it with a server in this process.
func buckets(t *testing.T, test func(t *testing.T, a *archive.Archive, change func(key string, change func([]byte) []byte))) {
	t.Run("file", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "a", "traces")
		a := opened(t, "file://"+filepath.ToSlash(dir))
		test(t, a, func(key string, change func([]byte) []byte) {
			path := filepath.Join(dir, filepath.FromSlash(key))
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if b = change(b); b == nil {
				err = os.Remove(path)
			} else {
				err = os.WriteFile(path, b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("s3", func(t *testing.T) {
		s := &s3{objects: map[string][]byte{}}
		server := httptest.NewServer(s)
		t.Cleanup(server.Close)
		t.Setenv("AWS_ACCESS_KEY_ID", "key")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
		t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
		a := opened(t, "s3://traces?region=us-east-1&use_path_style=true&request_checksum_calculation=when_required&response_checksum_validation=when_required&endpoint="+url.QueryEscape(server.URL))
		test(t, a, s.change)
	})
	t.Run("mem", func(t *testing.T) { test(t, opened(t, "mem://"), nil) })
}

func opened(t testing.TB, text string) *archive.Archive {
	t.Helper()
	a, err := archive.Open(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func code(t *testing.T, what string, err error, want muster.Code) {
	t.Helper()
	if got := muster.CodeOf(err); got != want {
		t.Fatalf("%s: %v has the code %q, want %q", what, err, got, want)
	}
}

// What was put comes back, event by event and byte by byte. S0-24
func TestConformance(t *testing.T) {
	buckets(t, func(t *testing.T, a *archive.Archive, _ func(string, func([]byte) []byte)) {
		ctx := t.Context()
		if err := a.Check(ctx); err != nil {
			t.Fatal(err)
		}
		segments, events := recorded(t, 23, 11) // more than are read ahead
		for _, i := range rand.Perm(len(segments)) {
			if err := a.PutSegment(ctx, ws, one, segments[i]); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.PutSegment(ctx, ws, one, segments[4]); err != nil {
			t.Fatal("the same segment again:", err)
		}
		other := segments[4]
		other.Data = segments[5].Data
		code(t, "another segment of the same number", a.PutSegment(ctx, ws, one, other), muster.CodeConflict)

		got, err := a.Segment(ctx, ws, one, 5)
		if err != nil || !bytes.Equal(got.Data, segments[4].Data) || got.Link != segments[4].Link || !got.First.Equal(segments[4].First) || got.Events != 11 {
			t.Fatalf("segment 5: %+v, %v", got, err)
		}
		_, err = a.Segment(ctx, ws, one, 24)
		code(t, "a segment that is not there", err, muster.CodeNotFound)
		_, err = a.Segment(ctx, "other", one, 5)
		code(t, "a segment of another workspace", err, muster.CodeNotFound) // S4-46

		var read []trace.Event
		for e, err := range a.Events(ctx, ws, one) {
			if err != nil {
				t.Fatal(err)
			}
			read = append(read, e)
		}
		if !slices.EqualFunc(read, events, func(x, y trace.Event) bool { return x.Seq == y.Seq && x.Path == y.Path }) {
			t.Fatalf("%d events came back of %d", len(read), len(events))
		}
		for e := range a.Events(ctx, ws, one) {
			if e.Seq == 30 {
				break // nobody waits for the rest
			}
		}
		var raw, want bytes.Buffer
		for _, s := range segments {
			text, _ := trace.Unpack(s.Data)
			want.Write(text)
		}
		if err := a.Raw(ctx, ws, one, &raw); err != nil || !bytes.Equal(raw.Bytes(), want.Bytes()) {
			t.Fatalf("raw: %d of %d bytes, %v", raw.Len(), want.Len(), err)
		}
		if seqs, size, err := a.Has(ctx, ws, one); err != nil || len(seqs) != 23 || seqs[22] != 23 || size == 0 {
			t.Fatal(seqs, size, err)
		}
		for range a.Events(ctx, ws, muster.TraceID{Runner: "r-0009", Number: 1}) {
			t.Fatal("a trace without segments has events")
		}
	})
}

// Whatever is changed, left out or exchanged in the bucket is noticed, and what comes
// before it is still read. 4-45
func TestChangedTrace(t *testing.T) {
	buckets(t, func(t *testing.T, a *archive.Archive, change func(string, func([]byte) []byte)) {
		if change == nil {
			return // a bucket in memory is nobody else's to change
		}
		segments, _ := recorded(t, 6, 3)
		key := func(id muster.TraceID, seq int) string {
			return fmt.Sprintf("%s/%s/%d/segments/%08d.zst", ws, id.Runner, id.Number, seq)
		}
		n := 0
		for name, c := range map[string]struct {
			change func(id muster.TraceID)
			good   int
		}{
			"a byte":     {func(id muster.TraceID) { change(key(id, 4), func(b []byte) []byte { b[len(b)-1] ^= 1; return b }) }, 3},
			"the head":   {func(id muster.TraceID) { change(key(id, 2), func(b []byte) []byte { return b[4:] }) }, 1},
			"the length": {func(id muster.TraceID) { change(key(id, 3), func(b []byte) []byte { b[6] = 255; return b }) }, 2},
			"all of it":  {func(id muster.TraceID) { change(key(id, 1), func([]byte) []byte { return []byte{} }) }, 0},
			"left out":   {func(id muster.TraceID) { change(key(id, 5), func([]byte) []byte { return nil }) }, 4},
			"exchanged": {func(id muster.TraceID) {
				var four []byte
				change(key(id, 4), func(b []byte) []byte { four = bytes.Clone(b); return b })
				change(key(id, 3), func([]byte) []byte { return four })
			}, 2},
		} {
			t.Run(name, func(t *testing.T) {
				n++
				id := muster.TraceID{Runner: "r-changed", Number: n}
				for _, s := range segments {
					if err := a.PutSegment(t.Context(), ws, id, s); err != nil {
						t.Fatal(err)
					}
				}
				c.change(id)
				good, failure := 0, error(nil)
				for e, err := range a.Events(t.Context(), ws, id) {
					if failure = err; err == nil {
						good = int(e.Seq)
					}
				}
				if !errors.Is(failure, trace.ErrBroken) || good != 3*c.good {
					t.Errorf("%d events, then %v; want %d", good, failure, 3*c.good)
				}
			})
		}
	})
}

// Derived objects are replaced, read in any order, and gone with their trace, as are the
// directories of a folder.
func TestDerived(t *testing.T) {
	buckets(t, func(t *testing.T, a *archive.Archive, _ func(string, func([]byte) []byte)) {
		ctx := t.Context()
		index := make([]byte, 3<<20+17)
		for i := range index {
			index[i] = byte(i>>12 ^ i)
		}
		for _, b := range [][]byte{[]byte("old"), index} {
			if err := a.Put(ctx, ws, one, "index.parquet", bytes.NewReader(b)); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.Put(ctx, ws, one, "index.parquet", io.MultiReader(strings.NewReader("half"), broken{})); err == nil {
			t.Fatal("a source that fails was taken for whole")
		}
		r, err := a.Get(ctx, ws, one, "index.parquet")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, index) {
			t.Fatal(len(got), err)
		}
		_, err = a.Get(ctx, ws, one, "views.json.zst")
		code(t, "an object that is not there", err, muster.CodeNotFound)
		_, _, _, err = a.ReaderAt(ctx, ws, one, "views.json.zst")
		code(t, "an object that is not there", err, muster.CodeNotFound)

		at, size, closer, err := a.ReaderAt(ctx, ws, one, "index.parquet")
		if err != nil || size != int64(len(index)) {
			t.Fatal(size, err)
		}
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(1, uint64(g)))
				for range 50 {
					off := rnd.IntN(len(index))
					p := make([]byte, rnd.IntN(len(index)-off))
					if n, err := at.ReadAt(p, int64(off)); n != len(p) || err != nil && err != io.EOF || !bytes.Equal(p, index[off:off+n]) {
						t.Errorf("%d of %d bytes at %d: %v", n, len(p), off, err)
					}
				}
			})
		}
		wg.Wait()
		if n, err := at.ReadAt(make([]byte, 10), size-3); n != 3 || err != io.EOF {
			t.Error("beyond the end:", n, err)
		}
		if err := closer.Close(); err != nil {
			t.Fatal(err)
		}

		segments, _ := recorded(t, 3, 1)
		second := muster.TraceID{Runner: "r-0001", Number: 2}
		for _, s := range segments {
			if err := errors.Join(a.PutSegment(ctx, ws, one, s), a.PutSegment(ctx, ws, second, s), a.PutSegment(ctx, "other", second, s)); err != nil {
				t.Fatal(err)
			}
		}
		listed := func(ws string) (out []string) {
			for id, err := range a.Traces(ctx, ws) {
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, id.String())
			}
			return out
		}
		if got := listed(ws); !slices.Equal(got, []string{"r-0001", "r-0001.2"}) {
			t.Fatal(got)
		}
		if at, err := a.Written(ctx, ws, one); err != nil || time.Since(at).Abs() > time.Hour {
			t.Fatal(at, err)
		}
		for range 2 { // a second time there is nothing, which is no error
			if err := a.Delete(ctx, ws, one); err != nil {
				t.Fatal(err)
			}
		}
		if got := append(listed(ws), listed("other")...); !slices.Equal(got, []string{"r-0001.2", "r-0001.2"}) {
			t.Fatal("after the deletion of one:", got)
		}
		_, err = a.Written(ctx, ws, one)
		code(t, "written when it is deleted", err, muster.CodeNotFound)
	})
}

// A folder has what the archive put there and no more, readable by its owner alone, and
// it is empty after the last trace.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	a := opened(t, "file://"+filepath.ToSlash(dir)+"?prefix=below/")
	segments, _ := recorded(t, 2, 1)
	for _, s := range segments {
		if err := a.PutSegment(t.Context(), ws, one, s); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Put(t.Context(), ws, one, "seal.json", strings.NewReader("{}")); err != nil {
		t.Fatal(err)
	}
	files := func() (out []string) {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if info, e := d.Info(); e != nil || path != dir && d.Name() != "below" && info.Mode().Perm()&0o077 != 0 {
				t.Error(path, "is for others too")
			}
			if path != dir && !d.IsDir() {
				rel, _ := filepath.Rel(dir, path)
				out = append(out, filepath.ToSlash(rel))
			}
			return err
		})
		return out
	}
	p := "below/default/r-0001/1/"
	if got := files(); !slices.Equal(got, []string{p + "seal.json", p + "segments/00000001.zst", p + "segments/00000002.zst"}) {
		t.Fatal(got)
	}
	// What any Zstandard tool reads.
	b, err := os.ReadFile(filepath.Join(dir, p, "segments/00000001.zst"))
	if err != nil {
		t.Fatal(err)
	}
	d, _ := zstd.NewReader(bytes.NewReader(b))
	defer d.Close()
	if text, err := io.ReadAll(d); err != nil || !strings.HasPrefix(string(text), `{"type":"process_exec"`) {
		t.Fatalf("%q, %v", text, err)
	}
	if err := a.Delete(t.Context(), ws, one); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "below"))
	if err != nil || len(left) != 0 {
		t.Fatal(left, err)
	}
}

func TestNames(t *testing.T) {
	a := opened(t, "mem://")
	s, _ := recorded(t, 1, 1)
	for _, c := range []struct {
		ws  string
		id  muster.TraceID
		seq int
	}{{"..", one, 1}, {"", one, 1}, {"a/b", one, 1}, {ws, muster.TraceID{Runner: "../x", Number: 1}, 1}, {ws, muster.TraceID{Runner: "r-0001"}, 1}, {ws, one, 0}, {ws, one, -1}} {
		s[0].Seq = c.seq
		code(t, fmt.Sprint(c), a.PutSegment(t.Context(), c.ws, c.id, s[0]), muster.CodeInvalid)
	}
	for _, name := range []string{"", "..", "segments/00000001.zst", "A", ".x"} {
		code(t, name, a.Put(t.Context(), ws, one, name, strings.NewReader("")), muster.CodeInvalid)
	}
}

func TestURLs(t *testing.T) {
	for text, want := range map[string]string{
		"file:///var/lib/x": "", "s3://b?region=r": "", "gs://b": "", "azblob://c": "", "mem://": "",
		"/var/lib/x": "is not a URL", "file://x/y": "three slashes", "file:x": "three slashes", "s3://": "no name", "ftp://h/x": `of the kind "ftp"`,
		"s3://u:hunter2@b": "password", "": "is not a URL", "://hunter2": "is not a URL",
	} {
		err := archive.CheckURL(text)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// A bucket that does not answer is unavailable, so that agents keep what they have.
func TestUnavailable(t *testing.T) {
	s := &s3{down: true}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	a := opened(t, "s3://traces?region=us-east-1&use_path_style=true&endpoint="+url.QueryEscape(server.URL))
	segments, _ := recorded(t, 1, 1)
	err := a.PutSegment(t.Context(), ws, one, segments[0])
	code(t, "put", err, muster.CodeUnavailable)
	if e, _ := errors.AsType[*muster.Error](err); e.RetryAfter == 0 {
		t.Error("it does not say when to ask again")
	}
	for _, err := range a.Events(t.Context(), ws, one) {
		code(t, "read", err, muster.CodeUnavailable)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.PutSegment(ctx, ws, one, segments[0]); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broken") }

// s3 is as much of S3 as the archive uses of it, in memory: one bucket "traces".
type s3 struct {
	mu      sync.Mutex
	objects map[string][]byte
	down    bool
}

func (s *s3) change(key string, change func([]byte) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := change(bytes.Clone(s.objects[key])); b != nil {
		s.objects[key] = b
	} else {
		delete(s.objects, key)
	}
}

func (s *s3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/traces"), "/")
	refuse := func(status int, code string) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", code)
		}
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client gave up
	}
	switch {
	case s.down:
		refuse(http.StatusServiceUnavailable, "ServiceUnavailable")
	case key == "":
		s.list(w, r)
	case r.Method == http.MethodPut:
		if _, ok := s.objects[key]; ok && r.Header.Get("If-None-Match") == "*" {
			refuse(http.StatusPreconditionFailed, "PreconditionFailed")
			return
		}
		s.objects[key] = body
	case r.Method == http.MethodDelete:
		delete(s.objects, key)
		w.WriteHeader(http.StatusNoContent)
	default:
		b, ok := s.objects[key]
		if !ok {
			refuse(http.StatusNotFound, "NoSuchKey")
			return
		}
		http.ServeContent(w, r, "", time.Now(), bytes.NewReader(b))
	}
}

// list answers ListObjectsV2, three at a time so that pages are turned.
func (s *s3) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	under, delimiter, after := q.Get("prefix"), q.Get("delimiter"), q.Get("continuation-token")
	var items []string
	seen := map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(s.objects)) {
		rest, ok := strings.CutPrefix(key, under)
		if !ok {
			continue
		}
		name := key
		if i := strings.Index(rest, delimiter); delimiter != "" && i >= 0 {
			name = under + rest[:i+1]
		}
		if name > after && !seen[name] {
			seen[name] = true
			items = append(items, name)
		}
	}
	more := len(items) > 3
	items = items[:min(3, len(items))]
	w.Header().Set("Content-Type", "application/xml")
	fmt.Fprintf(w, "<ListBucketResult><IsTruncated>%v</IsTruncated>", more)
	for _, name := range items {
		if strings.HasSuffix(name, "/") {
			fmt.Fprintf(w, "<CommonPrefixes><Prefix>%s</Prefix></CommonPrefixes>", name)
			continue
		}
		fmt.Fprintf(w, "<Contents><Key>%s</Key><Size>%d</Size><LastModified>%s</LastModified><ETag>x</ETag></Contents>", name, len(s.objects[name]), time.Now().UTC().Format("2006-01-02T15:04:05.000Z"))
	}
	if more {
		fmt.Fprintf(w, "<NextContinuationToken>%s</NextContinuationToken>", items[2])
	}
	fmt.Fprint(w, "</ListBucketResult>")
}

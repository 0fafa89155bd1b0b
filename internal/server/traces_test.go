package server

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/archive"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/trace"
)

// Events go when their time is over, and what the books do not know goes when it is old; what
// is known of a trace and what was found in it stays.
func TestTracesAreForgotten(t *testing.T) {
	ctx := t.Context()
	db, err := store.Open(ctx, store.Config{URL: "sqlite:" + filepath.Join(t.TempDir(), "muster.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	a, err := archive.Open(ctx, config.FolderURL(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	kept, now := keptTraces{db, a}, time.Now()
	has := func(id muster.TraceID) bool {
		_, err := a.Written(ctx, workspace, id)
		return err == nil
	}
	var ids []muster.TraceID
	for i, expires := range []time.Time{now.Add(-time.Minute), now.Add(time.Hour), {}, now.Add(-time.Hour)} {
		id := muster.TraceID{Runner: muster.RunnerID(fmt.Sprintf("r-000%d", i)), Number: 1}
		ids = append(ids, id)
		data := []byte("data")
		if err := a.PutSegment(ctx, workspace, id, trace.Segment{Seq: 1, Data: data, Link: trace.Link("").Next(1, data)}); err != nil {
			t.Fatal(err)
		}
		if err := a.Put(ctx, workspace, id, "views.json.zst", bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if i == 3 {
			continue // the books do not know it
		}
		if err := db.AddRunner(ctx, muster.Runner{ID: id.Runner, Workspace: workspace, State: muster.RunnerProvisioning, CreatedAt: now}); err != nil {
			t.Fatal(err)
		}
		tr := muster.Trace{ID: id, Workspace: workspace, State: muster.TraceComplete, Segments: 1, StartedAt: now, EndedAt: now, ExpiresAt: expires}
		if expires.IsZero() {
			tr.State = muster.TraceRecording
		}
		if _, _, err := db.AddTrace(ctx, tr, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.PutDetections(ctx, workspace, ids[0], []muster.Detection{{Rule: "rule", At: now}}); err != nil {
		t.Fatal(err)
	}
	if n, err := kept.prune(ctx, now); n != 1 || err != nil {
		t.Errorf("%d expired, %v", n, err)
	}
	if n, err := kept.prune(ctx, now); n != 0 || err != nil {
		t.Errorf("%d expired twice, %v", n, err)
	}
	row, err := db.Trace(ctx, workspace, ids[0])
	if err != nil || row.DeletedAt.IsZero() || row.State != muster.TraceComplete {
		t.Errorf("%+v, %v", row, err)
	}
	if found, err := db.Detections(ctx, workspace, store.DetectionFilter{Trace: ids[0]}); err != nil || len(found) != 1 {
		t.Errorf("%v, %v", found, err)
	}
	for want, later := range []time.Duration{0, orphanAfter + time.Hour} {
		if n, err := kept.pruneOrphans(ctx, now.Add(later)); n != want || err != nil {
			t.Errorf("%d strays after %s, %v", n, later, err)
		}
	}
	if has(ids[0]) || !has(ids[1]) || !has(ids[2]) || has(ids[3]) {
		t.Error(has(ids[0]), has(ids[1]), has(ids[2]), has(ids[3]))
	}
	if n, err := (keptTraces{store: db}).prune(ctx, now); n != 0 || err != nil {
		t.Error(n, err)
	}
}

func TestBucketIsChecked(t *testing.T) {
	if err := checkBucket(config.Config{Traces: config.Traces{Bucket: "ftp://x"}}); err == nil {
		t.Error("a bucket of no kind is taken")
	}
	if err := checkBucket(config.Config{Traces: config.Traces{Bucket: "s3://x?region=y"}}); err != nil {
		t.Error(err)
	}
}

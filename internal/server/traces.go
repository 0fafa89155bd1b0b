package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/archive"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/lifecycle"
	"github.com/muster-ci/muster/internal/store"
)

// openArchive opens the bucket of traces, nil where none is configured.
func (s *Server) openArchive(ctx context.Context) (err error) {
	if s.cfg.Traces.Bucket == "" {
		return nil
	}
	if s.archive, err = archive.Open(ctx, s.cfg.Traces.Bucket); err != nil {
		return fmt.Errorf("traces.bucket: %w", err)
	}
	s.closers = append(s.closers, func() {
		if err := s.archive.Close(); err != nil {
			s.logger.Warn("close the bucket of traces", "error", err)
		}
	})
	if err := s.archive.Check(ctx); err != nil {
		// It may come back; agents keep what they have until then, and jobs run.
		s.logger.Error("the bucket of traces cannot be reached now; traces are lost if it stays away", "error", err)
	}
	return nil
}

// checkBucket reports what is wrong with the bucket of traces in a configuration.
func checkBucket(cfg config.Config) error {
	if cfg.Traces.Bucket == "" {
		return nil
	}
	if err := archive.CheckURL(cfg.Traces.Bucket); err != nil {
		return fmt.Errorf("traces.bucket: %w", err)
	}
	return nil
}

// tracing is how the lifecycle keeps traces.
func (s *Server) tracing() lifecycle.Tracing {
	if s.archive == nil {
		return lifecycle.Tracing{}
	}
	t := lifecycle.Tracing{Archive: s.archive, Analyst: s.analyst(), Retention: s.cfg.Traces.KeptFor}
	for _, h := range s.cfg.Webhooks {
		t.Hooks = append(t.Hooks, lifecycle.Hook{Name: h.Name, URL: h.URL, Secret: h.Secret, Events: h.Events})
	}
	return t
}

// analyst is who makes views and findings of traces.
func (s *Server) analyst() lifecycle.Analyst { return analyst{s.inspector} }

// keptTraces deletes the events of traces whose time is over, and what lies in the bucket
// that the books do not know.
type keptTraces struct {
	store   *store.Store
	archive *archive.Archive
}

const (
	// tracesAtOnce is how many traces are deleted before the books are asked again.
	tracesAtOnce = 200
	// orphanAfter is how old what the books do not know must be: they may be of a backup
	// that is being restored.
	orphanAfter = 7 * 24 * time.Hour
)

// prune deletes the events of expired traces and returns how many traces there were. What is
// known of a trace stays: what became of it, and what was found.
func (k keptTraces) prune(ctx context.Context, now time.Time) (n int, err error) {
	if k.archive == nil {
		return 0, nil
	}
	for {
		expired, err := k.store.ExpiredTraces(ctx, now, tracesAtOnce)
		if err != nil || len(expired) == 0 {
			return n, err
		}
		var failed error
		for _, t := range expired {
			if err := k.forget(ctx, t, now); err != nil {
				failed = errors.Join(failed, err)
				continue
			}
			n++
		}
		if failed != nil {
			return n, failed // the next round tries again
		}
	}
}

func (k keptTraces) forget(ctx context.Context, t muster.Trace, now time.Time) error {
	if err := k.archive.Delete(ctx, t.Workspace, t.ID); err != nil {
		return fmt.Errorf("delete trace %s: %w", t.ID, err)
	}
	_, err := k.store.UpdateTrace(ctx, t.Workspace, t.ID, now, func(t *muster.Trace) error {
		t.DeletedAt = now
		return nil
	})
	if err != nil {
		return fmt.Errorf("note that trace %s was deleted: %w", t.ID, err)
	}
	return nil
}

// pruneOrphans deletes what is in the bucket of traces that the books do not know, or know to
// be deleted: a deletion that broke off, or a database that was set back.
func (k keptTraces) pruneOrphans(ctx context.Context, now time.Time) (n int, err error) {
	if k.archive == nil {
		return 0, nil
	}
	for id, err := range k.archive.Traces(ctx, workspace) {
		if err != nil {
			return n, err
		}
		t, err := k.store.Trace(ctx, workspace, id)
		if err == nil && t.DeletedAt.IsZero() {
			continue
		}
		if err != nil && muster.CodeOf(err) != muster.CodeNotFound {
			return n, err
		}
		at, err := k.archive.Written(ctx, workspace, id)
		if muster.CodeOf(err) == muster.CodeNotFound || err == nil && now.Sub(at) < orphanAfter {
			continue
		}
		if err == nil {
			err = k.archive.Delete(ctx, workspace, id)
		}
		if err != nil {
			return n, fmt.Errorf("delete trace %s, which the books do not know: %w", id, err)
		}
		n++
	}
	return n, nil
}

package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/muster-ci/muster/internal/archive"
	"github.com/muster-ci/muster/internal/store"
)

const (
	housekeepingEvery = time.Hour
	// Logs and decisions are for looking into what happened lately.
	runnerLogRetention = 14 * 24 * time.Hour
	decisionRetention  = 14 * 24 * time.Hour
)

// housekeeping forgets what is older than its retention, until ctx ends. A failure
// is told and tried again an hour later.
func housekeeping(ctx context.Context, s *store.Store, traces *archive.Archive, deliveries time.Duration, logger *slog.Logger) error {
	kept := keptTraces{s, traces}
	tick := time.NewTicker(housekeepingEvery)
	defer tick.Stop()
	for {
		now := time.Now()
		for what, prune := range map[string]func() (int, error){
			"deliveries":   func() (int, error) { return s.PruneDeliveries(ctx, now.Add(-deliveries)) },
			"runner logs":  func() (int, error) { return s.PruneRunnerLogs(ctx, now.Add(-runnerLogRetention)) },
			"scale sets":   func() (int, error) { return s.PruneScaleSetJobs(ctx, now.Add(-decisionRetention)) },
			"decisions":    func() (int, error) { return s.PruneDecisions(ctx, now.Add(-decisionRetention)) },
			"traces":       func() (int, error) { return kept.prune(ctx, now) },
			"stray traces": func() (int, error) { return kept.pruneOrphans(ctx, now) },
		} {
			n, err := prune()
			if err != nil && ctx.Err() == nil {
				logger.Warn("housekeeping", "what", what, "error", err)
			} else if n > 0 {
				logger.Info("housekeeping", "what", what, "forgotten", n)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

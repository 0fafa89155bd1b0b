package server

import (
	"context"
	"time"

	"github.com/muster-ci/muster/internal/inspect"
	"github.com/muster-ci/muster/internal/trace/detect"
	"github.com/muster-ci/muster/internal/web"
)

func (t webTraces) Baselines(ctx context.Context, text, after string, limit int) ([]web.Baseline, error) {
	all, err := t.Inspector.Baselines(ctx, workspace, text, after, limit)
	out := make([]web.Baseline, len(all))
	for i, b := range all {
		out[i] = web.Baseline(b)
	}
	return out, err
}

func (t webTraces) Baseline(ctx context.Context, name string) (web.Baseline, error) {
	b, err := t.Inspector.Baseline(ctx, workspace, name)
	return web.Baseline(b), err
}

// AcceptBaseline and ResetBaseline are asked for only where traces are kept.
func (c webCommands) AcceptBaseline(ctx context.Context, name string, a web.Acceptance) error {
	_, _, err := c.inspector.AcceptBaseline(ctx, workspace, name, inspect.Acceptance{Facts: a.Facts, All: a.All, Version: a.Version}, onDashboard(a.Reason))
	return err
}

func (c webCommands) ResetBaseline(ctx context.Context, name, reason string) error {
	_, err := c.inspector.ForgetBaseline(ctx, workspace, name, 0, onDashboard(reason))
	return err
}

// onDashboard is what an operator does there now.
func onDashboard(reason string) detect.Act {
	return detect.Act{By: "operator", At: time.Now(), Reason: reason}
}

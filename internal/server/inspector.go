package server

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/api"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/inspect"
	"github.com/muster-ci/muster/internal/secretbox"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/attest"
	"github.com/muster-ci/muster/internal/trace/detect"
	"github.com/muster-ci/muster/internal/trace/view"
	"github.com/muster-ci/muster/internal/web"
)

// attestationKeys are the keys that attestations are signed with: one of each key of the
// box, so that they rotate together, and what was signed before is still verified.
func attestationKeys(box *secretbox.Box) ([]ed25519.PrivateKey, error) {
	secrets, err := box.Derive("attestations of traces")
	if err != nil {
		return nil, fmt.Errorf("keys of attestations: %w", err)
	}
	var keys []ed25519.PrivateKey
	for _, s := range secrets {
		k, err := attest.Key(s)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// detectionRules are the shipped rules and those of the configured folder.
func detectionRules(c config.Traces) (*detect.Rules, error) {
	if c.Rules == "" {
		return detect.Shipped()
	}
	if info, err := os.Stat(c.Rules); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("traces.rules: %s is no folder that can be read: %w", c.Rules, cmp.Or(err, fs.ErrInvalid))
	}
	rules, err := detect.Load(os.DirFS(c.Rules))
	if err != nil {
		return nil, fmt.Errorf("traces.rules: %w", err)
	}
	return rules, nil
}

// openInspector builds what looks into traces; nil where none are kept.
func (s *Server) openInspector() error {
	if s.archive == nil {
		return nil
	}
	rules, err := detectionRules(s.cfg.Traces)
	if err != nil {
		return err
	}
	keys, err := attestationKeys(s.box)
	if err != nil {
		return err
	}
	s.inspector = inspect.New(inspect.Config{
		Archive: s.archive, Books: traceBooks{s.store, s.gitHubNeeds}, Rules: rules, Keys: keys, Changes: s.store.Subscribe, Damaged: s.registry.TraceDamaged, Logger: s.logger,
	})
	return nil
}

// gitHubNeeds is what an App's GitHub needs to be reached for, as far as that is known.
func (s *Server) gitHubNeeds(ctx context.Context, app string, scope muster.Scope) []string {
	c := s.apps[app]
	if c == nil {
		return nil
	}
	needs, err := c.Needs(ctx, scope)
	if err != nil {
		s.logger.WarnContext(ctx, "what GitHub's services need is not known now", "app", app, "error", err)
	}
	return trace.Reachable(needs) // of what was known last, with an error too
}

// traceBooks is the store with the inspector's own filters.
type traceBooks struct {
	*store.Store
	gitHubNeeds func(ctx context.Context, app string, scope muster.Scope) []string
}

func (b traceBooks) Traces(ctx context.Context, workspace string, f inspect.TraceFilter) ([]muster.Trace, error) {
	return b.Store.Traces(ctx, workspace, store.TraceFilter(f))
}

func (b traceBooks) TracesAfter(ctx context.Context, workspace string, f inspect.TraceFilter, after muster.TraceID) ([]muster.Trace, error) {
	return b.Store.TracesAfter(ctx, workspace, store.TraceFilter(f), after)
}

func (b traceBooks) Detections(ctx context.Context, workspace string, f inspect.DetectionFilter) ([]muster.Detection, error) {
	return b.Store.Detections(ctx, workspace, store.DetectionFilter(f))
}

// Egress is the policy that a pool's next job gets. What GitHub needs is left out if that
// is not known now.
func (b traceBooks) Egress(ctx context.Context, workspace, pool string) (trace.Egress, error) {
	p, err := b.Pool(ctx, workspace, pool)
	if err != nil {
		return trace.Egress{}, err
	}
	e := trace.Egress{Mode: trace.EgressMode(p.Egress.Mode), Allow: p.Egress.Allow, NoGitHub: p.Egress.NoGitHub}
	if !e.NoGitHub {
		e.GitHub = b.gitHubNeeds(ctx, p.App, p.Scope)
	}
	return e, nil
}

// analyst is the inspector for the lifecycle.
type analyst struct{ *inspect.Inspector }

func (a analyst) Analyse(ctx context.Context, workspace string, id muster.TraceID) error {
	_, err := a.Inspector.Analyse(ctx, workspace, id)
	return err
}

// apiTraces is the inspector for the API.
type apiTraces struct {
	*inspect.Inspector
	counts func(ctx context.Context, workspace string) (map[muster.TraceState]int, error)
}

func apiTraceFilter(f api.TraceFilter) inspect.TraceFilter {
	return inspect.TraceFilter{Job: f.Job, Runner: f.Runner, RunID: f.RunID, Pool: f.Pool, Repository: f.Repository, Key: f.Key, States: f.States, Since: f.Since, Until: f.Until, Limit: f.Limit}
}

func (t apiTraces) Traces(ctx context.Context, workspace string, f api.TraceFilter) ([]muster.Trace, error) {
	return t.Inspector.Traces(ctx, workspace, apiTraceFilter(f))
}

func (t apiTraces) QueryTraces(ctx context.Context, workspace, expr string, id muster.TraceID, f api.TraceFilter, limit int, yield func(api.TraceHit) bool) (api.TraceStats, error) {
	stats, err := t.Query(ctx, workspace, expr, inspect.Where{Trace: id, TraceFilter: apiTraceFilter(f)}, limit, func(h inspect.Hit) bool { return yield(api.TraceHit(h)) })
	return api.TraceStats(stats), err
}

func (t apiTraces) ScanTraces(ctx context.Context, workspace, indicators string, id muster.TraceID, f api.TraceFilter, limit int, yield func(muster.Trace, []api.TraceHit) bool) (api.TraceStats, error) {
	stats, err := t.Scan(ctx, workspace, indicators, inspect.Where{Trace: id, TraceFilter: apiTraceFilter(f)}, limit, func(tr muster.Trace, hits []inspect.Hit) bool {
		out := make([]api.TraceHit, len(hits))
		for i, h := range hits {
			out[i] = api.TraceHit(h)
		}
		return yield(tr, out)
	})
	return api.TraceStats(stats), err
}

func (t apiTraces) TailTrace(ctx context.Context, workspace string, id muster.TraceID, after uint64, expr string, yield func(muster.Trace, []trace.Event) bool) error {
	return t.Tail(ctx, workspace, id, after, expr, func(b inspect.Batch) bool { return yield(b.Trace, b.Events) })
}

func (t apiTraces) DiffTraces(ctx context.Context, workspace string, id, against muster.TraceID) (view.Diff, muster.Trace, muster.Trace, error) {
	d, err := t.Diff(ctx, workspace, id, against)
	return d.Diff, d.Trace, d.Against, err
}

func (t apiTraces) TraceFindings(ctx context.Context, workspace string, f api.FindingFilter) ([]api.TraceFinding, error) {
	all, err := t.Findings(ctx, workspace, inspect.DetectionFilter{Trace: f.Trace, Pool: f.Pool, Repository: f.Repository, Rule: f.Rule, Severity: f.Severity, Since: f.Since, Until: f.Until, Limit: f.Limit}, f.Key)
	out := make([]api.TraceFinding, len(all))
	for i, d := range all {
		out[i] = api.TraceFinding(d)
	}
	return out, err
}

func (t apiTraces) ProposeEgress(ctx context.Context, workspace, pool string, since time.Time) (api.EgressProposal, error) {
	a, err := t.Allowlist(ctx, workspace, pool, since)
	if err != nil {
		return api.EgressProposal{}, err
	}
	out := api.EgressProposal{Policy: a.Policy, Traces: a.Traces, Notes: a.Notes}
	add := func(entries []inspect.Entry, known bool) {
		for _, e := range entries {
			if known && e.Jobs == 0 {
				out.Unused = append(out.Unused, e.Entry)
				continue
			}
			if e.Warning != "" {
				out.Notes = append(out.Notes, e.Entry+": "+e.Warning)
			}
			out.Entries = append(out.Entries, api.EgressEntry{Allow: e.Entry, Hosts: e.Hosts, Jobs: e.Jobs, First: e.First, Last: e.Last, Programs: e.Programs, Known: known, Warning: e.Warning})
		}
	}
	add(a.Present, true)
	add(a.Proposed, false)
	return out, nil
}

func (t apiTraces) Baselines(ctx context.Context, workspace, text, after string, limit int) ([]api.Baseline, error) {
	all, err := t.Inspector.Baselines(ctx, workspace, text, after, limit)
	out := make([]api.Baseline, len(all))
	for i, b := range all {
		out[i] = api.Baseline(b)
	}
	return out, err
}

func (t apiTraces) BaselineOf(ctx context.Context, workspace, name string) (api.Baseline, error) {
	b, err := t.Baseline(ctx, workspace, name)
	return api.Baseline(b), err
}

func (t apiTraces) AcceptBaseline(ctx context.Context, workspace, name string, a api.Acceptance, by detect.Act) (api.Baseline, []detect.Fact, error) {
	b, accepted, err := t.Inspector.AcceptBaseline(ctx, workspace, name, inspect.Acceptance(a), by)
	return api.Baseline(b), accepted, err
}

func (t apiTraces) ForgetBaseline(ctx context.Context, workspace, name string, version int64, by detect.Act) (api.Baseline, error) {
	b, err := t.Inspector.ForgetBaseline(ctx, workspace, name, version, by)
	return api.Baseline(b), err
}

func (t apiTraces) VerifyTrace(ctx context.Context, workspace string, id muster.TraceID) (api.TraceCheck, error) {
	c, err := t.Verify(ctx, workspace, id)
	return api.TraceCheck{Trace: c.Trace, Problem: c.Problem, KeyID: c.Verdict.KeyID, Segments: c.Verdict.Seal.Segments, Events: c.Verdict.Seal.Events}, err
}

// CheckTraces knows how many there are if all are checked.
func (t apiTraces) CheckTraces(ctx context.Context, ws string, id muster.TraceID, f api.TraceFilter, yield func(*api.TraceProblem, api.TraceTally) bool) (api.TraceTally, error) {
	total := 0
	if id == (muster.TraceID{}) && f.Pool == "" && f.Repository == "" && f.Key == "" && f.Since.IsZero() && f.Until.IsZero() {
		counts, err := t.counts(ctx, ws)
		if err != nil {
			return api.TraceTally{}, err
		}
		for _, n := range counts {
			total += n
		}
	}
	tally := func(c inspect.Tally) api.TraceTally {
		out := api.TraceTally{Total: total, Traces: c.Traces, Whole: c.Whole, Mended: c.Mended, Unsigned: c.Unsigned, Problems: map[string]int{}, Skipped: c.Skipped, Bytes: c.Bytes, Took: c.Took}
		for kind, n := range c.Problems {
			out.Problems[string(kind)] = n
		}
		return out
	}
	c, err := t.Inspector.CheckTraces(ctx, ws, inspect.Where{Trace: id, TraceFilter: apiTraceFilter(f)}, func(p *inspect.Problem, c inspect.Tally) bool {
		if p == nil {
			return yield(nil, tally(c))
		}
		return yield(&api.TraceProblem{Trace: p.Trace, Kind: string(p.Kind), Text: p.Text}, tally(c))
	})
	return tally(c), err
}

func (t apiTraces) RawTrace(ctx context.Context, workspace string, id muster.TraceID, packed bool, w io.Writer, ready func(muster.Trace)) error {
	return t.Raw(ctx, workspace, id, packed, w, ready)
}

func (t apiTraces) TraceBundle(ctx context.Context, workspace string, id muster.TraceID, w io.Writer, ready func(muster.Trace)) error {
	return t.Bundle(ctx, workspace, id, w, ready)
}

func (t apiTraces) TraceKeys() ([]byte, error) { return t.PublicKeys() }

// webTraces is the inspector for the dashboard, bound to the workspace.
type webTraces struct{ *inspect.Inspector }

func (t webTraces) Traces(ctx context.Context, q web.TraceQuery) ([]muster.Trace, error) {
	return t.Inspector.Traces(ctx, workspace, inspect.TraceFilter{Job: q.Job, Runner: q.Runner, RunID: q.RunID, Baseline: q.Baseline, States: q.States, Limit: q.Limit})
}

func (t webTraces) Views(ctx context.Context, id muster.TraceID) (*view.Views, error) {
	return t.Inspector.Views(ctx, workspace, id)
}

func (t webTraces) TraceDiff(ctx context.Context, id, against muster.TraceID) (web.TraceDiff, error) {
	d, err := t.Diff(ctx, workspace, id, against)
	return web.TraceDiff{Diff: d.Diff, Against: d.Against}, err
}

func (t webTraces) TraceEvents(ctx context.Context, q web.EventQuery) (web.EventAnswer, error) {
	var out web.EventAnswer
	stats, err := t.Query(ctx, workspace, q.Expr, inspect.Where{Trace: q.Trace, TraceFilter: inspect.TraceFilter{Since: q.Since}}, q.Limit, func(h inspect.Hit) bool {
		out.Rows = append(out.Rows, web.EventRow{Event: h.Event, Trace: h.Trace})
		return true
	})
	out.More, out.Scanned, out.Traces, out.Took = stats.Limited, stats.Events, stats.Traces, stats.Took
	return out, err
}

func (t webTraces) Detections(ctx context.Context, q web.DetectionQuery) ([]web.DetectionRow, error) {
	all, err := t.Findings(ctx, workspace, inspect.DetectionFilter{Trace: q.Trace, Severity: q.Severity, Rule: q.Rule, Repository: q.Repository, Until: q.Before, Limit: q.Limit}, "")
	out := make([]web.DetectionRow, len(all))
	for i, d := range all {
		out[i] = web.DetectionRow(d)
	}
	return out, err
}

// egressSince is how far back the dashboard looks for what a pool's jobs reached.
const egressSince = 30 * 24 * time.Hour

func (t webTraces) Allowlist(ctx context.Context, pool string) (web.Allowlist, error) {
	a, err := t.Inspector.Allowlist(ctx, workspace, pool, time.Now().Add(-egressSince))
	out := web.Allowlist{Policy: a.Policy, Traces: a.Traces, Since: a.Since, Stable: a.Stable, Full: a.Full, Notes: a.Notes}
	for _, e := range a.Proposed {
		out.Proposed = append(out.Proposed, web.AllowEntry(e))
	}
	for _, e := range a.Present {
		out.Present = append(out.Present, web.AllowEntry(e))
	}
	for _, r := range a.Refused {
		out.Refused = append(out.Refused, web.RefusedHost(r))
	}
	return out, err
}

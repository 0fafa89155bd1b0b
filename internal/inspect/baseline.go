package inspect

import (
	"context"
	"fmt"
	"slices"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace/detect"
)

// Baseline is what is known of a job under its name (muster.Trace.Baseline).
type Baseline struct {
	Name string
	// Version is one more with every change.
	Version int64
	*detect.Baseline
}

// Acceptance is what somebody says is expected of a job.
type Acceptance struct {
	Facts []detect.Fact
	// Fresh accepts all that came after the baseline had matured; All has it mature at once
	// beside that.
	Fresh, All bool
	// Version is that of the baseline which was looked at; 0 is whatever it is now.
	Version int64
}

// Baselines are those whose names contain a text ("" for all) and come after a name, in the
// order of their names.
func (i *Inspector) Baselines(ctx context.Context, ws, text, after string, limit int) ([]Baseline, error) {
	names, err := i.Books.BaselineNames(ctx, ws, text, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list baselines: %w", err)
	}
	out := make([]Baseline, 0, len(names))
	for _, name := range names {
		base, _, version, err := i.known(ctx, ws, name)
		if err != nil {
			return nil, err
		}
		out = append(out, Baseline{name, version, base})
	}
	return out, nil
}

// Baseline is one of them: CodeNotFound before anything was learnt under the name.
func (i *Inspector) Baseline(ctx context.Context, ws, name string) (Baseline, error) {
	base, _, version, err := i.known(ctx, ws, name)
	switch {
	case err != nil:
		return Baseline{}, err
	case version == 0:
		return Baseline{}, muster.Errorf(muster.CodeNotFound, "there is no baseline %q: one is made when the first trace of a job was analysed; muster trace baseline list names all", name)
	}
	return Baseline{name, version, base}, nil
}

// AcceptBaseline takes things for expected from now on, and returns the facts that were not
// accepted before. What was found already stays found, and tells that it was accepted.
func (i *Inspector) AcceptBaseline(ctx context.Context, ws, name string, a Acceptance, by detect.Act) (Baseline, []detect.Fact, error) {
	var accepted []detect.Fact
	b, err := i.change(ctx, ws, name, a.Version, func(b *detect.Baseline) bool {
		accepted = nil
		facts := a.Facts
		if a.Fresh || a.All {
			facts = append(slices.Clone(facts), b.Fresh()...)
		}
		for _, f := range facts {
			if b.Accept(f, by) {
				accepted = append(accepted, f)
			}
		}
		return a.All && b.AcceptAll(by) || len(accepted) > 0
	})
	if err != nil {
		return b, nil, err
	}
	i.Logger.InfoContext(ctx, "baseline accepted", "workspace", ws, "baseline", name, "by", by.By, "reason", by.Reason, "facts", len(accepted), "all", a.All)
	return b, accepted, nil
}

// ForgetBaseline has a job learnt anew, as if nothing were known of it. Traces that it was
// learnt from do not teach it again. Version is as in Acceptance.
func (i *Inspector) ForgetBaseline(ctx context.Context, ws, name string, version int64, by detect.Act) (Baseline, error) {
	b, err := i.change(ctx, ws, name, version, func(b *detect.Baseline) bool {
		b.Forget(by)
		return true
	})
	if err == nil {
		i.Logger.InfoContext(ctx, "baseline forgotten", "workspace", ws, "baseline", name, "by", by.By, "reason", by.Reason)
	}
	return b, err
}

// change lets alter change a baseline, which reports whether it did, also when traces are
// learnt meanwhile; a version other than 0 must be the one that is there.
func (i *Inspector) change(ctx context.Context, ws, name string, version int64, alter func(*detect.Baseline) bool) (Baseline, error) {
	var err error
	for range learnTries {
		base, traces, now, readErr := i.known(ctx, ws, name)
		if readErr != nil {
			return Baseline{}, readErr
		}
		if now == 0 {
			return i.Baseline(ctx, ws, name) // which says that there is none
		}
		if version != 0 && version != now {
			return Baseline{}, muster.Errorf(muster.CodeConflict, "the baseline of %s has version %d and not %d any more: look at it again, and repeat that with its version", name, now, version)
		}
		if !alter(base) {
			return Baseline{name, now, base}, nil
		}
		if err = i.keep(ctx, ws, name, base, traces, now); err == nil {
			return Baseline{name, now + 1, base}, nil
		}
		if muster.CodeOf(err) != muster.CodeConflict {
			break
		}
	}
	return Baseline{}, fmt.Errorf("change the baseline of %s: %w", name, err)
}

// acceptances looks up who accepted what findings are about; each baseline is read once.
type acceptances struct {
	*Inspector
	known map[string]*detect.Baseline
}

func (a acceptances) of(ctx context.Context, ws string, t muster.Trace, d muster.Detection) (*detect.Act, error) {
	name := t.Baseline()
	f, err := detect.ParseFact(d.Fact)
	if name == "" || err != nil { // most rules ask no baseline
		return nil, nil
	}
	base, ok := a.known[name]
	if !ok {
		if base, _, _, err = a.Inspector.known(ctx, ws, name); err != nil {
			return nil, err
		}
		a.known[name] = base
	}
	s, _ := base.Seen(f)
	return s.Accepted, nil
}

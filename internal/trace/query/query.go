package query

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"

	"github.com/muster-ci/muster/internal/trace"
)

// Limits of one expression. Cost is CEL's measure of work, about one for each step and
// for every ten characters looked at.
const (
	maxExpression = 16 << 10  // characters
	maxPromised   = 5_000_000 // what cannot cost more for any event is not watched
	maxCost       = 1_000_000 // what is watched ends with an error here
)

// Query is a checked expression. It is safe for concurrent use.
type Query struct {
	source string
	ast    *cel.Ast
	root   *cond
	leaves int          // how many leaves root has
	types  []trace.Type // the only ones that can match; nil: any
	bounds sync.Pool    // of *bound
}

// Compile checks an expression. The error is an *Error that points at the place and says
// what to do.
func Compile(expr string) (*Query, error) {
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("set up the query language: %w", err)
	}
	checked, issues := env.Compile(expr)
	if issues.Err() != nil {
		return nil, explain(expr, issues)
	}
	if err := examine(expr, checked); err != nil {
		return nil, err
	}
	q := &Query{source: expr, ast: checked, types: typesOf(checked)}
	if q.root, err = q.build(env, checked.NativeRep().Expr()); err != nil {
		return nil, &Error{Expr: expr, Line: 1, Message: err.Error(), Remedy: "simplify the expression"}
	}
	return q, nil
}

// program makes an expression runnable. One that may cost much for some event is
// watched, which makes it slower; the others need no watch.
func program(env *cel.Env, checked *cel.Ast) (run cel.Program, watched bool, err error) {
	opts := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize), cel.InterruptCheckFrequency(1000)}
	estimate, err := env.EstimateCost(checked, sizes{})
	if err != nil {
		return nil, false, fmt.Errorf("estimate the cost: %w", err)
	}
	if watched = estimate.Max > maxPromised; watched {
		opts = append(opts, cel.CostLimit(maxCost))
	}
	run, err = env.Program(checked, opts...)
	return run, watched, err
}

// sizes are the greatest that fields of an event have: paths and arguments are at most
// 4 KiB, in bytes; of JSON texts more than any recorder writes.
type sizes struct{}

// EstimateSize bounds a variable and the elements of one.
func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	path := n.Path()
	if len(path) == 0 {
		return nil
	}
	i, ok := fieldOf[path[0]]
	if !ok {
		return nil
	}
	size := cost.RangedSizeEstimate(0, 4096)
	if k := fields[i].kind; k == list && len(path) == 1 {
		size = cost.ListSizeEstimate(cost.RangedSizeEstimate(0, 1024), size)
	} else if k == tally || k == open {
		return nil
	}
	return &size
}

// EstimateCallCost leaves functions to their own models.
func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// String is the expression as it was written.
func (q *Query) String() string { return q.source }

// Types are the only types of events that can match, nil if any can: those that the
// expression demands with type == "…" or type in […].
func (q *Query) Types() []trace.Type { return slices.Clone(q.types) }

// Match reports whether an event is what the expression asks for. The error says why the
// expression has no value for this event: an index beyond a list's end, a division by
// zero, too much work. The event then does not match.
func (q *Query) Match(e trace.Event) (bool, error) {
	if !q.mayMatch(e.Type) {
		return false, nil
	}
	b := q.bound()
	b.own = e // and not its address, which would put every event on the heap
	b.event = &b.own
	return q.match(context.Background(), b)
}

// MatchContext is Match without a copy of the event, given up with ctx.
func (q *Query) MatchContext(ctx context.Context, e *trace.Event) (bool, error) {
	if !q.mayMatch(e.Type) {
		return false, nil
	}
	b := q.bound()
	b.event = e
	return q.match(ctx, b)
}

func (q *Query) mayMatch(t trace.Type) bool { return q.types == nil || slices.Contains(q.types, t) }

func (q *Query) bound() *bound {
	if b, ok := q.bounds.Get().(*bound); ok {
		return b
	}
	return new(bound)
}

func (q *Query) match(ctx context.Context, b *bound) (bool, error) {
	v, err := q.root.ofEvent(ctx, b)
	seq := b.event.Seq
	*b = bound{} // it holds no event's texts while it waits
	q.bounds.Put(b)
	if v == fault {
		return false, fmt.Errorf("event %d: %w", seq, err)
	}
	return v == yes, nil
}

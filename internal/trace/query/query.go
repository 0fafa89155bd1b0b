package query

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"

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
	run    cel.Program
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
	run, err := program(env, checked)
	if err != nil {
		return nil, &Error{Expr: expr, Line: 1, Message: err.Error(), Remedy: "simplify the expression"}
	}
	return &Query{source: expr, ast: checked, run: run, types: typesOf(checked)}, nil
}

// program makes an expression runnable. One that may cost much for some event is
// watched, which makes it slower; the others need no watch.
func program(env *cel.Env, checked *cel.Ast) (cel.Program, error) {
	opts := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize), cel.InterruptCheckFrequency(1000)}
	estimate, err := env.EstimateCost(checked, sizes{})
	if err != nil {
		return nil, fmt.Errorf("estimate the cost: %w", err)
	}
	if estimate.Max > maxPromised {
		opts = append(opts, cel.CostLimit(maxCost))
	}
	return env.Program(checked, opts...)
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
	return q.MatchContext(context.Background(), &e)
}

// MatchContext is Match without a copy of the event, given up with ctx.
func (q *Query) MatchContext(ctx context.Context, e *trace.Event) (bool, error) {
	if q.types != nil && !slices.Contains(q.types, e.Type) {
		return false, nil
	}
	b, ok := q.bounds.Get().(*bound)
	if !ok {
		b = new(bound)
	}
	b.event = *e
	yes, err := truthOf(ctx, q.run, b)
	b.event = trace.Event{} // holds no event's texts
	q.bounds.Put(b)
	if err != nil {
		return false, fmt.Errorf("event %d: %w", e.Seq, err)
	}
	return yes, nil
}

var errNoTruth = errors.New("the expression is neither true nor false")

func truthOf(ctx context.Context, run cel.Program, vars cel.Activation) (bool, error) {
	v, _, err := run.ContextEval(ctx, vars)
	if err != nil {
		return false, err
	}
	yes, ok := v.(types.Bool)
	if !ok {
		return false, errNoTruth
	}
	return bool(yes), nil
}

package query

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// verdict is CEL's truth: a part may also have no value, which decides nothing as long as
// another part decides.
type verdict uint8

const (
	unasked verdict = iota // only in tables of what was asked
	no
	yes
	fault
)

func verdictOf(b bool) verdict {
	if b {
		return yes
	}
	return no
}

func (v verdict) not() verdict {
	switch v {
	case yes:
		return no
	case no:
		return yes
	}
	return v
}

// op is how a cond comes from its parts.
type op uint8

const (
	leaf op = iota
	all     // &&
	some    // ||
	not     // !
)

// cond is an expression taken apart at &&, || and !, so that each part can be asked by
// itself: of an event, or once for each value of a column. The parts are in the order in
// which they are cheapest; CEL's && and || do not mind.
type cond struct {
	op    op
	parts []*cond

	// Of a leaf: the fields that it looks at, and how to ask it. onText and onNumber are set
	// if it looks at one field in a way that needs no CEL; run always is.
	fields   []int
	onText   func(string) bool
	onNumber func(int64) bool
	fast     fastTruth // set if it compares fields in a way that needs no CEL
	run      cel.Program
	slow     bool // run is watched
	loops    bool // run goes over lists, and is given up with a context
	// low and high bound the numbers for which onNumber can hold.
	low, high int64
	id        int // its number in the query
}

// build takes an expression apart.
func (q *Query) build(env *cel.Env, e ast.Expr) (*cond, error) {
	for name, o := range map[string]op{operators.LogicalAnd: all, operators.LogicalOr: some, operators.LogicalNot: not} {
		if isCall(e, name) {
			return q.join(env, o, e.AsCall().Args())
		}
	}
	return q.leaf(env, e)
}

func (q *Query) join(env *cel.Env, o op, args []ast.Expr) (*cond, error) {
	c := &cond{op: o}
	for _, a := range args {
		part, err := q.build(env, a)
		if err != nil {
			return nil, err
		}
		if part.op == o && o != not {
			c.parts = append(c.parts, part.parts...)
		} else {
			c.parts = append(c.parts, part)
		}
	}
	slices.SortStableFunc(c.parts, func(a, b *cond) int { return a.price() - b.price() })
	return c, nil
}

// price is how much a part costs to ask, compared with others.
func (c *cond) price() int {
	switch {
	case c.op != leaf:
		p := 0
		for _, part := range c.parts {
			p += part.price()
		}
		return p
	case c.onNumber != nil:
		return 1
	case c.onText != nil && fields[c.fields[0]].name == "type":
		return 1
	case c.onText != nil:
		return 2
	case c.fast != nil:
		return 4 * (1 + len(c.fields))
	case c.slow:
		return 1000
	case c.loops:
		return 300
	}
	return 50 * (1 + len(c.fields))
}

func (q *Query) leaf(env *cel.Env, e ast.Expr) (*cond, error) {
	text, err := cel.ExprToString(e, q.ast.NativeRep().SourceInfo())
	if err != nil {
		return nil, fmt.Errorf("take the expression apart: %w", err)
	}
	checked, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, fmt.Errorf("take the expression apart: %w", issues.Err())
	}
	c := &cond{op: leaf, fields: fieldsOf(e), low: -1 << 63, high: 1<<63 - 1, id: q.leaves}
	q.leaves++
	if c.run, c.slow, err = program(env, checked); err != nil {
		return nil, err
	}
	c.loops = loops(e)
	c.native(env, e)
	c.fast = fast(e)
	return c, nil
}

func loops(e ast.Expr) (found bool) {
	ast.PostOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) { found = found || e.Kind() == ast.ComprehensionKind }))
	return found
}

// fieldsOf are the fields that an expression may look at.
func fieldsOf(e ast.Expr) []int {
	var out []int
	ast.PostOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.IdentKind {
			return
		}
		if i, ok := fieldOf[e.AsIdent()]; ok && !slices.Contains(out, i) {
			out = append(out, i)
		}
	}))
	return out
}

// ofEvent asks a condition of an event.
func (c *cond) ofEvent(ctx context.Context, b *bound) (verdict, error) {
	if c.op == leaf {
		return c.leafOf(ctx, b)
	}
	return c.combine(func(part *cond) (verdict, error) { return part.ofEvent(ctx, b) })
}

// combine asks the parts until one decides.
func (c *cond) combine(ask func(*cond) (verdict, error)) (verdict, error) {
	if c.op == not {
		v, err := ask(c.parts[0])
		return v.not(), err
	}
	decides, otherwise := no, yes
	if c.op == some {
		decides, otherwise = yes, no
	}
	var why error
	for _, part := range c.parts {
		v, err := ask(part)
		if v == decides {
			return v, nil
		}
		if v == fault {
			otherwise = fault
			if why == nil {
				why = err
			}
		}
	}
	return otherwise, why
}

func (c *cond) leafOf(ctx context.Context, b *bound) (verdict, error) {
	switch {
	case c.onText != nil:
		return verdictOf(c.onText(fields[c.fields[0]].str(b.event))), nil
	case c.onNumber != nil:
		return verdictOf(c.onNumber(fields[c.fields[0]].num(b.event))), nil
	case c.fast != nil:
		if v := c.fast(b); v != fault {
			return v, nil
		}
	}
	return c.eval(ctx, b)
}

var errNoTruth = errors.New("the expression is neither true nor false")

func (c *cond) eval(ctx context.Context, vars cel.Activation) (verdict, error) {
	v, err := c.value(ctx, vars)
	if err != nil {
		return fault, err
	}
	truth, ok := v.(types.Bool)
	if !ok {
		return fault, errNoTruth
	}
	return verdictOf(bool(truth)), nil
}

func (c *cond) value(ctx context.Context, vars cel.Activation) (v ref.Val, err error) {
	if c.loops {
		v, _, err = c.run.ContextEval(ctx, vars)
	} else {
		v, _, err = c.run.Eval(vars) // which is faster, and soon over
	}
	return v, err
}

// native finds a way to ask without CEL, which gives the same answer many times faster.
func (c *cond) native(env *cel.Env, e ast.Expr) {
	if len(c.fields) != 1 {
		return
	}
	f := &fields[c.fields[0]]
	switch {
	case e.Kind() == ast.IdentKind && f.kind == truth:
		c.onNumber = func(n int64) bool { return n != 0 }
	case e.Kind() != ast.CallKind:
	case e.AsCall().IsMemberFunction():
		c.nativeMember(env, f, e.AsCall())
	case len(e.AsCall().Args()) == 2:
		c.nativeCompare(env, f, e.AsCall())
	}
}

// constant is the value of an expression without fields; nil if it has none.
func constant(env *cel.Env, e ast.Expr) ref.Val {
	if e.Kind() == ast.LiteralKind {
		return e.AsLiteral()
	}
	text, err := cel.ExprToString(e, nil)
	if err != nil || len(fieldsOf(e)) > 0 {
		return nil
	}
	checked, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil
	}
	run, _, err := program(env, checked)
	if err != nil {
		return nil
	}
	v, _, err := run.Eval(cel.NoVars())
	if err != nil {
		return nil
	}
	return v
}

// number is a constant as it is compared with a field; false if it cannot be.
func number(f *field, v ref.Val) (int64, bool) {
	switch v := v.(type) {
	case types.Int:
		return int64(v), f.kind == whole
	case types.Timestamp:
		n := nanos(v.Time)
		return n, f.kind == stamp && v.UnixNano() == n && v.Year() > 1700 && v.Year() < 2200
	}
	return 0, false
}

var mirrored = map[string]string{
	operators.Equals: operators.Equals, operators.NotEquals: operators.NotEquals, operators.Less: operators.Greater,
	operators.Greater: operators.Less, operators.LessEquals: operators.GreaterEquals, operators.GreaterEquals: operators.LessEquals,
}

func (c *cond) nativeCompare(env *cel.Env, f *field, call ast.CallExpr) {
	name, a, b := call.FunctionName(), call.Args()[0], call.Args()[1]
	if name == operators.In {
		c.nativeIn(f, a, b)
		return
	}
	if mirrored[name] == "" {
		return
	}
	if b.Kind() == ast.IdentKind {
		a, b, name = b, a, mirrored[name]
	}
	if a.Kind() != ast.IdentKind {
		return
	}
	v := constant(env, b)
	if s, ok := v.(types.String); ok && f.kind == text {
		switch want := string(s); name {
		case operators.Equals:
			c.onText = func(s string) bool { return s == want }
		case operators.NotEquals:
			c.onText = func(s string) bool { return s != want }
		}
		return
	}
	if n, ok := number(f, v); ok {
		c.compare(name, n)
	}
}

func (c *cond) compare(name string, n int64) {
	switch name {
	case operators.Equals:
		c.low, c.high = n, n
		c.onNumber = func(x int64) bool { return x == n }
	case operators.NotEquals:
		c.onNumber = func(x int64) bool { return x != n }
	case operators.Less:
		c.high = n
		c.onNumber = func(x int64) bool { return x < n }
	case operators.LessEquals:
		c.high = n
		c.onNumber = func(x int64) bool { return x <= n }
	case operators.Greater:
		c.low = n
		c.onNumber = func(x int64) bool { return x > n }
	case operators.GreaterEquals:
		c.low = n
		c.onNumber = func(x int64) bool { return x >= n }
	}
}

func (c *cond) nativeIn(f *field, a, b ast.Expr) {
	if a.Kind() != ast.IdentKind || b.Kind() != ast.ListKind || f.kind != text && f.kind != whole {
		return
	}
	var texts []string
	var numbers []int64
	for _, one := range b.AsList().Elements() {
		if one.Kind() != ast.LiteralKind {
			return
		}
		switch v := one.AsLiteral().(type) {
		case types.String:
			texts = append(texts, string(v))
		case types.Int:
			numbers = append(numbers, int64(v))
		default:
			return
		}
	}
	switch {
	case f.kind == text && numbers == nil:
		c.onText = func(s string) bool { return slices.Contains(texts, s) }
	case f.kind == whole && texts == nil:
		c.onNumber = func(n int64) bool { return slices.Contains(numbers, n) }
	}
}

// texts are the functions of a text and one or more constant texts.
var texts = map[string]func(string, string) bool{
	"startsWith": strings.HasPrefix, "endsWith": strings.HasSuffix, "contains": strings.Contains,
	"glob": Glob, "inDomain": InDomain, "inCIDR": InCIDR, "hasFlag": hasWord,
}

// against is one of texts with its argument.
func against(name, want string) func(string) bool {
	test := texts[name]
	if name != "glob" {
		return func(s string) bool { return test(s, want) }
	}
	need := literal(want)
	return func(s string) bool { return strings.Contains(s, need) && test(s, want) }
}

// matcher matches a regular expression, and looks first for the texts that whatever it
// matches has in it, which is many times faster.
func matcher(re *regexp.Regexp) func(string) bool {
	parsed, err := syntax.Parse(re.String(), syntax.Perl)
	if err != nil {
		return re.MatchString
	}
	need := required(parsed)
	return func(s string) bool {
		for _, n := range need {
			if !strings.Contains(s, n) {
				return false
			}
		}
		return re.MatchString(s)
	}
}

// required are texts that whatever an expression matches has in it.
func required(re *syntax.Regexp) (out []string) {
	switch re.Op {
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase == 0 {
			return []string{string(re.Rune)}
		}
	case syntax.OpConcat, syntax.OpCapture, syntax.OpPlus:
		for _, sub := range re.Sub {
			out = append(out, required(sub)...)
		}
	}
	return out
}

// literal is the longest piece of a pattern that everything it matches has in it.
func literal(pattern string) (best string) {
	if strings.Contains(pattern, "{") {
		return ""
	}
	for piece := range strings.FieldsFuncSeq(pattern, func(r rune) bool { return r == '*' || r == '?' }) {
		if len(piece) > len(best) {
			best = piece
		}
	}
	return best
}

// takesList are those of texts that take a list as well.
var takesList = map[string]bool{"glob": true, "inDomain": true, "inCIDR": true}

func (c *cond) nativeMember(env *cel.Env, f *field, call ast.CallExpr) {
	if call.Target().Kind() != ast.IdentKind || f.kind != text {
		return
	}
	name, args := call.FunctionName(), call.Args()
	if name == "isPublic" && len(args) == 0 {
		c.onText = Public
		return
	}
	if len(args) != 1 {
		return
	}
	if s, ok := constant(env, args[0]).(types.String); ok {
		want := string(s)
		if texts[name] != nil {
			c.onText = against(name, want)
		} else if re, err := regexp.Compile(want); name == "matches" && err == nil {
			c.onText = matcher(re)
		}
		return
	}
	c.nativeList(name, args[0])
}

func (c *cond) nativeList(name string, arg ast.Expr) {
	if list := constants(arg); takesList[name] && arg.Kind() == ast.ListKind && len(list) == len(arg.AsList().Elements()) {
		tests := make([]func(string) bool, len(list))
		for i, want := range list {
			tests[i] = against(name, want)
		}
		c.onText = func(s string) bool {
			return slices.ContainsFunc(tests, func(test func(string) bool) bool { return test(s) })
		}
	}
}

package query

import (
	"math"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// source is where a fast expression gets fields from: an event, or a row of an index.
type source interface {
	text(field int) string
	number(field int) int64
}

func (b *bound) text(f int) string  { return fields[f].str(b.event) }
func (b *bound) number(f int) int64 { return fields[f].num(b.event) }

// fastText and fastNumber are expressions that need no CEL. A number may have no value:
// then CEL is asked why.
type (
	fastText   func(source) string
	fastNumber func(source) (int64, bool)
	fastTruth  func(source) verdict
)

// fast makes of a comparison of any texts or numbers something that runs without CEL; nil of
// what it does not know.
func fast(e ast.Expr) fastTruth {
	if e.Kind() != ast.CallKind {
		return nil
	}
	call := e.AsCall()
	if call.IsMemberFunction() {
		return fastTest(call)
	}
	if mirrored[call.FunctionName()] == "" {
		return nil
	}
	a, b := call.Args()[0], call.Args()[1]
	if x, y := textOf(a), textOf(b); x != nil && y != nil {
		holds := ordered(call.FunctionName())
		return func(s source) verdict { return verdictOf(holds(strings.Compare(x(s), y(s)))) }
	}
	if x, y := numberOfExpr(a), numberOfExpr(b); x != nil && y != nil {
		holds := ordered(call.FunctionName())
		return func(s source) verdict {
			m, ok := x(s)
			n, also := y(s)
			if !ok || !also {
				return fault
			}
			order := 0
			if m < n {
				order = -1
			} else if m > n {
				order = 1
			}
			return verdictOf(holds(order))
		}
	}
	return nil
}

// ordered says which orders of two values a comparison holds for.
func ordered(name string) func(int) bool {
	switch name {
	case operators.Equals:
		return func(o int) bool { return o == 0 }
	case operators.NotEquals:
		return func(o int) bool { return o != 0 }
	case operators.Less:
		return func(o int) bool { return o < 0 }
	case operators.LessEquals:
		return func(o int) bool { return o <= 0 }
	case operators.Greater:
		return func(o int) bool { return o > 0 }
	}
	return func(o int) bool { return o >= 0 }
}

// fastTest is path.startsWith(dir) and its like.
func fastTest(call ast.CallExpr) fastTruth {
	test := texts[call.FunctionName()]
	if test == nil || len(call.Args()) != 1 {
		return nil
	}
	x, y := textOf(call.Target()), textOf(call.Args()[0])
	if x == nil || y == nil {
		return nil
	}
	return func(s source) verdict { return verdictOf(test(x(s), y(s))) }
}

func textOf(e ast.Expr) fastText {
	switch e.Kind() {
	case ast.LiteralKind:
		if v, ok := e.AsLiteral().(types.String); ok {
			return func(source) string { return string(v) }
		}
	case ast.IdentKind:
		if f, ok := fieldOf[e.AsIdent()]; ok && fields[f].kind == text {
			return func(s source) string { return s.text(f) }
		}
	case ast.CallKind:
		return textCall(e.AsCall())
	}
	return nil
}

func textCall(call ast.CallExpr) fastText {
	switch {
	case !call.IsMemberFunction() && call.FunctionName() == operators.Add:
		if x, y := textOf(call.Args()[0]), textOf(call.Args()[1]); x != nil && y != nil {
			return func(s source) string { return x(s) + y(s) }
		}
	case call.IsMemberFunction() && call.FunctionName() == "base" && len(call.Args()) == 0:
		if x := textOf(call.Target()); x != nil {
			return func(s source) string { return base(x(s)) }
		}
	}
	return nil
}

func numberOfExpr(e ast.Expr) fastNumber {
	switch e.Kind() {
	case ast.LiteralKind:
		if v, ok := e.AsLiteral().(types.Int); ok {
			return func(source) (int64, bool) { return int64(v), true }
		}
	case ast.IdentKind:
		if f, ok := fieldOf[e.AsIdent()]; ok && fields[f].kind == whole {
			return func(s source) (int64, bool) { return s.number(f), true }
		}
	case ast.CallKind:
		return numberCall(e.AsCall())
	}
	return nil
}

func numberCall(call ast.CallExpr) fastNumber {
	if call.FunctionName() == "size" {
		of := call.Target()
		if !call.IsMemberFunction() {
			of = call.Args()[0]
		}
		if x := textOf(of); x != nil {
			return func(s source) (int64, bool) { return int64(utf8.RuneCountInString(x(s))), true }
		}
		return nil
	}
	do := arithmetic[call.FunctionName()]
	if do == nil || call.IsMemberFunction() || len(call.Args()) != 2 {
		return nil
	}
	x, y := numberOfExpr(call.Args()[0]), numberOfExpr(call.Args()[1])
	if x == nil || y == nil {
		return nil
	}
	return func(s source) (int64, bool) {
		m, ok := x(s)
		n, also := y(s)
		if !ok || !also {
			return 0, false
		}
		return do(m, n)
	}
}

// arithmetic has no value where the result is too large, as CEL's.
var arithmetic = map[string]func(a, b int64) (int64, bool){
	operators.Add:      func(a, b int64) (int64, bool) { c := a + b; return c, (c > a) == (b > 0) || b == 0 },
	operators.Subtract: func(a, b int64) (int64, bool) { c := a - b; return c, (c < a) == (b > 0) || b == 0 },
	operators.Multiply: func(a, b int64) (int64, bool) {
		if a == 0 || b == 0 {
			return 0, true
		}
		c := a * b
		return c, c/b == a && (a != -1 || b != math.MinInt64) && (b != -1 || a != math.MinInt64)
	},
	operators.Divide: func(a, b int64) (int64, bool) {
		if b == 0 || a == math.MinInt64 && b == -1 {
			return 0, false
		}
		return a / b, true
	},
	operators.Modulo: func(a, b int64) (int64, bool) {
		if b == 0 || a == math.MinInt64 && b == -1 {
			return 0, false
		}
		return a % b, true
	},
}

package query

import (
	"slices"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"

	"github.com/muster-ci/muster/internal/trace"
)

// conjuncts are the parts that all have to be true, in the order in which they stand.
func conjuncts(e ast.Expr) []ast.Expr {
	if isCall(e, operators.LogicalAnd) {
		var out []ast.Expr
		for _, a := range e.AsCall().Args() {
			out = append(out, conjuncts(a)...)
		}
		return out
	}
	return []ast.Expr{e}
}

func isCall(e ast.Expr, name string) bool {
	return e.Kind() == ast.CallKind && e.AsCall().FunctionName() == name && !e.AsCall().IsMemberFunction()
}

// typesOf are the types of events that the conjuncts leave; nil if none speaks of it.
func typesOf(checked *cel.Ast) []trace.Type {
	var left []trace.Type
	said := false
	for _, c := range conjuncts(checked.NativeRep().Expr()) {
		names, ok := demanded(c)
		if !ok {
			continue
		}
		var these []trace.Type
		for _, n := range names {
			if t := trace.Type(n); !said || slices.Contains(left, t) {
				these = append(these, t)
			}
		}
		left, said = these, true
	}
	if said && left == nil {
		return []trace.Type{} // contradictions: nothing can match
	}
	return left
}

// demanded are the types in type == "a" or type in ["a", "b"].
func demanded(e ast.Expr) ([]string, bool) {
	isType := func(e ast.Expr) bool { return e.Kind() == ast.IdentKind && e.AsIdent() == "type" }
	if isCall(e, operators.Equals) {
		a, b := e.AsCall().Args()[0], e.AsCall().Args()[1]
		if isType(b) {
			a, b = b, a
		}
		if names := constants(b); isType(a) && b.Kind() == ast.LiteralKind && len(names) == 1 {
			return names, true
		}
	}
	if isCall(e, operators.In) && isType(e.AsCall().Args()[0]) {
		if l := e.AsCall().Args()[1]; l.Kind() == ast.ListKind && len(constants(l)) == len(l.AsList().Elements()) {
			return constants(l), true
		}
	}
	return nil, false
}

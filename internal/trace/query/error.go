package query

import (
	"fmt"
	"regexp"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
)

// Error is what is wrong with an expression, and where.
type Error struct {
	Expr    string
	Line    int // from 1
	Column  int // from 0, in characters
	Message string
	// Remedy says what to write instead.
	Remedy string
}

// Error is the message, the line of the expression with a caret below the place, and the
// remedy.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (line %d, column %d)", e.Message, e.Line, e.Column+1)
	if lines := strings.Split(e.Expr, "\n"); e.Line >= 1 && e.Line <= len(lines) {
		line := strings.ReplaceAll(lines[e.Line-1], "\t", " ")
		fmt.Fprintf(&b, "\n  %s\n  %s^", line, strings.Repeat(" ", e.Column))
	}
	if e.Remedy != "" {
		b.WriteString("\n" + e.Remedy)
	}
	return b.String()
}

// explain makes an Error of the first thing that CEL found wrong.
func explain(expr string, issues *cel.Issues) error {
	errs := issues.Errors()
	if len(errs) == 0 {
		return &Error{Expr: expr, Line: 1, Message: issues.Err().Error()}
	}
	first := errs[0]
	e := &Error{Expr: expr, Line: max(first.Location.Line(), 1), Column: max(first.Location.Column(), 0), Message: first.Message}
	e.Remedy = remedy(expr, e)
	e.Message = strings.TrimPrefix(e.Message, "Syntax error: ")
	if i := strings.Index(e.Message, " expecting {"); i >= 0 {
		e.Message = e.Message[:i] // a list of everything that could stand there
	}
	return e
}

var undeclared = regexp.MustCompile(`undeclared reference to '([^']*)'`)

// remedy says what to do about what CEL says.
func remedy(expr string, e *Error) string {
	rest := strings.TrimSpace(from(expr, e.Line, e.Column))
	switch m := e.Message; {
	case strings.Contains(m, "token recognition error") && strings.HasPrefix(rest, "="):
		return `compare with "==", not with "="`
	case strings.Contains(m, "token recognition error") && (strings.HasPrefix(rest, `"`) || strings.HasPrefix(rest, "'")):
		return "close the quotation mark"
	case strings.Contains(m, "token recognition error") && strings.HasPrefix(rest, "&"), strings.HasPrefix(rest, "and "), strings.HasPrefix(rest, "AND "):
		return `write "&&" for and`
	case strings.Contains(m, "token recognition error") && strings.HasPrefix(rest, "|"), strings.HasPrefix(rest, "or "), strings.HasPrefix(rest, "OR "):
		return `write "||" for or`
	case strings.HasPrefix(rest, "not ") || strings.HasPrefix(rest, "NOT "):
		return `write "!" for not`
	case strings.Contains(m, "mismatched input '<EOF>'"):
		return "the expression ends too early: something is missing at its end"
	case undeclared.MatchString(m):
		return remedyName(undeclared.FindStringSubmatch(m)[1])
	case strings.Contains(m, "found no matching overload"):
		return remedyTypes(m)
	case strings.Contains(m, "expression code point size exceeds"):
		return fmt.Sprintf("an expression has at most %d characters", maxExpression)
	}
	return "docs/traces-query.md describes the language"
}

// from is the expression from a place on.
func from(expr string, line, column int) string {
	lines := strings.Split(expr, "\n")
	if line < 1 || line > len(lines) {
		return ""
	}
	r := []rune(lines[line-1])
	return string(r[min(column, len(r)):])
}

// celsOwn are functions that people look for under another name.
var celsOwn = map[string]string{
	"like": `glob("…*")`, "startswith": "startsWith", "starts_with": "startsWith", "endswith": "endsWith", "ends_with": "endsWith",
	"includes": "contains", "match": "matches", "regex": "matches", "length": "size()", "len": "size()", "lower": "lowerAscii()", "toLower": "lowerAscii()",
	"cidr": "inCIDR", "domain": "inDomain", "any": "exists", "every": "all", "time": "timestamp", "host": "hostname", "file": "path", "ip": "address",
	"cmd": "args", "argv": "args", "dest": "address", "exe": "path", "comm": "command", "user": "uid",
}

func remedyName(name string) string {
	if own, ok := celsOwn[name]; ok {
		return fmt.Sprintf("write %s", own)
	}
	if near := nearest(name); near != "" {
		return fmt.Sprintf("did you mean %s?", near)
	}
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	return "put text in quotation marks; the fields are " + strings.Join(names, ", ")
}

// nearest is the field whose name is at most two changes away, "" if none is.
func nearest(name string) string {
	best, at := "", 3
	for _, f := range fields {
		if d := distance(name, f.name); d < at && d < len(name) {
			best, at = f.name, d
		}
	}
	return best
}

// distance is how many letters have to be changed, put in or left out.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func remedyTypes(m string) string {
	switch {
	case strings.Contains(m, "timestamp, string"):
		return `write a time as timestamp("2026-01-31T12:00:00Z")`
	case strings.Contains(m, "(string, int)"):
		return "put the number in quotation marks, or compare a field that is a number"
	case strings.Contains(m, "(int, string)"):
		return "write the number without quotation marks"
	case strings.Contains(m, "list(string)"):
		return `of a list ask args.exists(a, a.contains("…")), "…" in args, or args.join(" ")`
	}
	return "the two sides are of different types; docs/traces-query.md lists the fields' types"
}

// examine refuses what CEL lets pass and cannot work: a value that is not true or false,
// and constants that are no network or no regular expression.
func examine(expr string, checked *cel.Ast) error {
	native := checked.NativeRep()
	if t := checked.OutputType(); !t.IsExactType(cel.BoolType) {
		return &Error{Expr: expr, Line: 1, Message: fmt.Sprintf("the expression is a %s and not true or false", t),
			Remedy: `compare it with something: port == 443`}
	}
	var wrong *Error
	ast.PostOrderVisit(native.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if message, remedy := constantFault(e); message != "" && wrong == nil {
			at := native.SourceInfo().GetStartLocation(e.AsCall().Args()[0].ID())
			wrong = &Error{Expr: expr, Line: at.Line(), Column: at.Column(), Message: message, Remedy: remedy}
		}
	}))
	if wrong != nil {
		return wrong
	}
	return nil
}

func constantFault(e ast.Expr) (message, remedy string) {
	if e.Kind() != ast.CallKind || len(e.AsCall().Args()) != 1 {
		return "", ""
	}
	for _, s := range constants(e.AsCall().Args()[0]) {
		switch e.AsCall().FunctionName() {
		case "inCIDR":
			if _, err := parseNetwork(s); err != nil {
				return fmt.Sprintf("%q is no network", s), `write it as "10.0.0.0/8" or "2001:db8::/32"`
			}
		case "matches":
			if _, err := regexp.Compile(s); err != nil {
				return fmt.Sprintf("%q is no regular expression: %v", s, err), "the syntax is RE2's: https://github.com/google/re2/wiki/Syntax"
			}
		case "glob":
			if _, ok := alternatives(s); !ok {
				return fmt.Sprintf("%q has too many alternatives in its braces", s), "write several patterns: path.glob([\"…\", \"…\"])"
			}
		}
	}
	return "", ""
}

// constants are the texts that an argument is: one, or a list of them.
func constants(e ast.Expr) []string {
	switch e.Kind() {
	case ast.LiteralKind:
		if s, ok := e.AsLiteral().(types.String); ok {
			return []string{string(s)}
		}
	case ast.ListKind:
		var out []string
		for _, one := range e.AsList().Elements() {
			out = append(out, constants(one)...)
		}
		return out
	}
	return nil
}

package expr

import (
	"fmt"
	"strconv"
	"strings"
)

// maxLength and maxDepth are GitHub's own limits (actions/runner, ExpressionConstants).
const (
	maxLength = 21000
	maxDepth  = 50
)

// SyntaxError is an expression that cannot be read. Offset counts bytes from 0.
type SyntaxError struct {
	Expression string
	Offset     int
	Message    string
}

// Error says what is wrong and where.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s at position %d of expression %q", e.Message, e.Offset+1, e.Expression)
}

// Expression is a parsed expression, safe for concurrent use.
type Expression struct {
	source string
	root   node
}

// Parse reads one expression without its ${{ }}.
func Parse(source string) (x *Expression, err error) {
	if len(source) > maxLength {
		return nil, &SyntaxError{source[:40] + "…", 0, fmt.Sprintf("expression longer than %d characters", maxLength)}
	}
	p := &parser{src: source}
	// A recursive descent reports its error from any depth; the panic never leaves this function.
	defer func() {
		if r := recover(); r != nil {
			se, ok := r.(*SyntaxError)
			if !ok {
				panic(r)
			}
			x, err = nil, se
		}
	}()
	p.next()
	root := p.or(0)
	if p.tok.kind != tEnd {
		p.fail("unexpected %s", p.tok)
	}
	return &Expression{source: source, root: root}, nil
}

// HasStatusCheck says whether the expression calls success, failure, always or
// cancelled; a condition without one means "success() && …".
func (x *Expression) HasStatusCheck() bool {
	found := false
	x.root.walk(func(n node) {
		if c, ok := n.(*call); ok && isStatus(c.name) {
			found = true
		}
	})
	return found
}

// Contexts returns the names of the contexts that the expression mentions, in order, lower case.
func (x *Expression) Contexts() []string {
	var names []string
	x.root.walk(func(n node) {
		if c, ok := n.(*contextRef); ok {
			names = append(names, c.name)
		}
	})
	return names
}

func isStatus(name string) bool {
	switch name {
	case "success", "failure", "always", "cancelled":
		return true
	}
	return false
}

type node interface {
	walk(func(node))
}

type (
	literal    struct{ value any }
	contextRef struct {
		name string
		pos  int
	}
	index struct {
		of, by node
	}
	star struct{ of node } // the object filter .* or [*]
	not  struct{ of node }
	bin  struct {
		op          string
		left, right node
	}
	call struct {
		name string
		args []node
	}
)

func (n *literal) walk(f func(node))    { f(n) }
func (n *contextRef) walk(f func(node)) { f(n) }
func (n *index) walk(f func(node))      { f(n); n.of.walk(f); n.by.walk(f) }
func (n *star) walk(f func(node))       { f(n); n.of.walk(f) }
func (n *not) walk(f func(node))        { f(n); n.of.walk(f) }
func (n *bin) walk(f func(node))        { f(n); n.left.walk(f); n.right.walk(f) }
func (n *call) walk(f func(node)) {
	f(n)
	for _, a := range n.args {
		a.walk(f)
	}
}

type kind int

const (
	tEnd kind = iota
	tName
	tLiteral
	tOp
)

type token struct {
	kind  kind
	text  string
	value any
	pos   int
}

func (t token) String() string {
	if t.kind == tEnd {
		return "end of expression"
	}
	return strconv.Quote(t.text)
}

type parser struct {
	src string
	pos int
	tok token
}

func (p *parser) fail(format string, args ...any) {
	panic(&SyntaxError{p.src, p.tok.pos, fmt.Sprintf(format, args...)})
}

func (p *parser) next() {
	for p.pos < len(p.src) && strings.IndexByte(" \t\r\n", p.src[p.pos]) >= 0 {
		p.pos++
	}
	start := p.pos
	p.tok = token{kind: tEnd, pos: start}
	if start == len(p.src) {
		return
	}
	rest := p.src[start:]
	for _, op := range []string{"&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "(", ")", "[", "]", ",", "*", "."} {
		if strings.HasPrefix(rest, op) && (op != "." || len(rest) < 2 || !isDigit(rest[1]) || p.afterOperand(start)) {
			p.pos += len(op)
			p.tok = token{tOp, op, nil, start}
			return
		}
	}
	switch c := rest[0]; {
	case c == '\'':
		p.quoted(start)
	case isDigit(c) || c == '-' || c == '+' || c == '.':
		end := start + 1
		for end < len(p.src) && (isNameByte(p.src[end]) || p.src[end] == '.' || p.src[end] == '+') {
			end++
		}
		text := p.src[start:end]
		n, ok := parseNumber(text)
		if !ok {
			p.fail("bad number %q", text)
		}
		p.pos = end
		p.tok = token{tLiteral, text, n, start}
	case isLetter(c):
		end := start + 1
		for end < len(p.src) && isNameByte(p.src[end]) {
			end++
		}
		p.pos = end
		p.tok = token{tName, p.src[start:end], nil, start}
	default:
		p.fail("unexpected symbol %q", string([]rune(rest)[:1]))
	}
}

// afterOperand says whether a dot at pos continues an operand (a.1 is refused
// later) rather than starting a number like .5.
func (p *parser) afterOperand(pos int) bool {
	for i := pos - 1; i >= 0; i-- {
		if c := p.src[i]; strings.IndexByte(" \t\r\n", c) < 0 {
			return isNameByte(c) || c == ')' || c == ']' || c == '*' || c == '\''
		}
	}
	return false
}

func (p *parser) quoted(start int) {
	var b strings.Builder
	for i := start + 1; i < len(p.src); i++ {
		if p.src[i] != '\'' {
			b.WriteByte(p.src[i])
			continue
		}
		if i+1 < len(p.src) && p.src[i+1] == '\'' {
			b.WriteByte('\'')
			i++
			continue
		}
		p.pos = i + 1
		p.tok = token{tLiteral, p.src[start:p.pos], b.String(), start}
		return
	}
	p.fail("string is not closed")
}

func isDigit(c byte) bool    { return c >= '0' && c <= '9' }
func isLetter(c byte) bool   { return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' }
func isNameByte(c byte) bool { return isLetter(c) || isDigit(c) || c == '-' }

func (p *parser) op(text string) bool {
	if p.tok.kind == tOp && p.tok.text == text {
		p.next()
		return true
	}
	return false
}

func (p *parser) expect(text string) {
	if !p.op(text) {
		p.fail("expected %q, found %s", text, p.tok)
	}
}

// or, and, equality, comparison, unary, primary: GitHub's precedence from weak to strong.
func (p *parser) or(depth int) node {
	if depth > maxDepth {
		p.fail("expression nested deeper than %d", maxDepth)
	}
	left := p.and(depth)
	for p.op("||") {
		left = &bin{"||", left, p.and(depth)}
	}
	return left
}

func (p *parser) and(depth int) node {
	left := p.equality(depth)
	for p.op("&&") {
		left = &bin{"&&", left, p.equality(depth)}
	}
	return left
}

func (p *parser) equality(depth int) node {
	left := p.comparison(depth)
	for {
		switch {
		case p.op("=="):
			left = &bin{"==", left, p.comparison(depth)}
		case p.op("!="):
			left = &bin{"!=", left, p.comparison(depth)}
		default:
			return left
		}
	}
}

func (p *parser) comparison(depth int) node {
	left := p.unary(depth)
	for {
		op := p.tok.text
		if p.tok.kind != tOp || op != "<" && op != "<=" && op != ">" && op != ">=" {
			return left
		}
		p.next()
		left = &bin{op, left, p.unary(depth)}
	}
}

func (p *parser) unary(depth int) node {
	if depth > maxDepth {
		p.fail("expression nested deeper than %d", maxDepth)
	}
	if p.op("!") {
		return &not{p.unary(depth + 1)}
	}
	return p.postfix(p.primary(depth), depth)
}

func (p *parser) primary(depth int) node {
	t := p.tok
	switch {
	case t.kind == tLiteral:
		p.next()
		return &literal{t.value}
	case p.op("("):
		inner := p.or(depth + 1)
		p.expect(")")
		return inner
	case t.kind == tName:
		p.next()
		lower := strings.ToLower(t.text)
		if p.op("(") {
			return p.call(lower, t, depth)
		}
		switch t.text {
		case "null":
			return &literal{nil}
		case "true":
			return &literal{true}
		case "false":
			return &literal{false}
		case "NaN", "Infinity":
			n, _ := parseNumber(t.text)
			return &literal{n}
		}
		return &contextRef{lower, t.pos}
	}
	p.fail("unexpected %s", t)
	return nil
}

// arity holds the smallest and greatest number of arguments; -1 is no limit.
var arity = map[string][2]int{
	"contains": {2, 2}, "startswith": {2, 2}, "endswith": {2, 2}, "format": {1, -1}, "join": {1, 2},
	"tojson": {1, 1}, "fromjson": {1, 1}, "hashfiles": {1, -1},
	"success": {0, 0}, "failure": {0, 0}, "always": {0, 0}, "cancelled": {0, 0},
}

func (p *parser) call(name string, t token, depth int) node {
	want, known := arity[name]
	if !known {
		p.tok = t
		p.fail("unrecognized function %q", t.text)
	}
	var args []node
	if !p.op(")") {
		for {
			args = append(args, p.or(depth+1))
			if !p.op(",") {
				break
			}
		}
		p.expect(")")
	}
	if len(args) < want[0] || want[1] >= 0 && len(args) > want[1] {
		p.tok = t
		p.fail("wrong number of arguments for %s: %d", t.text, len(args))
	}
	return &call{name, args}
}

func (p *parser) postfix(n node, depth int) node {
	for links := 0; ; links++ {
		if links > maxDepth {
			p.fail("expression nested deeper than %d", maxDepth)
		}
		switch {
		case p.op("."):
			if p.op("*") {
				n = &star{n}
				continue
			}
			if p.tok.kind != tName {
				p.fail("expected a property name, found %s", p.tok)
			}
			n = &index{n, &literal{p.tok.text}}
			p.next()
		case p.op("["):
			if p.op("*") {
				n = &star{n}
			} else {
				n = &index{n, p.or(depth + 1)}
			}
			p.expect("]")
		default:
			return n
		}
	}
}

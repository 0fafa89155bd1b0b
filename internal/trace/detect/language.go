package detect

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"github.com/muster-ci/muster/internal/trace"
)

// ProcessLeft is an event of rules only: a process of the job that still lives when its
// trace ends. It has the process's own fields.
const ProcessLeft trace.Type = "process_left"

// TraceCut is an event of rules only: it follows the last event of a trace that has a
// beginning and no end. It has that event's time, number and step.
const TraceCut trace.Type = "trace_cut"

var allTypes = []trace.Type{
	trace.TraceStart, trace.TraceEnd, trace.StepStart, trace.StepEnd, trace.ProcessExec, trace.ProcessExit,
	trace.NetConnect, trace.DNSQuery, trace.TLSHello, trace.UnixConnect, trace.RawSocket, trace.FileOpen,
	trace.FileWrite, trace.FileDelete, trace.FileRename, trace.MemRead, trace.BPFLoad, trace.ModuleLoad,
	trace.SetUID, trace.Mount, trace.CgroupMove, trace.IOUring, trace.Tamper, trace.Dropped, ProcessLeft,
	trace.NetListen, trace.FileLink, TraceCut,
}

func knownType(t trace.Type) bool { return slices.Contains(allTypes, t) }

// The values that stand for more than a text or a number in expressions.
var (
	processType = cel.OpaqueType("process")
	marksType   = cel.OpaqueType("marks")
)

// language compiles expressions and titles over the variables of scene.
type language struct {
	env   *cel.Env
	sets  map[string]*matcher
	marks map[string]bool
	globs sync.Map // pattern → *pathMatcher
}

func newLanguage(sets map[string]*matcher) (*language, error) {
	l := &language{sets: sets, marks: map[string]bool{}}
	var opts []cel.EnvOption
	for name, v := range variables {
		opts = append(opts, cel.Variable(name, v.celType()))
	}
	opts = append(opts,
		cel.Variable("process", processType), cel.Variable("marks", marksType), ext.Strings(),
		cel.Function("isIn", cel.MemberOverload("string_is_in", []*cel.Type{cel.StringType, cel.StringType}, cel.BoolType, cel.BinaryBinding(l.isIn))),
		cel.Function("glob", cel.MemberOverload("string_glob", []*cel.Type{cel.StringType, cel.StringType}, cel.BoolType, cel.BinaryBinding(func(p, g ref.Val) ref.Val {
			return types.Bool(l.glob(text(g), text(p)))
		}))),
		cel.Function("below", cel.MemberOverload("string_below", []*cel.Type{cel.StringType, cel.StringType}, cel.BoolType, cel.BinaryBinding(func(p, dir ref.Val) ref.Val {
			return types.Bool(below(text(p), text(dir)))
		}))),
		cel.Function("base", cel.MemberOverload("string_base", []*cel.Type{cel.StringType}, cel.StringType, cel.UnaryBinding(func(p ref.Val) ref.Val {
			s := text(p)
			return types.String(s[strings.LastIndexByte(s, '/')+1:])
		}))),
		cel.Function("is", cel.MemberOverload("process_is", []*cel.Type{processType, cel.StringType}, cel.BoolType, cel.BinaryBinding(l.processIs))),
		cel.Function("under", cel.MemberOverload("process_under", []*cel.Type{processType, cel.StringType}, cel.BoolType, cel.BinaryBinding(l.processUnder))),
		cel.Function("has", cel.MemberOverload("marks_has", []*cel.Type{marksType, cel.StringType, cel.StringType}, cel.BoolType, cel.FunctionBinding(marksHas))),
		cel.Function("origin", cel.MemberOverload("marks_origin", []*cel.Type{marksType, cel.StringType, cel.StringType}, cel.StringType, cel.FunctionBinding(marksOrigin))),
	)
	env, err := cel.NewEnv(opts...)
	if err != nil {
		return nil, fmt.Errorf("make the language of rules: %w", err)
	}
	l.env = env
	return l, nil
}

func text(v ref.Val) string { s, _ := v.Value().(string); return s }

func below(p, dir string) bool {
	dir = strings.TrimSuffix(dir, "/")
	return dir != "" && len(p) > len(dir) && p[len(dir)] == '/' && strings.HasPrefix(p, dir)
}

func (l *language) isIn(s, set ref.Val) ref.Val { return types.Bool(l.sets[text(set)].has(text(s))) }

// glob matches one path against one glob, as in sets. A glob that is none matches nothing.
func (l *language) glob(pattern, p string) bool {
	m, ok := l.globs.Load(pattern)
	if !ok {
		made := &pathMatcher{}
		if made.add(pattern) != nil {
			return false
		}
		m, _ = l.globs.LoadOrStore(pattern, made)
	}
	return strings.HasPrefix(p, "/") && m.(*pathMatcher).has(p)
}

func (l *language) processIs(p, set ref.Val) ref.Val {
	n, _ := p.Value().(*node)
	return types.Bool(n != nil && l.sets[text(set)].is(n))
}

func (l *language) processUnder(p, set ref.Val) ref.Val {
	n, _ := p.Value().(*node)
	return types.Bool(n.isUnder(l.sets[text(set)]))
}

func marksHas(args ...ref.Val) ref.Val {
	m, _ := args[0].Value().(*marks)
	return types.Bool(m.has(text(args[1]), text(args[2])))
}

func marksOrigin(args ...ref.Val) ref.Val {
	m, _ := args[0].Value().(*marks)
	return types.String(m.origin(text(args[1]), text(args[2])))
}

// condition is an expression that answers yes or no. first is the variable that the rest
// is joined to by &&, "" if there is none: most events are told from most rules by it.
type condition struct {
	program cel.Program
	first   string
}

// yes evaluates. An expression that fails, which is one that divides by zero or reads
// behind the end of a list, is no.
func (c condition) yes(s *scene) bool {
	switch c.first {
	case "writes":
		if !changes(s.e) {
			return false
		}
	case "reads":
		if !reads(s.e) {
			return false
		}
	}
	v, _, err := c.program.Eval(s)
	return err == nil && v == types.True
}

// leading is the name that an expression begins with, if the rest is joined to it by &&.
func leading(e ast.Expr) string {
	for e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.LogicalAnd {
		e = e.AsCall().Args()[0]
	}
	if e.Kind() == ast.IdentKind {
		return e.AsIdent()
	}
	return ""
}

// compile returns the condition of an expression.
func (l *language) compile(expr string) (condition, error) {
	tree, issues := l.env.Compile(expr)
	if err := issues.Err(); err != nil {
		return condition{}, fmt.Errorf("in %q: %w", strings.TrimSpace(expr), err)
	}
	if tree.OutputType() != cel.BoolType {
		return condition{}, fmt.Errorf("%q gives %s; it must be true or false", expr, tree.OutputType())
	}
	if err := l.namesExist(tree); err != nil {
		return condition{}, fmt.Errorf("in %q: %w", strings.TrimSpace(expr), err)
	}
	program, err := l.env.Program(tree, cel.EvalOptions(cel.OptOptimize))
	return condition{program, leading(tree.NativeRep().Expr())}, err
}

// namesExist finds sets and marks that are misspelt, which would never match.
func (l *language) namesExist(tree *cel.Ast) (err error) {
	ast.PostOrderVisit(tree.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind || err != nil {
			return
		}
		c := e.AsCall()
		name := func() (string, bool) {
			if len(c.Args()) == 0 || c.Args()[0].Kind() != ast.LiteralKind {
				err = fmt.Errorf("%s wants a name in quotes", c.FunctionName())
				return "", false
			}
			s, ok := c.Args()[0].AsLiteral().Value().(string)
			return s, ok
		}
		switch c.FunctionName() {
		case "glob":
			if s, ok := name(); ok {
				err = new(pathMatcher).add(s)
			}
		case "isIn", "is", "under":
			if s, ok := name(); ok && l.sets[s] == nil {
				err = fmt.Errorf("there is no set %q", s)
			}
		case "has", "origin":
			if s, ok := name(); ok && !l.marks[s] {
				err = fmt.Errorf("there is no mark %q", s)
			}
		}
	}))
	return err
}

// opaque hands a value of ours through expressions.
type opaque struct {
	types.Null
	kind  *types.Type
	value any
}

// Type is the value's type in expressions.
func (o opaque) Type() ref.Type { return o.kind }

// Value is what it stands for.
func (o opaque) Value() any { return o.value }

// Equal is never true: there is nothing to compare.
func (o opaque) Equal(ref.Val) ref.Val { return types.False }

// template is text with variables in braces.
type template struct{ parts []part }

type part struct {
	text  string
	name  string // of a variable; "" if the part is text
	stage int    // from 1; 0 is the last
}

// parse reads a template of a rule with so many stages.
func parseTemplate(s string, stages int) (template, error) {
	var t template
	for s != "" {
		before, rest, open := strings.Cut(s, "{")
		if before != "" {
			t.parts = append(t.parts, part{text: before})
		}
		if !open {
			break
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return t, fmt.Errorf("%q: a brace is not closed", s)
		}
		p := part{name: name}
		if n, field, ok := strings.Cut(name, "."); ok {
			stage, err := strconv.Atoi(n)
			if err != nil || stage < 1 || stage > stages {
				return t, fmt.Errorf("{%s}: there are %d stages", name, stages)
			}
			p.name, p.stage = field, stage
		}
		if p.stage == stages {
			p.stage = 0
		}
		if _, ok := variables[p.name]; !ok {
			return t, fmt.Errorf("{%s}: there is no such variable", name)
		}
		t.parts = append(t.parts, p)
		s = after
	}
	return t, nil
}

// fill writes a template with the variables of this moment, and those that were kept.
func (t template) fill(s *scene, kept []map[string]string) string {
	if len(t.parts) == 1 && t.parts[0].stage == 0 && t.parts[0].name != "" {
		return s.text(t.parts[0].name)
	}
	var b strings.Builder
	for _, p := range t.parts {
		switch {
		case p.name == "":
			b.WriteString(p.text)
		case p.stage > 0 && p.stage <= len(kept):
			b.WriteString(kept[p.stage-1][p.name])
		default:
			b.WriteString(s.text(p.name))
		}
	}
	return b.String()
}

// compiled is a rule ready to run. A rule without a sequence is one stage.
type compiled struct {
	Rule
	stages   []stage
	except   []condition
	title    template
	subject  template
	by       template // of the group
	distinct template
	// keeps are the variables of each stage that title and subject ask for later.
	keeps [][]string
}

type stage struct {
	on   []trace.Type
	when condition
	by   template
	tree bool
	// beside the one of the stage before
	beside bool
	// asks are the kinds of facts that the condition wants to be new.
	asks []kind
}

type compiledMark struct {
	name string
	when condition
}

func (c *compiled) types() []trace.Type {
	var out []trace.Type
	for _, s := range c.stages {
		for _, t := range s.on {
			if !slices.Contains(out, t) {
				out = append(out, t)
			}
		}
	}
	return out
}

func (l *language) rule(r Rule) (*compiled, error) {
	c := &compiled{Rule: r}
	given := r.Sequence
	if len(given) == 0 {
		given = []Stage{{On: r.On, When: r.When}}
	}
	for i, g := range given {
		s, err := l.stage(g)
		if err != nil {
			return nil, fmt.Errorf("stage %d: %w", i+1, err)
		}
		c.stages = append(c.stages, s)
	}
	for _, x := range r.Except {
		p, err := l.compile(x.When)
		if err != nil {
			return nil, fmt.Errorf("except: %w", err)
		}
		c.except = append(c.except, p)
	}
	return c, c.templates(len(given))
}

func (l *language) stage(g Stage) (stage, error) {
	for _, t := range g.On {
		if !knownType(t) {
			return stage{}, fmt.Errorf("there are no events of type %q", t)
		}
	}
	when, err := l.compile(g.When)
	if err != nil {
		return stage{}, err
	}
	by, err := parseTemplate(g.By, 1)
	return stage{on: g.On, when: when, by: by, tree: g.Tree, beside: g.Beside, asks: asks(g.When)}, err
}

var asksFor = [kinds]*regexp.Regexp{regexp.MustCompile(`\bnew_host\b`), regexp.MustCompile(`\bnew_binary\b`), regexp.MustCompile(`\bnew_sensitive\b`)}

// asks are the kinds of facts that an expression asks a baseline about.
func asks(expr string) (out []kind) {
	for k := range kinds {
		if asksFor[k].MatchString(expr) {
			out = append(out, k)
		}
	}
	return out
}

func (c *compiled) templates(stages int) error {
	c.keeps = make([][]string, stages)
	read := func(into *template, s string) error {
		t, err := parseTemplate(s, stages)
		if err != nil {
			return err
		}
		for _, p := range t.parts {
			if p.stage > 0 && !slices.Contains(c.keeps[p.stage-1], p.name) {
				c.keeps[p.stage-1] = append(c.keeps[p.stage-1], p.name)
			}
		}
		*into = t
		return nil
	}
	if err := read(&c.title, c.Title); err != nil {
		return fmt.Errorf("title: %w", err)
	}
	if err := read(&c.subject, c.Subject); err != nil {
		return fmt.Errorf("subject: %w", err)
	}
	if c.Group == nil {
		return nil
	}
	if err := read(&c.by, c.Group.By); err != nil {
		return fmt.Errorf("group by: %w", err)
	}
	return read(&c.distinct, c.Group.Distinct)
}

// reversed is the rule with its two stages the other way round: what titles say of the
// first is then of the event that fires, and the other way.
func (c *compiled) reversed() *compiled {
	r := *c
	r.stages = []stage{c.stages[1], c.stages[0]}
	r.stages[0].beside, r.stages[1].beside = false, c.stages[1].beside
	r.keeps = make([][]string, 2)
	r.title, r.subject = c.title.swapped(r.keeps), c.subject.swapped(r.keeps)
	return &r
}

func (t template) swapped(keeps [][]string) template {
	out := template{slices.Clone(t.parts)}
	for i, p := range out.parts {
		if p.name == "" {
			continue
		}
		out.parts[i].stage = 1 - p.stage
		if p.stage == 0 {
			keeps[0] = append(keeps[0], p.name)
		}
	}
	return out
}

package workflow

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rhysd/actionlint"
	"go.yaml.in/yaml/v4"

	"github.com/muster-ci/muster/githubsim/workflow/expr"
)

// maxFile is the most that is read of a workflow file, in bytes. GitHub refuses
// files above 500 KB or so; 1 MiB leaves room and bounds the parser.
const maxFile = 1 << 20

// Parse reads a workflow file. Everything that GitHub would refuse before a run
// starts is in one *ParseError with line and column: bad YAML, unknown keys,
// unreadable expressions, needs of unknown jobs, cycles. Constructs that GitHub
// knows and the simulator does not run are no errors, see Workflow.Unsupported.
func Parse(path string, src []byte) (*Workflow, error) {
	if len(src) > maxFile {
		return nil, &ParseError{path, []Problem{{Pos{1, 1}, fmt.Sprintf("file is longer than %d bytes", maxFile)}}}
	}
	ast, problems := lint(src)
	if len(problems) > 0 || ast == nil {
		if len(problems) == 0 {
			problems = []Problem{{Pos{1, 1}, "file is empty"}}
		}
		return nil, &ParseError{path, problems}
	}
	r := &reader{kinds: kindsOf(src), wf: &Workflow{Path: path}}
	r.workflow(ast)
	r.checkNeeds()
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, byPos)
		return nil, &ParseError{path, r.problems}
	}
	slices.SortStableFunc(r.wf.Unsupported, byPos)
	return r.wf, nil
}

func byPos(a, b Problem) int {
	return cmp.Or(cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Column, b.Pos.Column))
}

// lint runs the parser of actionlint. A panic of it on a hostile file becomes a
// problem of that file, because the simulator parses whatever a repository holds.
func lint(src []byte) (ast *actionlint.Workflow, problems []Problem) {
	defer func() {
		if r := recover(); r != nil {
			ast, problems = nil, []Problem{{Pos{1, 1}, fmt.Sprintf("file cannot be parsed: %v", r)}}
		}
	}()
	ast, errs := actionlint.Parse(src)
	for _, e := range errs {
		problems = append(problems, Problem{Pos{e.Line, e.Column}, e.Message})
	}
	return ast, problems
}

// kindsOf finds the YAML tag of every plain scalar by its place: the linter's
// tree keeps only texts, and a matrix must tell 1.20 from "1.20".
func kindsOf(src []byte) map[Pos]*yaml.Node {
	kinds := map[Pos]*yaml.Node{}
	var root yaml.Node
	if err := yaml.Unmarshal(src, &root); err != nil {
		return kinds
	}
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		if n.Kind == yaml.ScalarNode {
			kinds[Pos{n.Line, n.Column}] = n
		}
		for _, c := range n.Content { // aliases are not followed: their anchors are walked
			walk(c)
		}
	}
	walk(&root)
	return kinds
}

// reader turns the linter's tree into ours and collects what is wrong or unsupported.
type reader struct {
	wf       *Workflow
	kinds    map[Pos]*yaml.Node
	problems []Problem
}

func place(p *actionlint.Pos) Pos {
	if p == nil {
		return Pos{1, 1}
	}
	return Pos{p.Line, p.Col}
}

func (r *reader) wrong(p *actionlint.Pos, format string, args ...any) {
	r.problems = append(r.problems, Problem{place(p), fmt.Sprintf(format, args...)})
}

func (r *reader) unsupported(job *Job, p *actionlint.Pos, what string) {
	r.wf.Unsupported = append(r.wf.Unsupported, Problem{place(p), what})
	if job != nil {
		job.unsupported = append(job.unsupported, what)
	}
}

// text returns a value and checks its expressions.
func (r *reader) text(s *actionlint.String) string {
	if s == nil {
		return ""
	}
	if err := expr.Check(s.Value, false); err != nil {
		r.wrong(s.Pos, "%v", err)
	}
	return s.Value
}

func (r *reader) condition(s *actionlint.String) string {
	if s == nil {
		return ""
	}
	if err := expr.Check(s.Value, true); err != nil {
		r.wrong(s.Pos, "%v", err)
	}
	return s.Value
}

func (r *reader) boolean(b *actionlint.Bool) string {
	switch {
	case b == nil:
		return ""
	case b.Expression != nil:
		return r.text(b.Expression)
	}
	return strconv.FormatBool(b.Value)
}

func (r *reader) number(f *actionlint.Float) string {
	switch {
	case f == nil:
		return ""
	case f.Expression != nil:
		return r.text(f.Expression)
	}
	return strconv.FormatFloat(f.Value, 'f', -1, 64)
}

func (r *reader) env(job *Job, e *actionlint.Env) map[string]string {
	if e == nil {
		return nil
	}
	if e.Expression != nil {
		r.unsupported(job, e.Expression.Pos, "env as one expression")
		return nil
	}
	out := make(map[string]string, len(e.Vars))
	for _, v := range e.Vars {
		if v.Name != nil {
			out[v.Name.Value] = r.text(v.Value)
		}
	}
	return out
}

func (r *reader) defaults(d *actionlint.Defaults) Defaults {
	if d == nil || d.Run == nil {
		return Defaults{}
	}
	return Defaults{Shell: r.text(d.Run.Shell), WorkingDirectory: r.text(d.Run.WorkingDirectory)}
}

func (r *reader) concurrency(c *actionlint.Concurrency) *Concurrency {
	if c == nil {
		return nil
	}
	return &Concurrency{Group: r.text(c.Group), CancelInProgress: r.boolean(c.CancelInProgress)}
}

func (r *reader) workflow(ast *actionlint.Workflow) {
	w := r.wf
	w.Name = w.Path
	if ast.Name != nil && ast.Name.Value != "" {
		w.Name = ast.Name.Value
	}
	w.RunName = r.text(ast.RunName)
	for _, e := range ast.On {
		r.trigger(e)
	}
	w.Env = r.env(nil, ast.Env)
	w.Defaults = r.defaults(ast.Defaults)
	w.Concurrency = r.concurrency(ast.Concurrency)
	for _, j := range ast.Jobs {
		if j != nil && j.ID != nil {
			w.Jobs = append(w.Jobs, r.job(j))
		}
	}
	// The linter keeps jobs in a map; their places give back the order of the file.
	slices.SortFunc(w.Jobs, func(a, b *Job) int {
		return cmp.Or(cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Column, b.Pos.Column), cmp.Compare(a.Key, b.Key))
	})
}

func (r *reader) trigger(e actionlint.Event) {
	t := Trigger{Event: e.EventName()}
	switch e := e.(type) {
	case *actionlint.WebhookEvent:
		t.Types = values(e.Types)
		t.Branches, t.BranchesIgnore = filter(e.Branches), filter(e.BranchesIgnore)
		t.Tags, t.TagsIgnore = filter(e.Tags), filter(e.TagsIgnore)
		t.Paths, t.PathsIgnore = filter(e.Paths), filter(e.PathsIgnore)
		t.Workflows = values(e.Workflows)
		t.hasBranchFilter = e.Branches != nil || e.BranchesIgnore != nil
		t.hasTagFilter = e.Tags != nil || e.TagsIgnore != nil
	case *actionlint.ScheduledEvent:
		for _, s := range e.Schedules {
			if s.Cron != nil {
				t.Cron = append(t.Cron, s.Cron.Value)
			}
		}
	case *actionlint.WorkflowDispatchEvent:
		t.Inputs = map[string]Input{}
		for key, in := range e.Inputs {
			if in.Name != nil {
				key = in.Name.Value
			}
			x := Input{Type: inputTypes[in.Type], Options: values(in.Options), Required: in.Required != nil && in.Required.Value}
			if in.Default != nil {
				x.Default = in.Default.Value
			}
			t.Inputs[key] = x
		}
	case *actionlint.RepositoryDispatchEvent:
		t.Types = values(e.Types)
	case *actionlint.WorkflowCallEvent:
		r.unsupported(nil, e.Pos, "on: workflow_call")
	case *actionlint.ImageVersionEvent:
		r.unsupported(nil, e.Pos, "on: image_version")
	}
	r.wf.Triggers = append(r.wf.Triggers, t)
}

var inputTypes = map[actionlint.WorkflowDispatchEventInputType]string{
	actionlint.WorkflowDispatchEventInputTypeNone:        "string",
	actionlint.WorkflowDispatchEventInputTypeString:      "string",
	actionlint.WorkflowDispatchEventInputTypeNumber:      "number",
	actionlint.WorkflowDispatchEventInputTypeBoolean:     "boolean",
	actionlint.WorkflowDispatchEventInputTypeChoice:      "choice",
	actionlint.WorkflowDispatchEventInputTypeEnvironment: "environment",
}

func values(list []*actionlint.String) []string {
	var out []string
	for _, s := range list {
		if s != nil {
			out = append(out, s.Value)
		}
	}
	return out
}

func filter(f *actionlint.WebhookEventFilter) []string {
	if f == nil {
		return nil
	}
	return values(f.Values)
}

func (r *reader) job(j *actionlint.Job) *Job {
	out := &Job{Pos: place(j.Pos), Key: j.ID.Value, Name: r.text(j.Name), If: r.condition(j.If), Needs: values(j.Needs)}
	out.Env = r.env(out, j.Env)
	out.Defaults = r.defaults(j.Defaults)
	out.Concurrency = r.concurrency(j.Concurrency)
	out.TimeoutMinutes = r.number(j.TimeoutMinutes)
	out.ContinueOnError = r.boolean(j.ContinueOnError)
	if len(j.Outputs) > 0 {
		out.Outputs = map[string]string{}
		for _, o := range j.Outputs {
			if o.Name != nil {
				out.Outputs[o.Name.Value] = r.text(o.Value)
			}
		}
	}
	if j.RunsOn != nil {
		for _, l := range j.RunsOn.Labels {
			out.RunsOn.Labels = append(out.RunsOn.Labels, r.text(l))
		}
		out.RunsOn.Expression = r.text(j.RunsOn.LabelsExpr)
		out.RunsOn.Group = r.text(j.RunsOn.Group)
	}
	if j.Environment != nil {
		out.Environment = &Environment{Name: r.text(j.Environment.Name), URL: r.text(j.Environment.URL)}
	}
	if s := j.Strategy; s != nil {
		out.FailFast = r.boolean(s.FailFast)
		if s.MaxParallel != nil {
			out.MaxParallel = strconv.Itoa(s.MaxParallel.Value)
			if s.MaxParallel.Expression != nil {
				out.MaxParallel = r.text(s.MaxParallel.Expression)
			}
		}
		if s.Matrix != nil {
			out.Matrix = r.matrix(s.Matrix)
		}
	}
	if j.Container != nil {
		r.unsupported(out, j.Container.Pos, "container")
	}
	if j.Services != nil {
		r.unsupported(out, j.Services.Pos, "services")
	}
	if j.Snapshot != nil {
		r.unsupported(out, j.Pos, "snapshot")
	}
	if j.WorkflowCall != nil {
		r.unsupported(out, j.WorkflowCall.Uses.Pos, "reusable workflow "+j.WorkflowCall.Uses.Value)
	}
	for _, s := range j.Steps {
		if s != nil {
			out.Steps = append(out.Steps, r.step(out, s))
		}
	}
	return out
}

func (r *reader) step(job *Job, s *actionlint.Step) Step {
	out := Step{Name: r.text(s.Name), If: r.condition(s.If), ContinueOnError: r.boolean(s.ContinueOnError),
		TimeoutMinutes: r.number(s.TimeoutMinutes), Env: r.env(job, s.Env)}
	if s.ID != nil {
		out.ID = s.ID.Value
	}
	switch e := s.Exec.(type) {
	case *actionlint.ExecRun:
		out.Run, out.Shell, out.WorkingDirectory = r.text(e.Run), r.text(e.Shell), r.text(e.WorkingDirectory)
	case *actionlint.ExecAction:
		out.Uses = r.text(e.Uses)
		if e.Uses != nil && !strings.HasPrefix(strings.ToLower(e.Uses.Value), "actions/checkout@") {
			r.unsupported(job, e.Uses.Pos, "uses: "+e.Uses.Value)
		}
		if len(e.Inputs) > 0 {
			out.With = map[string]string{}
			for _, in := range e.Inputs {
				if in.Name != nil {
					out.With[in.Name.Value] = r.text(in.Value)
				}
			}
		}
	}
	return out
}

func (r *reader) matrix(m *actionlint.Matrix) *Matrix {
	out := &Matrix{Expression: r.text(m.Expression), Include: r.cells(m.Include), Exclude: r.cells(m.Exclude)}
	// The linter gives a row that is one expression no name but the key of its map, which is in lower case.
	type named struct {
		name string
		at   Pos
		row  *actionlint.MatrixRow
	}
	var rows []named
	for key, row := range m.Rows {
		switch {
		case row == nil:
		case row.Name != nil:
			rows = append(rows, named{row.Name.Value, place(row.Name.Pos), row})
		case row.Expression != nil:
			rows = append(rows, named{key, place(row.Expression.Pos), row})
		}
	}
	slices.SortFunc(rows, func(a, b named) int {
		return cmp.Or(cmp.Compare(a.at.Line, b.at.Line), cmp.Compare(a.at.Column, b.at.Column), strings.Compare(a.name, b.name))
	})
	for _, n := range rows {
		x := Row{Name: n.name, Expression: r.text(n.row.Expression)}
		for _, v := range n.row.Values {
			x.Values = append(x.Values, r.value(v))
		}
		out.Rows = append(out.Rows, x)
	}
	return out
}

func comparePos(a, b *actionlint.String) int {
	pa, pb := place(a.Pos), place(b.Pos)
	return cmp.Or(cmp.Compare(pa.Line, pb.Line), cmp.Compare(pa.Column, pb.Column), strings.Compare(a.Value, b.Value))
}

func (r *reader) cells(c *actionlint.MatrixCombinations) Cells {
	if c == nil {
		return Cells{}
	}
	out := Cells{Expression: r.text(c.Expression)}
	for _, entry := range c.Combinations {
		if entry == nil {
			continue
		}
		x := Cell{Expression: r.text(entry.Expression), Values: map[string]any{}}
		assigns := make([]*actionlint.MatrixAssign, 0, len(entry.Assigns))
		for _, a := range entry.Assigns {
			if a != nil && a.Key != nil {
				assigns = append(assigns, a)
			}
		}
		slices.SortFunc(assigns, func(a, b *actionlint.MatrixAssign) int { return comparePos(a.Key, b.Key) })
		for _, a := range assigns {
			x.Keys = append(x.Keys, a.Key.Value)
			x.Values[a.Key.Value] = r.value(a.Value)
		}
		out.Entries = append(out.Entries, x)
	}
	return out
}

// value gives a literal of the matrix its type back.
func (r *reader) value(v actionlint.RawYAMLValue) any {
	switch v := v.(type) {
	case *actionlint.RawYAMLObject:
		out := make(map[string]any, len(v.Props))
		for k, e := range v.Props {
			out[k] = r.value(e)
		}
		return out
	case *actionlint.RawYAMLArray:
		out := make([]any, 0, len(v.Elems))
		for _, e := range v.Elems {
			out = append(out, r.value(e))
		}
		return out
	case *actionlint.RawYAMLString:
		if err := expr.Check(v.Value, false); err != nil {
			r.wrong(v.Pos(), "%v", err)
		}
		n := r.kinds[place(v.Pos())]
		if n == nil || n.Value != v.Value {
			return v.Value
		}
		switch n.ShortTag() {
		case "!!null":
			return nil
		case "!!bool":
			return strings.EqualFold(v.Value, "true")
		case "!!int":
			var i int64
			if n.Decode(&i) == nil {
				return float64(i)
			}
		case "!!float":
			var f float64
			if n.Decode(&f) == nil {
				return f
			}
		}
		return v.Value
	}
	return nil
}

// checkNeeds refuses needs of unknown jobs and cycles, which GitHub finds before a run starts.
func (r *reader) checkNeeds() {
	if len(r.wf.Jobs) == 0 && len(r.problems) == 0 {
		r.problems = append(r.problems, Problem{Pos{1, 1}, "no jobs"})
	}
	const (
		fresh = iota
		open
		done
	)
	state := map[*Job]int{}
	var visit func(j *Job) error
	visit = func(j *Job) error {
		switch state[j] {
		case open:
			return errors.New("needs of this job lead back to it")
		case done:
			return nil
		}
		state[j] = open
		for _, key := range j.Needs {
			needed := r.wf.Job(key)
			if needed == nil {
				return fmt.Errorf("job %q depends on unknown job %q", j.Key, key)
			}
			if err := visit(needed); err != nil {
				return err
			}
		}
		state[j] = done
		return nil
	}
	for _, j := range r.wf.Jobs {
		if err := visit(j); err != nil {
			r.problems = append(r.problems, Problem{j.Pos, err.Error()})
			return
		}
	}
}

package workflow_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster/githubsim/workflow"
)

func parse(t *testing.T, src string) *workflow.Workflow {
	t.Helper()
	w, err := workflow.Parse(".github/workflows/ci.yml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func start(t *testing.T, w *workflow.Workflow, key string, st workflow.State) []workflow.Instance {
	t.Helper()
	r, err := w.Resolve(key, st)
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict != workflow.Start {
		t.Fatalf("verdict of %s is %v, want Start", key, r.Verdict)
	}
	return r.Instances
}

func names(list []workflow.Instance) []string {
	var out []string
	for _, in := range list {
		out = append(out, in.Name)
	}
	return out
}

func TestMatrix(t *testing.T) {
	for name, c := range map[string]struct {
		strategy string
		want     []string
	}{
		"Product":                  {"matrix: {go: [1.22, \"1.20\"], os: [linux, mac]}", []string{"build (1.22, linux)", "build (1.22, mac)", "build (1.20, linux)", "build (1.20, mac)"}},
		"UnquotedNumbersAreShort":  {"matrix: {go: [1.20]}", []string{"build (1.2)"}},
		"Exclude":                  {"matrix: {a: [1, 2], b: [x, y], exclude: [{a: 1, b: y}, {a: 2}]}", []string{"build (1, x)"}},
		"IncludeExtends":           {"matrix: {a: [1, 2], include: [{a: 1, extra: z}]}", []string{"build (1, z)", "build (2)"}},
		"IncludeAdds":              {"matrix: {a: [1], include: [{a: 3, b: w}]}", []string{"build (1)", "build (3, w)"}},
		"IncludeToAll":             {"matrix: {fruit: [apple, pear], include: [{color: green}, {color: pink, fruit: apple}]}", []string{"build (apple, pink)", "build (pear, green)"}},
		"IncludeOnly":              {"matrix: {include: [{site: prod}, {site: dev}]}", []string{"build (prod)", "build (dev)"}},
		"Expression":               {"matrix: {n: \"${{ fromJSON('[1,2,3]') }}\"}", []string{"build (1)", "build (2)", "build (3)"}},
		"WholeExpression":          {"matrix: \"${{ fromJSON(inputs.m) }}\"", []string{"build (p, 1)", "build (q, 1)"}},
		"BooleansAndObjects":       {"matrix: {fast: [true], os: [{name: linux, arch: x64}]}", []string{"build (true, x64, linux)"}},
		"ExpressionInsideOfARowIs": {"matrix: {r: [\"${{ github.ref_name }}\"]}", []string{"build (main)"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := parse(t, "on: push\njobs:\n  build:\n    runs-on: x\n    strategy:\n      "+c.strategy+"\n    steps: [{run: 'true'}]\n")
			st := workflow.State{Run: workflow.Run{Ref: "refs/heads/main", Inputs: map[string]any{"m": `{"a":["p","q"],"b":[1]}`}}}
			if d := cmp.Diff(c.want, names(start(t, w, "build", st))); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestRunsOn(t *testing.T) {
	for runsOn, want := range map[string]struct {
		labels []string
		group  string
	}{
		"self-hosted":                                   {[]string{"self-hosted"}, ""},
		"[self-hosted, Linux, x64]":                     {[]string{"self-hosted", "Linux", "x64"}, ""},
		"{group: big, labels: [gpu]}":                   {[]string{"gpu"}, "big"},
		"{group: big}":                                  {nil, "big"},
		"{labels: solo}":                                {[]string{"solo"}, ""},
		"\"${{ matrix.os }}\"":                          {[]string{"linux"}, ""},
		"[self-hosted, \"${{ matrix.os }}\"]":           {[]string{"self-hosted", "linux"}, ""},
		"\"${{ fromJSON('[\\\"a\\\", \\\"b\\\"]') }}\"": {[]string{"a", "b"}, ""},
		"[\"run-${{ github.run_id }}\"]":                {[]string{"run-77"}, ""},
	} {
		t.Run(runsOn, func(t *testing.T) {
			w := parse(t, "on: push\njobs:\n  j:\n    runs-on: "+runsOn+"\n    strategy: {matrix: {os: [linux]}}\n    steps: [{run: 'true'}]\n")
			in := start(t, w, "j", workflow.State{Run: workflow.Run{ID: 77}})[0]
			if d := cmp.Diff(want.labels, in.Labels); len(want.labels)+len(in.Labels) > 0 && d != "" {
				t.Errorf("labels (-want +got)\n%s", d)
			}
			if in.Group != want.group {
				t.Errorf("group %q, want %q", in.Group, want.group)
			}
		})
	}
}

const chain = `
on: push
jobs:
  a: {runs-on: x, steps: [{run: 'true'}]}
  b: {runs-on: x, needs: a, steps: [{run: 'true'}]}
  c: {runs-on: x, needs: [b], steps: [{run: 'true'}]}
  report: {runs-on: x, needs: [a, b], if: always(), steps: [{run: 'true'}]}
  rescue: {runs-on: x, needs: b, if: "${{ failure() }}", steps: [{run: 'true'}]}
  after: {runs-on: x, needs: report, steps: [{run: 'true'}]}
  never: {runs-on: x, if: github.ref == 'refs/heads/other', steps: [{run: 'true'}]}
  tidy: {runs-on: x, needs: a, if: cancelled(), steps: [{run: 'true'}]}
`

func TestVerdicts(t *testing.T) {
	w := parse(t, chain)
	ok, bad, skip := workflow.Result{Conclusion: "success"}, workflow.Result{Conclusion: "failure"}, workflow.Result{Conclusion: "skipped"}
	type results = map[string]workflow.Result
	for name, c := range map[string]struct {
		job       string
		done      results
		cancelled bool
		want      workflow.Verdict
	}{
		"FirstStarts":                      {"a", nil, false, workflow.Start},
		"NeedsWait":                        {"b", nil, false, workflow.Wait},
		"NeedsDone":                        {"b", results{"a": ok}, false, workflow.Start},
		"NeedFailed":                       {"b", results{"a": bad}, false, workflow.Skip},
		"SkippedSkips":                     {"c", results{"a": bad, "b": skip}, false, workflow.Skip},
		"AlwaysWaitsToo":                   {"report", results{"a": ok}, false, workflow.Wait},
		"AlwaysRuns":                       {"report", results{"a": bad, "b": skip}, false, workflow.Start},
		"FailureOfAnAncestor":              {"rescue", results{"a": bad, "b": skip}, false, workflow.Start},
		"NoFailure":                        {"rescue", results{"a": ok, "b": ok}, false, workflow.Skip},
		"SkippedAncestorSkipsLater":        {"after", results{"a": ok, "b": skip, "report": ok}, false, workflow.Skip},
		"IfFalse":                          {"never", nil, false, workflow.Skip},
		"CancelledRunSkips":                {"b", results{"a": ok}, true, workflow.Skip},
		"CancelledRunStartsCancelledJob":   {"tidy", results{"a": ok}, true, workflow.Start},
		"CancelledRunStartsAlways":         {"report", results{"a": ok, "b": ok}, true, workflow.Start},
		"WithoutCancelTheCancelledJobSkip": {"tidy", results{"a": ok}, false, workflow.Skip},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := w.Resolve(c.job, workflow.State{Run: workflow.Run{Ref: "refs/heads/main"}, Results: c.done, Cancelled: c.cancelled})
			if err != nil || r.Verdict != c.want {
				t.Errorf("got %v, %v, want %v", r.Verdict, err, c.want)
			}
		})
	}
}

func TestCombine(t *testing.T) {
	type in = workflow.InstanceResult
	for _, c := range []struct {
		list []in
		want string
	}{
		{nil, "skipped"},
		{[]in{{Conclusion: "success"}, {Conclusion: "skipped"}}, "success"},
		{[]in{{Conclusion: "success"}, {Conclusion: "cancelled"}}, "cancelled"},
		{[]in{{Conclusion: "cancelled"}, {Conclusion: "failure"}}, "failure"},
		{[]in{{Conclusion: "failure", ContinueOnError: true}}, "success"},
		{[]in{{Conclusion: "timed_out"}}, "failure"},
	} {
		if got := workflow.Combine(c.list...).Conclusion; got != c.want {
			t.Errorf("Combine(%v) = %s, want %s", c.list, got, c.want)
		}
	}
	got := workflow.Combine(in{Conclusion: "success", Outputs: map[string]string{"v": "1", "w": "x"}}, in{Conclusion: "success", Outputs: map[string]string{"v": "2", "w": ""}})
	if d := cmp.Diff(map[string]string{"v": "2", "w": "x"}, got.Outputs); d != "" {
		t.Error(d)
	}
}

func TestOutputsMakeTheNextMatrix(t *testing.T) {
	w := parse(t, `
name: Dynamic
on: {workflow_dispatch: {inputs: {fast: {type: boolean, default: "true"}}}}
env: {A: "${{ github.sha }}"}
defaults: {run: {shell: sh}}
jobs:
  setup:
    runs-on: x
    outputs: {list: "${{ steps.s.outputs.list }}"}
    steps: [{id: s, run: echo}]
  test:
    name: test ${{ matrix.n }} of ${{ strategy.job-total }}
    needs: setup
    runs-on: [self-hosted, "n${{ matrix.n }}"]
    timeout-minutes: ${{ matrix.n }}
    continue-on-error: ${{ matrix.n == 2 }}
    environment: {name: "stage-${{ matrix.n }}", url: "https://example.com"}
    concurrency: {group: "g-${{ matrix.n }}", cancel-in-progress: true}
    defaults: {run: {working-directory: sub}}
    env: {B: job}
    strategy:
      fail-fast: ${{ inputs.fast }}
      max-parallel: 1
      matrix: {n: "${{ fromJSON(needs.setup.outputs.list) }}"}
    steps:
      - uses: actions/checkout@v4
        with: {path: here}
      - run: echo ${{ matrix.n }}
        timeout-minutes: 0.5
`)
	st := workflow.State{Run: workflow.Run{Event: "workflow_dispatch", Repository: "acme/web", SHA: "abc", Ref: "refs/heads/main"},
		Results: map[string]workflow.Result{"setup": {Conclusion: "success", Outputs: map[string]string{"list": "[1, 2]"}}}}
	got := start(t, w, "test", st)
	want := []workflow.Instance{
		{Key: "test", Name: "test 1 of 2", Labels: []string{"self-hosted", "n1"}, Matrix: map[string]any{"n": 1.0}, Total: 2, FailFast: true, MaxParallel: 1,
			Timeout: time.Minute, Environment: &workflow.Environment{Name: "stage-1", URL: "https://example.com"}, Concurrency: &workflow.Concurrency{Group: "g-1", CancelInProgress: "true"}},
		{Key: "test", Name: "test 2 of 2", Labels: []string{"self-hosted", "n2"}, Matrix: map[string]any{"n": 2.0}, Index: 1, Total: 2, FailFast: true, MaxParallel: 1, ContinueOnError: true,
			Timeout: 2 * time.Minute, Environment: &workflow.Environment{Name: "stage-2", URL: "https://example.com"}, Concurrency: &workflow.Concurrency{Group: "g-2", CancelInProgress: "true"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("(-want +got)\n%s", d)
	}
	msg, err := w.Message(got[1], st)
	if err != nil {
		t.Fatal(err)
	}
	if msg.TimeoutSeconds != 120 || msg.Defaults != (workflow.Defaults{Shell: "sh", WorkingDirectory: "sub"}) || len(msg.Steps) != 2 || msg.Steps[1].TimeoutMinutes != "0.5" {
		t.Errorf("message: %+v", msg)
	}
	if d := cmp.Diff([]map[string]string{{"A": "${{ github.sha }}"}, {"B": "job"}}, msg.Env); d != "" {
		t.Error(d)
	}
	if msg.Contexts.GitHub["workflow"] != "Dynamic" || msg.Contexts.Matrix["n"] != 2.0 {
		t.Errorf("contexts: %+v", msg.Contexts)
	}
}

func TestFileErrorsHaveAPlace(t *testing.T) {
	for name, c := range map[string]struct{ src, want string }{
		"BadYAML":         {"on: push\njobs: [\n", "ci.yml:"},
		"Empty":           {"", "ci.yml:1:1"},
		"UnknownKey":      {"on: push\njobs:\n  a:\n    runs-on: x\n    stepz: []\n    steps: [{run: x}]\n", "ci.yml:5:5"},
		"UnknownNeed":     {"on: push\njobs:\n  a:\n    needs: zz\n    runs-on: x\n    steps: [{run: x}]\n", `ci.yml:3:3: job "a" depends on unknown job "zz"`},
		"Cycle":           {"on: push\njobs:\n  a: {needs: b, runs-on: x, steps: [{run: x}]}\n  b: {needs: a, runs-on: x, steps: [{run: x}]}\n", "lead back"},
		"BadExpression":   {"on: push\njobs:\n  a:\n    runs-on: x\n    steps:\n      - run: echo ${{ 1 + }}\n", "ci.yml:6:14"},
		"BadCondition":    {"on: push\njobs:\n  a:\n    if: foo(\n    runs-on: x\n    steps: [{run: x}]\n", "ci.yml:4:9"},
		"NoTrigger":       {"jobs:\n  a:\n    runs-on: x\n    steps: [{run: x}]\n", `"on" section is missing`},
		"UnknownFunction": {"on: push\njobs:\n  a:\n    runs-on: ${{ nope() }}\n    steps: [{run: x}]\n", `unrecognized function "nope"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := workflow.Parse("ci.yml", []byte(c.src))
			if pe, ok := errors.AsType[*workflow.ParseError](err); !ok || !strings.Contains(pe.Error(), c.want) {
				t.Errorf("got %v, want %q in a *ParseError", err, c.want)
			}
		})
	}
}

func TestUnsupportedIsNamed(t *testing.T) {
	w := parse(t, `
on: [push, workflow_call]
jobs:
  a:
    runs-on: x
    container: alpine:3
    services: {db: {image: postgres}}
    steps:
      - uses: actions/checkout@v4
      - uses: docker://alpine
      - uses: actions/cache@v4
        with: {path: x, key: y}
  b:
    uses: ./.github/workflows/other.yml
`)
	var got []string
	for _, p := range w.Unsupported {
		got = append(got, p.Message)
	}
	want := []string{"on: workflow_call", "container", "services", "uses: docker://alpine", "uses: actions/cache@v4", "reusable workflow ./.github/workflows/other.yml"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	msg, err := w.Message(start(t, w, "a", workflow.State{})[0], workflow.State{})
	if err != nil || len(msg.Unsupported) != 4 {
		t.Errorf("the job is told %v, %v", msg.Unsupported, err)
	}
}

func TestErrorsAtStart(t *testing.T) {
	for name, job := range map[string]string{
		"NoLabel":     "{runs-on: \"${{ github.nothing }}\", steps: [{run: x}]}",
		"BadJSON":     "{runs-on: x, strategy: {matrix: {a: \"${{ fromJSON('x') }}\"}}, steps: [{run: x}]}",
		"NotAList":    "{runs-on: x, strategy: {matrix: {a: \"${{ github.ref }}\"}}, steps: [{run: x}]}",
		"EmptyMatrix": "{runs-on: x, strategy: {matrix: {a: [1], exclude: [{a: 1}]}}, steps: [{run: x}]}",
		"TooMany":     "{runs-on: x, strategy: {matrix: {a: [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17], b: [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}}, steps: [{run: x}]}",
		"Context":     "{runs-on: x, if: nosuch.x, steps: [{run: x}]}",
	} {
		t.Run(name, func(t *testing.T) {
			w := parse(t, "on: push\njobs:\n  a: "+job+"\n")
			if r, err := w.Resolve("a", workflow.State{}); err == nil {
				t.Errorf("resolved to %+v", r)
			}
		})
	}
}

func TestTriggers(t *testing.T) {
	type event = workflow.Event
	for _, c := range []struct {
		on   string
		e    event
		want bool
	}{
		{"push", event{Name: "push", Ref: "refs/heads/x"}, true},
		{"push", event{Name: "push", Ref: "refs/tags/v1"}, true},
		{"push", event{Name: "pull_request"}, false},
		{"[push, pull_request]", event{Name: "pull_request", Action: "opened"}, true},
		{"pull_request", event{Name: "pull_request", Action: "closed"}, false},
		{"{pull_request: {types: [closed]}}", event{Name: "pull_request", Action: "closed"}, true},
		{"{push: {branches: [main, 'rel/**']}}", event{Name: "push", Ref: "refs/heads/rel/1/2"}, true},
		{"{push: {branches: [main, 'rel/*']}}", event{Name: "push", Ref: "refs/heads/rel/1/2"}, false},
		{"{push: {branches: ['**', '!main']}}", event{Name: "push", Ref: "refs/heads/main"}, false},
		{"{push: {branches-ignore: [main]}}", event{Name: "push", Ref: "refs/heads/main"}, false},
		{"{push: {branches: [main]}}", event{Name: "push", Ref: "refs/tags/v1"}, false},
		{"{push: {tags: ['v[0-9]+.*']}}", event{Name: "push", Ref: "refs/tags/v12.3"}, true},
		{"{push: {tags: ['v*']}}", event{Name: "push", Ref: "refs/heads/v1"}, false},
		{"{push: {paths: ['**/*.go']}}", event{Name: "push", Ref: "refs/heads/x", Paths: []string{"a.go"}}, true},
		{"{push: {paths: ['docs/**']}}", event{Name: "push", Ref: "refs/heads/x", Paths: []string{"a.go"}}, false},
		{"{push: {paths-ignore: ['docs/**']}}", event{Name: "push", Ref: "refs/heads/x", Paths: []string{"docs/a"}}, false},
		{"workflow_dispatch", event{Name: "workflow_dispatch", Ref: "refs/heads/x"}, true},
	} {
		w := parse(t, "on: "+c.on+"\njobs:\n  a: {runs-on: x, steps: [{run: x}]}\n")
		if got := w.TriggeredBy(c.e); got != c.want {
			t.Errorf("on: %s with %+v: got %v", c.on, c.e, got)
		}
	}
}

// FuzzParse proves that no file panics or hangs the simulator, from the parser
// to the message of every job.
func FuzzParse(f *testing.F) {
	f.Add([]byte(chain))
	f.Add([]byte("on: push\njobs:\n  a:\n    strategy: {matrix: {a: [1, \"1.0\", {b: c}], include: [{a: 2}]}}\n    runs-on: ${{ matrix.a }}\n    steps: [{uses: x/y@z, with: {k: v}}]\n"))
	f.Add([]byte("on: {push: {branches: [\"[a\"]}}\njobs: {a: {uses: ./x.yml}}"))
	f.Fuzz(func(t *testing.T, src []byte) {
		w, err := workflow.Parse("f.yml", src)
		if err != nil {
			return
		}
		st := workflow.State{Run: workflow.Run{Repository: "a/b", Ref: "refs/heads/main", Event: "push"}, Results: map[string]workflow.Result{}}
		w.TriggeredBy(workflow.Event{Name: "push", Ref: st.Run.Ref, Paths: []string{"a"}})
		for _, j := range w.Jobs {
			r, err := w.Resolve(j.Key, st)
			if err == nil && r.Verdict == workflow.Start {
				if _, err := w.Message(r.Instances[0], st); err != nil {
					t.Fatal(err)
				}
			}
			st.Results[j.Key] = workflow.Result{Conclusion: "success"}
		}
	})
}

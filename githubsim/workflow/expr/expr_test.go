package expr_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster/githubsim/workflow/expr"
)

func scope() *expr.Scope {
	return &expr.Scope{
		Contexts: map[string]any{
			"github":  map[string]any{"ref": "refs/heads/main", "event": map[string]any{"labels": []any{map[string]any{"name": "bug"}, map[string]any{"name": "ui"}}}},
			"matrix":  map[string]any{"os": "linux", "go": 1.22, "tags": []any{"a", "b"}},
			"env":     map[string]string{"CI": "true"},
			"steps":   map[string]any{"one": map[string]any{"outputs": map[string]any{"x-y": "7"}, "outcome": "success"}},
			"secrets": map[string]any{},
		},
		Status:    func(f string) bool { return f == "success" || f == "always" },
		HashFiles: func(p []string) (string, error) { return strings.Join(p, "+"), nil },
	}
}

func TestEval(t *testing.T) {
	for source, want := range map[string]any{
		"null": nil, "true": true, "42": 42.0, "-0.5": -0.5, "0xff": 255.0, "0o17": 15.0, "1e3": 1000.0, ".5": 0.5,
		"'it''s'":                    "it's",
		"github.ref":                 "refs/heads/main",
		"GitHub['REF']":              "refs/heads/main",
		"github.nothing.at.all":      nil,
		"secrets.TOKEN":              nil,
		"steps.one.outputs.x-y":      "7",
		"matrix.tags[1]":             "b",
		"matrix.tags[7]":             nil,
		"github.event.labels.*.name": []any{"bug", "ui"},
		"contains(github.event.labels.*.name, 'BUG')": true,
		"contains('Hello', 'ell')":                    true,
		"contains(matrix.tags, 'c')":                  false,
		"startsWith(github.ref, 'refs/HEADS/')":       true,
		"endsWith(github.ref, 'main')":                true,
		"format('{0}-{1}-{{0}}', 'a', 2)":             "a-2-{0}",
		"join(matrix.tags, '-')":                      "a-b",
		"join(matrix.tags)":                           "a,b",
		"toJSON(matrix.tags)":                         "[\n  \"a\",\n  \"b\"\n]",
		"fromJSON('{\"a\":[1,true]}').a[1]":           true,
		"hashFiles('**/go.sum', 'x')":                 "**/go.sum+x",
		"1 == '1'":                                    true,
		"'A' == 'a'":                                  true,
		"null == 0":                                   true,
		"null == ''":                                  true,
		"true == 1":                                   true,
		"'a' == 1":                                    false,
		"NaN == NaN":                                  false,
		"'b' > 'A'":                                   true,
		"2 >= '2'":                                    true,
		"matrix.os == 'linux' && 'yes' || 'no'":       "yes",
		"false && 'yes' || 'no'":                      "no",
		"!''":                                         true,
		"!(1 < 2) || 3 < 4 && 5 != 6":                 true,
		"env.CI":                                      "true",
		"success() && !failure() && !cancelled()":     true,
		"toJSON('a<b')":                               `"a<b"`,
	} {
		t.Run(source, func(t *testing.T) {
			got, err := scope().Eval(source)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestErrorsNameWhatIsWrong(t *testing.T) {
	for source, want := range map[string]string{
		"":                       "unexpected end of expression",
		"nosuch.thing":           `unrecognized named-value: "nosuch"`,
		"nosuch()":               `unrecognized function "nosuch"`,
		"contains('a')":          "wrong number of arguments for contains: 1",
		"'open":                  "string is not closed",
		"1 +":                    "bad number",
		"a.":                     "expected a property name",
		"(1":                     `expected ")"`,
		"format('{1}', 'a')":     "no argument for {1}",
		"fromJSON('{')":          "fromJSON:",
		strings.Repeat("(", 200): "nested deeper",
		"\"double\"":             "unexpected symbol",
		strings.Repeat("toJSON(", 45) + `'"\'` + strings.Repeat(")", 45): "too long",
	} {
		if _, err := scope().Eval(source); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, want an error with %q", source, err, want)
		}
	}
}

func TestText(t *testing.T) {
	for _, c := range []struct {
		v    any
		want string
	}{
		{nil, ""}, {true, "true"}, {1.0, "1"}, {1.22, "1.22"}, {0.1 + 0.2, "0.3"}, {1e20, "1E+20"}, {-3.0, "-3"}, {123456789012.0, "123456789012"},
		{[]any{}, "Array"}, {map[string]any{}, "Object"}, {"x", "x"},
	} {
		if got := expr.Text(c.v); got != c.want {
			t.Errorf("Text(%v) = %q, want %q", c.v, got, c.want)
		}
	}
}

func TestConditions(t *testing.T) {
	failed := scope()
	failed.Status = func(f string) bool { return f == "failure" || f == "always" }
	for _, c := range []struct {
		source          string
		whenOK, whenNot bool
	}{
		{"", true, false},
		{"matrix.os == 'linux'", true, false},
		{"${{ matrix.os == 'linux' }}", true, false},
		{"matrix.os == 'windows'", false, false},
		{"always()", true, true},
		{"always() && matrix.os == 'linux'", true, true},
		{"failure()", false, true},
		{"!success()", false, true},
		{"${{ matrix.os }} == 'windows'", true, false}, // a text: true, as on GitHub
		{"${{ always() }} x", true, true},
	} {
		for s, want := range map[*expr.Scope]bool{scope(): c.whenOK, failed: c.whenNot} {
			if got, err := s.Condition(c.source); err != nil || got != want {
				t.Errorf("%q: got %v, %v, want %v", c.source, got, err, want)
			}
		}
	}
}

func TestInterpolate(t *testing.T) {
	for text, want := range map[string]string{
		"plain":                            "plain",
		"${{ matrix.os }}-${{ matrix.go}}": "linux-1.22",
		"${{ '}}' }}":                      "}}",
		"a ${{ null }}b":                   "a b",
		"${{ format('{0}', 'it''s') }} $x": "it's $x",
		"${x} {{ y }}":                     "${x} {{ y }}",
	} {
		if got, err := scope().Interpolate(text); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
	if _, err := scope().Interpolate("${{ open"); err == nil {
		t.Error("an expression that is not closed was accepted")
	}
}

// FuzzEval proves that no text panics or hangs, and that what can be read can be read again.
func FuzzEval(f *testing.F) {
	for _, s := range []string{"a.b['c'].*.d && !x || contains(y, 'z')", "format('{0}', fromJSON('[1]')[0])", "1e309 < -.5", "${{ a }} ${{ '}}' }}", "((((", "''''", "a.1", "*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := scope().Eval(s)
		if err == nil {
			_ = expr.Text(v)
			again, err := scope().Eval(s)
			if err != nil || expr.Text(again) != expr.Text(v) {
				t.Fatalf("second evaluation differs: %v, %v, %v", v, again, err)
			}
		}
		_, _ = scope().Interpolate(s)
		_, _ = scope().Condition(s)
	})
}

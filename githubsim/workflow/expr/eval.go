package expr

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// maxResult bounds strings that an expression builds, in bytes. GitHub bounds memory to 10 MB.
const maxResult = 10 << 20

// Scope is what an expression may refer to. The zero value knows nothing.
type Scope struct {
	// Contexts are the known contexts by lower-case name. Values are nil, bool,
	// float64, string, []any, map[string]any or map[string]string; int and int64 are accepted.
	// A context that is not in the map is an error, a property that is missing is null.
	Contexts map[string]any
	// Status answers success, failure, always and cancelled; nil: calling them is an error.
	Status func(function string) bool
	// HashFiles answers hashFiles; nil: calling it is an error.
	HashFiles func(patterns []string) (string, error)
}

// Eval evaluates one expression without its ${{ }}.
func (s *Scope) Eval(source string) (any, error) {
	x, err := Parse(source)
	if err != nil {
		return nil, err
	}
	return x.Eval(s)
}

// Value evaluates a value of a file: a string that is one ${{ }} alone keeps
// its type, any other string is interpolated.
func (s *Scope) Value(text string) (any, error) {
	if inner, ok := Single(text); ok {
		return s.Eval(inner)
	}
	return s.Interpolate(text)
}

// Interpolate replaces every ${{ }} of a text by its value as text.
func (s *Scope) Interpolate(text string) (string, error) {
	if !strings.Contains(text, "${{") {
		return text, nil
	}
	var b strings.Builder
	err := split(text, func(t string) { b.WriteString(t) }, func(inner string) error {
		v, err := s.Eval(inner)
		if err != nil {
			return err
		}
		b.WriteString(Text(v))
		if b.Len() > maxResult {
			return errors.New("expression result is too long")
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return b.String(), nil
}

// Condition evaluates an `if:`, with or without ${{ }}. Empty means success(),
// and a condition without a status function means "success() && (…)".
func (s *Scope) Condition(source string) (bool, error) {
	source = strings.TrimSpace(source)
	if source == "" {
		return s.status("success")
	}
	if inner, ok := Single(source); ok {
		source = inner
	} else if strings.Contains(source, "${{") {
		// "${{ a }} && b" is a text for GitHub, and a text that is not empty is true.
		checked := false
		if err := split(source, func(string) {}, func(inner string) error {
			x, err := Parse(inner)
			if err == nil && x.HasStatusCheck() {
				checked = true
			}
			return err
		}); err != nil {
			return false, err
		}
		if !checked {
			if ok, err := s.status("success"); !ok || err != nil {
				return false, err
			}
		}
		text, err := s.Interpolate(source)
		return text != "", err
	}
	x, err := Parse(source)
	if err != nil {
		return false, err
	}
	if !x.HasStatusCheck() {
		if ok, err := s.status("success"); !ok || err != nil {
			return false, err
		}
	}
	v, err := x.Eval(s)
	return Truthy(v), err
}

// Check reads every expression of a text without evaluating it; with condition,
// a text without ${{ }} is itself an expression.
func Check(text string, condition bool) error {
	if condition && !strings.Contains(text, "${{") {
		if strings.TrimSpace(text) == "" {
			return nil
		}
		_, err := Parse(text)
		return err
	}
	return split(text, func(string) {}, func(inner string) error { _, err := Parse(inner); return err })
}

// Single returns the inside of a text that is exactly one ${{ }}.
func Single(text string) (string, bool) {
	t := strings.TrimSpace(text)
	if !strings.HasPrefix(t, "${{") {
		return "", false
	}
	end := closing(t, 3)
	if end < 0 || end+2 != len(t) {
		return "", false
	}
	return t[3:end], true
}

// closing finds the }} that ends an expression whose inside starts at from, and
// skips strings, which may contain }}.
func closing(t string, from int) int {
	quoted := false
	for i := from; i < len(t); i++ {
		switch {
		case t[i] == '\'':
			quoted = !quoted
		case !quoted && strings.HasPrefix(t[i:], "}}"):
			return i
		}
	}
	return -1
}

func split(text string, plain func(string), inner func(string) error) error {
	for {
		start := strings.Index(text, "${{")
		if start < 0 {
			plain(text)
			return nil
		}
		end := closing(text, start+3)
		if end < 0 {
			return &SyntaxError{text, start, "${{ without }}"}
		}
		plain(text[:start])
		if err := inner(text[start+3 : end]); err != nil {
			return err
		}
		text = text[end+2:]
	}
}

func (s *Scope) status(name string) (bool, error) {
	if s.Status == nil {
		return false, fmt.Errorf("function %s is not available here", name)
	}
	return s.Status(name), nil
}

// Eval evaluates a parsed expression.
func (x *Expression) Eval(s *Scope) (any, error) {
	v, err := s.eval(x.root)
	if err != nil {
		return nil, fmt.Errorf("expression %q: %w", strings.TrimSpace(x.source), err)
	}
	if f, ok := v.(filtered); ok {
		return []any(f), nil
	}
	return v, nil
}

// filtered is the result of an object filter; indexing it maps over its elements.
type filtered []any

func (s *Scope) eval(n node) (any, error) {
	switch n := n.(type) {
	case *literal:
		return n.value, nil
	case *contextRef:
		v, ok := s.Contexts[n.name]
		if !ok {
			return nil, fmt.Errorf("unrecognized named-value: %q", n.name)
		}
		return normal(v), nil
	case *not:
		v, err := s.eval(n.of)
		return !Truthy(v), err
	case *star:
		of, err := s.eval(n.of)
		if err != nil {
			return nil, err
		}
		if f, ok := of.(filtered); ok {
			out := filtered{}
			for _, e := range f {
				out = append(out, children(e)...)
			}
			return out, nil
		}
		return filtered(children(of)), nil
	case *index:
		of, err := s.eval(n.of)
		if err != nil {
			return nil, err
		}
		by, err := s.eval(n.by)
		if err != nil {
			return nil, err
		}
		if f, ok := of.(filtered); ok {
			out := filtered{}
			for _, e := range f {
				if v, ok := property(e, by); ok {
					out = append(out, v)
				}
			}
			return out, nil
		}
		v, _ := property(of, by)
		return v, nil
	case *bin:
		return s.binary(n)
	case *call:
		return s.call(n)
	}
	return nil, fmt.Errorf("unknown node %T", n)
}

func (s *Scope) binary(n *bin) (any, error) {
	left, err := s.eval(n.left)
	if err != nil {
		return nil, err
	}
	switch {
	case n.op == "&&" && !Truthy(left), n.op == "||" && Truthy(left):
		return left, nil
	}
	right, err := s.eval(n.right)
	if err != nil {
		return nil, err
	}
	switch n.op {
	case "&&", "||":
		return right, nil
	case "==":
		return equal(left, right), nil
	case "!=":
		return !equal(left, right), nil
	}
	return compare(n.op, left, right), nil
}

func (s *Scope) call(n *call) (any, error) {
	if isStatus(n.name) {
		return s.status(n.name)
	}
	args := make([]any, len(n.args))
	for i, a := range n.args {
		v, err := s.eval(a)
		if err != nil {
			return nil, err
		}
		if f, ok := v.(filtered); ok {
			v = []any(f)
		}
		args[i] = v
	}
	switch n.name {
	case "contains":
		if list, ok := args[0].([]any); ok {
			return slices.ContainsFunc(list, func(e any) bool { return equal(normal(e), args[1]) }), nil
		}
		return scalar(args[0]) && scalar(args[1]) && strings.Contains(fold(args[0]), fold(args[1])), nil
	case "startswith":
		return scalar(args[0]) && scalar(args[1]) && strings.HasPrefix(fold(args[0]), fold(args[1])), nil
	case "endswith":
		return scalar(args[0]) && scalar(args[1]) && strings.HasSuffix(fold(args[0]), fold(args[1])), nil
	case "format":
		return format(Text(args[0]), args[1:])
	case "join":
		return join(args)
	case "tojson":
		return toJSON(args[0])
	case "fromjson":
		return fromJSON(Text(args[0]))
	case "hashfiles":
		if s.HashFiles == nil {
			return nil, errors.New("function hashFiles is not available here")
		}
		patterns := make([]string, len(args))
		for i, a := range args {
			patterns[i] = Text(a)
		}
		return s.HashFiles(patterns)
	}
	return nil, fmt.Errorf("unrecognized function %q", n.name)
}

func format(layout string, args []any) (any, error) {
	var b strings.Builder
	for i := 0; i < len(layout); i++ {
		c := layout[i]
		if c != '{' && c != '}' {
			b.WriteByte(c)
			continue
		}
		if i+1 < len(layout) && layout[i+1] == c {
			b.WriteByte(c)
			i++
			continue
		}
		end := strings.IndexByte(layout[i:], '}')
		if c == '}' || end < 0 {
			return nil, fmt.Errorf("format: unmatched %q", string(c))
		}
		k, err := strconv.ParseUint(layout[i+1:i+end], 10, 16)
		if err != nil || int(k) >= len(args) {
			return nil, fmt.Errorf("format: no argument for {%s}", layout[i+1:i+end])
		}
		b.WriteString(Text(args[k]))
		if b.Len() > maxResult {
			return nil, errors.New("format: result is too long")
		}
		i += end
	}
	return b.String(), nil
}

func join(args []any) (any, error) {
	separator := ","
	if len(args) == 2 {
		separator = Text(args[1])
	}
	list, ok := args[0].([]any)
	if !ok {
		return Text(args[0]), nil
	}
	texts := make([]string, len(list))
	size := 0
	for i, e := range list {
		texts[i] = Text(normal(e))
		if size += len(texts[i]) + len(separator); size > maxResult {
			return nil, errors.New("join: result is too long")
		}
	}
	return strings.Join(texts, separator), nil
}

func toJSON(v any) (any, error) {
	if f, ok := v.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
		return Text(f), nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("toJSON: %w", err)
	}
	if b.Len() > maxResult {
		return nil, errors.New("toJSON: result is too long")
	}
	return strings.TrimRight(b.String(), "\n"), nil
}

func fromJSON(text string) (any, error) {
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return nil, fmt.Errorf("fromJSON: %w", err)
	}
	return v, nil
}

// normal brings a value of a context to the six kinds of the language.
func normal(v any) any {
	switch v := v.(type) {
	case int:
		return float64(v)
	case int64:
		return float64(v)
	case map[string]string:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = e
		}
		return m
	case []string:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = e
		}
		return l
	}
	return v
}

func children(v any) []any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = normal(e)
		}
		return out
	case map[string]any:
		var out []any
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out = append(out, normal(v[k]))
		}
		return out
	}
	return nil
}

func property(of, by any) (any, bool) {
	switch of := of.(type) {
	case map[string]any:
		if !scalar(by) {
			return nil, false
		}
		name := Text(by)
		if v, ok := of[name]; ok {
			return normal(v), true
		}
		// Names are case-insensitive; the smallest matching key makes the answer repeatable.
		for _, k := range slices.Sorted(maps.Keys(of)) {
			if strings.EqualFold(k, name) {
				return normal(of[k]), true
			}
		}
	case []any:
		if i := number(by); i >= 0 && i < float64(len(of)) {
			return normal(of[int(i)]), true
		}
	}
	return nil, false
}

func scalar(v any) bool {
	switch v.(type) {
	case nil, bool, float64, string:
		return true
	}
	return false
}

func fold(v any) string { return strings.ToLower(Text(v)) }

// Truthy is the language's boolean of a value: null, false, 0, NaN and "" are false.
func Truthy(v any) bool {
	switch v := normal(v).(type) {
	case nil:
		return false
	case bool:
		return v
	case float64:
		return v != 0 && !math.IsNaN(v)
	case string:
		return v != ""
	}
	return true
}

// Text is the language's string of a value: "" for null, "Array" and "Object" for those.
func Text(v any) string {
	switch v := normal(v).(type) {
	case nil:
		return ""
	case bool:
		return strconv.FormatBool(v)
	case float64:
		switch {
		case math.IsInf(v, 1):
			return "Infinity"
		case math.IsInf(v, -1):
			return "-Infinity"
		case v == 0:
			return "0"
		}
		// .NET's G15: at most 15 digits, an exponent only where it is at least 15.
		if a := math.Abs(v); a >= 1e-5 && a < 1e15 {
			short, _ := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 15, 64), 64)
			return strconv.FormatFloat(short, 'f', -1, 64)
		}
		return strings.ToUpper(strconv.FormatFloat(v, 'g', 15, 64))
	case string:
		return v
	case []any, filtered:
		return "Array"
	}
	return "Object"
}

// Number is the language's number of a value: null is 0, what is no number is NaN.
func Number(v any) float64 { return number(normal(v)) }

func number(v any) float64 {
	switch v := v.(type) {
	case nil:
		return 0
	case bool:
		if v {
			return 1
		}
		return 0
	case float64:
		return v
	case string:
		t := strings.TrimSpace(v)
		if t == "" {
			return 0
		}
		if n, ok := parseNumber(t); ok {
			return n
		}
	}
	return math.NaN()
}

func parseNumber(t string) (float64, bool) {
	switch t {
	case "Infinity", "+Infinity":
		return math.Inf(1), true
	case "-Infinity":
		return math.Inf(-1), true
	case "NaN":
		return math.NaN(), true
	}
	if len(t) > 2 && t[0] == '0' && (t[1] == 'x' || t[1] == 'o') {
		n, err := strconv.ParseUint(t[2:], map[byte]int{'x': 16, 'o': 8}[t[1]], 32)
		return float64(n), err == nil
	}
	if strings.ContainsAny(t, "_xXpPnNiI") {
		return 0, false // forms of Go that the language does not know
	}
	n, err := strconv.ParseFloat(t, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	return n, true
}

func equal(a, b any) bool {
	if sa, ok := a.(string); ok {
		if sb, ok := b.(string); ok {
			return strings.EqualFold(sa, sb)
		}
	}
	if scalar(a) && scalar(b) {
		return a == nil && b == nil || number(a) == number(b)
	}
	// Lists and objects are equal only to themselves.
	return same(a, b)
}

func same(a, b any) bool {
	switch a := a.(type) {
	case []any:
		b, ok := b.([]any)
		return ok && len(a) > 0 && len(a) == len(b) && &a[0] == &b[0]
	}
	return false
}

func compare(op string, a, b any) bool {
	if sa, ok := a.(string); ok {
		if sb, ok := b.(string); ok {
			c := strings.Compare(strings.ToUpper(sa), strings.ToUpper(sb))
			switch op {
			case "<":
				return c < 0
			case "<=":
				return c <= 0
			case ">":
				return c > 0
			}
			return c >= 0
		}
	}
	x, y := number(a), number(b)
	switch op {
	case "<":
		return x < y
	case "<=":
		return x <= y
	case ">":
		return x > y
	}
	return x >= y
}

package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// decoder fills a Go value from a YAML tree and collects what does not fit. It
// goes on after a problem, so that all of them are reported at once.
type decoder struct {
	file     string
	problems Problems
	// lines tells where a setting stands, by its path ("pools[1].labels").
	lines map[string]int
	// bad are the settings whose value could not be read.
	bad map[string]bool
}

func newDecoder(file string) decoder {
	return decoder{file: file, lines: map[string]int{}, bad: map[string]bool{}}
}

func (d *decoder) add(line int, remedy, what string, args ...any) {
	d.problems = append(d.problems, Problem{File: d.file, Line: line, What: fmt.Sprintf(what, args...), Remedy: remedy})
}

// at reports a problem at a setting, or at the nearest thing around it that is written.
func (d *decoder) at(path, remedy, what string, args ...any) {
	d.add(d.line(path), remedy, what, args...)
}

func (d *decoder) line(path string) int {
	for path != "" {
		if line, ok := d.lines[path]; ok {
			return line
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 0
}

// parse reads one YAML document into into, a pointer to a struct.
func (d *decoder) parse(data []byte, into any) {
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		line, what := 0, err.Error()
		if e, ok := errors.AsType[yaml.Error](err); ok {
			what = e.GetMessage()
			if t := e.GetToken(); t != nil && t.Position != nil {
				line = t.Position.Line
			}
		}
		d.add(line, "correct the YAML; the rest was not read", "%s", what)
		d.bad[""] = true
		return
	}
	var body ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil || isNull(doc.Body):
		case body != nil:
			d.add(lineOf(doc.Body), "keep one document per file", "a second YAML document begins")
		default:
			body = doc.Body
		}
	}
	if body != nil {
		d.value(body, reflect.ValueOf(into).Elem(), "")
	}
}

// decimal is a number written as text or as a number, kept exactly.
type decimal string

// micro returns the number in millionths.
func (n decimal) micro() (int64, error) {
	r, ok := new(big.Rat).SetString(string(n))
	if !ok || strings.ContainsAny(string(n), "/eExX") {
		return 0, fmt.Errorf("%q is not a decimal number", string(n))
	}
	r.Mul(r, big.NewRat(1_000_000, 1))
	if !r.IsInt() || !r.Num().IsInt64() {
		return 0, fmt.Errorf("%s is finer than a millionth or too large", string(n))
	}
	return r.Num().Int64(), nil
}

// list is a list of text, written as a YAML list or as "a,b".
type list []string

var (
	durationType = reflect.TypeFor[time.Duration]()
	decimalType  = reflect.TypeFor[decimal]()
	listType     = reflect.TypeFor[list]()
	sectionType  = reflect.TypeFor[Section]()
)

func (d *decoder) value(n ast.Node, v reflect.Value, path string) {
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode, *ast.TagNode:
		d.bad[path] = true
		d.lines[path] = lineOf(n)
		d.add(lineOf(n), "write the value out", "%s uses a YAML anchor, alias or tag, which is not supported", orRoot(path))
		return
	}
	if isNull(n) { // "labels:" with nothing behind it is as good as absent
		return
	}
	d.lines[path] = lineOf(n)
	wrong := func(want string) {
		d.bad[path] = true
		d.add(lineOf(n), "write "+want, "%s is %s", orRoot(path), kindOf(n))
	}
	switch v.Type() {
	case sectionType:
		if _, ok := entries(n); !ok {
			wrong("a section of settings, one per line")
			return
		}
		v.Set(reflect.ValueOf(Section{file: d.file, node: n}))
		return
	case durationType:
		s, ok := n.(*ast.StringNode)
		if !ok {
			wrong("a duration with its unit, such as 90s, 5m or 30d")
			return
		}
		dur, err := ParseDuration(s.Value)
		if err != nil {
			d.bad[path] = true
			d.add(lineOf(n), "write a duration with its unit, such as 90s, 5m or 30d", "%s: %q is not a duration", orRoot(path), s.Value)
			return
		}
		v.SetInt(int64(dur))
		return
	case decimalType:
		switch s := n.(type) {
		case *ast.StringNode:
			v.SetString(s.Value)
		case *ast.IntegerNode, *ast.FloatNode:
			v.SetString(n.GetToken().Value)
		default:
			wrong(`a decimal number, such as "0.008"`)
		}
		return
	case listType:
		if s, ok := n.(*ast.StringNode); ok {
			var l list
			for part := range strings.SplitSeq(s.Value, ",") {
				if part = strings.TrimSpace(part); part != "" {
					l = append(l, part)
				}
			}
			v.Set(reflect.ValueOf(l))
			return
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		before := len(d.problems)
		d.value(n, p.Elem(), path)
		if len(d.problems) == before {
			v.Set(p)
		}
	case reflect.Struct:
		d.object(n, v, path)
	case reflect.Map:
		values, ok := entries(n)
		if elem := v.Type().Elem(); !ok || elem.Kind() != reflect.String && elem != listType {
			wrong("names with values, one per line")
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for _, e := range values {
			key, at := reflect.ValueOf(keyOf(e)).Convert(v.Type().Key()), join(path, keyOf(e))
			if v.MapIndex(key).IsValid() {
				d.add(e.Key.GetToken().Position.Line, "remove one of them", "%s is set twice, first on line %d", at, d.lines[at])
				continue
			}
			item := reflect.New(v.Type().Elem()).Elem()
			d.value(e.Value, item, at)
			d.lines[at] = e.Key.GetToken().Position.Line
			v.SetMapIndex(key, item)
		}
	case reflect.Slice:
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			wrong("a list, each item after a dash")
			return
		}
		for i, item := range seq.Values {
			e := reflect.New(v.Type().Elem()).Elem()
			at := fmt.Sprintf("%s[%d]", path, i)
			if isNull(item) {
				d.add(lineOf(item), "remove the dash or write the item", "%s is empty", at)
				d.lines[at] = lineOf(item)
			}
			d.value(item, e, at)
			v.Set(reflect.Append(v, e))
		}
	case reflect.String:
		switch s := n.(type) {
		case *ast.StringNode:
			v.SetString(s.Value)
		case *ast.LiteralNode:
			v.SetString(s.Value.Value)
		default:
			wrong("text; put quotes around it")
		}
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			wrong("true or false")
			return
		}
		v.SetBool(b.Value)
	case reflect.Int, reflect.Int32, reflect.Int64:
		i, ok := integer(n)
		if !ok || v.OverflowInt(i) {
			wrong("a whole number")
			return
		}
		v.SetInt(i)
	case reflect.Float32, reflect.Float64:
		if f, ok := n.(*ast.FloatNode); ok {
			v.SetFloat(f.Value)
		} else if i, ok := integer(n); ok {
			v.SetFloat(float64(i))
		} else {
			wrong("a number")
		}
	default:
		wrong("a value of type " + v.Type().String())
	}
}

// object fills a struct: every key of the file must be a field of it.
func (d *decoder) object(n ast.Node, v reflect.Value, path string) {
	values, ok := entries(n)
	if !ok {
		d.bad[path] = true
		d.add(lineOf(n), "write settings, one per line", "%s is %s", orRoot(path), kindOf(n))
		return
	}
	fields := map[string]reflect.Value{}
	var names []string
	for i := range v.NumField() {
		if name := tagOf(v.Type().Field(i)); name != "" {
			fields[name] = v.Field(i)
			names = append(names, name)
		}
	}
	seen := map[string]int{}
	for _, e := range values {
		key, line := keyOf(e), e.Key.GetToken().Position.Line
		field, known := fields[key]
		switch first, twice := seen[key]; {
		case key == "<<":
			d.add(line, "write the settings out", "YAML merge keys are not supported")
			continue
		case twice:
			d.add(line, "remove one of them", "%s is set twice, first on line %d", join(path, key), first)
			continue
		case !known:
			d.add(line, suggest(key, names), "unknown key %q in %s", key, orRoot(path))
			continue
		}
		seen[key] = line
		at := join(path, key)
		d.value(e.Value, field, at)
		d.lines[at] = line
	}
}

// suggest says what an unknown key should have been.
func suggest(key string, known []string) string {
	switch {
	case forbidden[key] != "":
		return forbidden[key]
	case nearest(key, known) != "":
		return fmt.Sprintf("did you mean %q?", nearest(key, known))
	}
	return "known keys are " + strings.Join(known, ", ")
}

// forbidden are keys that someone may try in order to write a secret into the
// file (S1-98), with what to do instead.
var forbidden = map[string]string{
	"private_key":    "secrets have no place in this file: keep the key in a file of its own and name it in private_key_file",
	"webhook_secret": "secrets have no place in this file: keep it in a file of its own and name it in webhook_secret_file",
	"token":          "secrets have no place in this file: name an environment variable in token_env, for example GITHUB_TOKEN",
	"github_token":   "secrets have no place in this file: name an environment variable in token_env, for example GITHUB_TOKEN",
	"operator_token": "secrets have no place in this file: keep it in a file of its own and name it in operator_token_file",
	"api_key":        "secrets have no place in this file: keep it in a file of its own and name it in api_key_file",
	"secret_key":     "secrets have no place in this file: keep it in a file of its own and name it in secret_key_file",
	"password":       "secrets have no place in this file: use the environment variable MUSTER_DATABASE_PASSWORD",
}

// tagOf is the name of a field in YAML: its yaml tag, else its json tag; "" for
// a field that is not a setting.
func tagOf(f reflect.StructField) string {
	tag, ok := f.Tag.Lookup("yaml")
	if !ok {
		tag = f.Tag.Get("json")
	}
	name, _, _ := strings.Cut(tag, ",")
	if name == "-" || !f.IsExported() {
		return ""
	}
	return name
}

// entries are the keys and values of a mapping.
func entries(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch m := n.(type) {
	case *ast.MappingNode:
		return m.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{m}, true
	}
	return nil, false
}

func keyOf(e *ast.MappingValueNode) string {
	if s, ok := e.Key.(*ast.StringNode); ok {
		return s.Value
	}
	return e.Key.GetToken().Value
}

func integer(n ast.Node) (int64, bool) {
	i, ok := n.(*ast.IntegerNode)
	if !ok {
		return 0, false
	}
	switch x := i.Value.(type) {
	case int64:
		return x, true
	case uint64:
		return int64(x), x <= math.MaxInt64
	}
	return 0, false
}

func isNull(n ast.Node) bool {
	_, ok := n.(*ast.NullNode)
	return ok || n == nil
}

// kindOf says what a value is, in words.
func kindOf(n ast.Node) string {
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a section"
	}
	return "something else"
}

func lineOf(n ast.Node) int {
	if m, ok := entries(n); ok && len(m) > 0 {
		n = m[0].Key // the token of a mapping is its first colon
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 0
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func orRoot(path string) string {
	if path == "" {
		return "the configuration"
	}
	return path
}

// ParseDuration reads what time.ParseDuration reads, and days in front: "30d", "1d12h".
func ParseDuration(s string) (time.Duration, error) {
	days, rest, ok := strings.Cut(s, "d")
	if !ok {
		return time.ParseDuration(s)
	}
	n, err := strconv.ParseUint(days, 10, 16) // 65535 days fit a Duration
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration", s)
	}
	total := time.Duration(n) * 24 * time.Hour
	if rest != "" {
		more, err := time.ParseDuration(rest)
		if err != nil || more < 0 {
			return 0, fmt.Errorf("%q is not a duration", s)
		}
		total += more
	}
	return total, nil
}

// Section is a part of the file that is decoded by its owner
// (provider.DecodeConfig), kept with its position. The zero Section is an empty one.
type Section struct {
	file string
	node ast.Node
	line int // of what should hold the section, where there is none
}

// JSON is the section as a JSON object; "{}" for an empty one.
func (s Section) JSON() ([]byte, error) {
	if s.node == nil {
		return []byte("{}"), nil
	}
	var v any
	if err := yaml.NodeToValue(s.node, &v); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", s.file, lineOf(s.node), err)
	}
	return json.Marshal(v)
}

// Problem makes an error about the section as a whole, with its position.
func (s Section) Problem(remedy, what string, args ...any) error {
	p := Problem{File: s.file, Line: s.line, What: fmt.Sprintf(what, args...), Remedy: remedy}
	if s.node != nil {
		p.Line = lineOf(s.node)
	}
	return Problems{p}
}

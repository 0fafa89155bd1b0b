package workflow

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/muster-ci/muster/githubsim/workflow/expr"
)

// Matrix is strategy.matrix as written.
type Matrix struct {
	// Expression gives the whole matrix; then the rest is empty.
	Expression string
	// Rows are in the order of the file.
	Rows             []Row
	Include, Exclude Cells
}

// Row is one dimension: literal values (whose strings may hold expressions) or one expression that gives a list.
type Row struct {
	Name       string
	Values     []any
	Expression string
}

// Cells are the entries of include or exclude, or one expression that gives a list of them.
type Cells struct {
	Expression string
	Entries    []Cell
}

// Cell is one entry, its keys in the order of the file.
type Cell struct {
	Keys   []string
	Values map[string]any
	// Expression gives the entry; then the rest is empty.
	Expression string
}

// combination is one cell of the matrix: keys in order, and which of them came
// from a row (an include may not overwrite those).
type combination struct {
	keys []string
	vals map[string]any
	rows map[string]bool
}

func (c combination) values() map[string]any {
	if c.vals == nil {
		return map[string]any{}
	}
	return c.vals
}

// display is the cell as GitHub writes it behind a job's name.
func (c combination) display() string {
	var parts []string
	for _, k := range c.keys {
		parts = append(parts, leaves(c.vals[k])...)
	}
	return strings.Join(parts, ", ")
}

func leaves(v any) []string {
	switch v := v.(type) {
	case []any:
		var out []string
		for _, e := range v {
			out = append(out, leaves(e)...)
		}
		return out
	case map[string]any:
		var out []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out = append(out, leaves(v[k])...)
		}
		return out
	}
	if t := expr.Text(v); t != "" {
		return []string{t}
	}
	return nil
}

// combinations multiplies the rows, removes the excluded and applies include as
// documented: an entry extends every combination whose row values it does not
// change, and becomes a combination of its own if there is none.
func (m *Matrix) combinations(scope *expr.Scope) ([]combination, error) {
	rows, include, exclude, err := m.evaluate(scope)
	if err != nil {
		return nil, err
	}
	var out []combination
	if len(rows) > 0 {
		out = []combination{{vals: map[string]any{}, rows: map[string]bool{}}}
	}
	for _, row := range rows {
		if len(row.Values) == 0 {
			return nil, fmt.Errorf("matrix vector %q does not contain any values", row.Name)
		}
		if len(out)*len(row.Values) > 100*MaxMatrix {
			return nil, fmt.Errorf("matrix has more than %d jobs", MaxMatrix)
		}
		var next []combination
		for _, c := range out {
			for _, v := range row.Values {
				n := combination{append(slices.Clone(c.keys), row.Name), maps.Clone(c.vals), maps.Clone(c.rows)}
				n.vals[row.Name], n.rows[strings.ToLower(row.Name)] = v, true
				next = append(next, n)
			}
		}
		out = next
	}
	out = slices.DeleteFunc(out, func(c combination) bool {
		return slices.ContainsFunc(exclude, func(e Cell) bool { return c.covers(e) })
	})
	fromRows := len(out) // an entry extends only what the rows made
	for _, entry := range include {
		used := false
		for i := range out[:fromRows] {
			if out[i].accepts(entry) {
				out[i].add(entry)
				used = true
			}
		}
		if !used {
			if len(out) > 100*MaxMatrix {
				return nil, fmt.Errorf("matrix has more than %d jobs", MaxMatrix)
			}
			c := combination{vals: map[string]any{}, rows: map[string]bool{}}
			c.add(entry)
			out = append(out, c)
		}
	}
	return out, nil
}

// covers says whether an exclude entry names this combination: all of its keys match.
func (c combination) covers(e Cell) bool {
	for _, k := range e.Keys {
		have, ok := lookup(c.vals, k)
		if !ok || !matches(have, e.Values[k]) {
			return false
		}
	}
	return len(e.Keys) > 0
}

// accepts says whether an include entry changes no value of a row.
func (c combination) accepts(e Cell) bool {
	for _, k := range e.Keys {
		if c.rows[strings.ToLower(k)] {
			if have, _ := lookup(c.vals, k); !matches(have, e.Values[k]) {
				return false
			}
		}
	}
	return true
}

func (c *combination) add(e Cell) {
	for _, k := range e.Keys {
		if _, ok := lookup(c.vals, k); !ok {
			c.keys = append(c.keys, k)
			c.vals[k] = e.Values[k]
			continue
		}
		for have := range c.vals {
			if strings.EqualFold(have, k) {
				c.vals[have] = e.Values[k]
			}
		}
	}
}

func lookup(m map[string]any, key string) (any, bool) {
	for k, v := range m {
		if strings.EqualFold(k, key) {
			return v, true
		}
	}
	return nil, false
}

// matches compares values; of objects the pattern may name a part.
func matches(have, pattern any) bool {
	switch p := pattern.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok {
			return false
		}
		for k, v := range p {
			if hv, ok := lookup(h, k); !ok || !matches(hv, v) {
				return false
			}
		}
		return true
	case []any:
		h, ok := have.([]any)
		return ok && len(h) == len(p) && slices.EqualFunc(h, p, matches)
	}
	switch have.(type) {
	case map[string]any, []any:
		return false
	}
	return strings.EqualFold(expr.Text(have), expr.Text(pattern))
}

// evaluate resolves all expressions of a matrix.
func (m *Matrix) evaluate(scope *expr.Scope) (rows []Row, include, exclude []Cell, err error) {
	if m.Expression != "" {
		v, err := scope.Value(m.Expression)
		if err != nil {
			return nil, nil, nil, err
		}
		object, ok := v.(map[string]any)
		if !ok {
			return nil, nil, nil, fmt.Errorf("matrix expression gives %s, not an object", expr.Text(v))
		}
		// Go's maps have no order: names are sorted, so that the same text always gives the same jobs.
		for _, k := range slices.Sorted(maps.Keys(object)) {
			switch strings.ToLower(k) {
			case "include":
				include, err = cellsOf(object[k])
			case "exclude":
				exclude, err = cellsOf(object[k])
			default:
				list, ok := object[k].([]any)
				if !ok {
					return nil, nil, nil, fmt.Errorf("matrix vector %q is not a list", k)
				}
				rows = append(rows, Row{Name: k, Values: list})
			}
			if err != nil {
				return nil, nil, nil, err
			}
		}
		return rows, include, exclude, nil
	}
	for _, r := range m.Rows {
		row := Row{Name: r.Name}
		if r.Expression != "" {
			v, err := scope.Value(r.Expression)
			if err != nil {
				return nil, nil, nil, err
			}
			list, ok := v.([]any)
			if !ok {
				return nil, nil, nil, fmt.Errorf("matrix vector %q is not a list", r.Name)
			}
			row.Values = list
		}
		for _, v := range r.Values {
			x, err := resolve(scope, v)
			if err != nil {
				return nil, nil, nil, err
			}
			row.Values = append(row.Values, x)
		}
		rows = append(rows, row)
	}
	if include, err = m.Include.evaluate(scope); err != nil {
		return nil, nil, nil, err
	}
	exclude, err = m.Exclude.evaluate(scope)
	return rows, include, exclude, err
}

func (c Cells) evaluate(scope *expr.Scope) ([]Cell, error) {
	if c.Expression != "" {
		v, err := scope.Value(c.Expression)
		if err != nil {
			return nil, err
		}
		return cellsOf(v)
	}
	var out []Cell
	for _, e := range c.Entries {
		if e.Expression != "" {
			v, err := scope.Value(e.Expression)
			if err != nil {
				return nil, err
			}
			cells, err := cellsOf([]any{v})
			if err != nil {
				return nil, err
			}
			out = append(out, cells...)
			continue
		}
		x := Cell{Keys: e.Keys, Values: map[string]any{}}
		for k, v := range e.Values {
			var err error
			if x.Values[k], err = resolve(scope, v); err != nil {
				return nil, err
			}
		}
		out = append(out, x)
	}
	return out, nil
}

func cellsOf(v any) ([]Cell, error) {
	if v == nil {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("include or exclude of the matrix is not a list")
	}
	var out []Cell
	for _, e := range list {
		object, ok := e.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("an entry of include or exclude is not an object")
		}
		out = append(out, Cell{Keys: slices.Sorted(maps.Keys(object)), Values: object})
	}
	return out, nil
}

// resolve evaluates the expressions inside a literal.
func resolve(scope *expr.Scope, v any) (any, error) {
	switch v := v.(type) {
	case string:
		return scope.Value(v)
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			var err error
			if out[i], err = resolve(scope, e); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			var err error
			if out[k], err = resolve(scope, e); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return v, nil
}

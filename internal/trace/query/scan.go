package query

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types/ref"
	"github.com/parquet-go/parquet-go"

	"github.com/muster-ci/muster/internal/trace"
)

// Stats says what a Scan did.
type Stats struct {
	// Rows is how many events the index has; Groups how many row groups, Skipped how many of them
	// were not looked at, or only at their dictionaries.
	Rows    int64
	Groups  int
	Skipped int
	// Matched is how many events were yielded.
	Matched int64
	// Faults is how many events the expression had no value for (see Match), Fault why the
	// first one had none.
	Faults int64
	Fault  error
	// Asked is how often CEL had to be asked.
	Asked int64
}

// ErrIndex is a file that is no index, or of another version: make it again with WriteIndex.
var ErrIndex = errors.New("the file is no index of a trace that this version reads")

// errEnough ends a scan from within.
var errEnough = errors.New("enough")

// Scan yields the events of an index that the query matches, in the order of their
// numbers, until there are limit (no limit if it is 0), yield returns false or ctx ends.
// They are those that Match would find, whole. Scans of one query may run at once.
func (q *Query) Scan(ctx context.Context, r io.ReaderAt, size int64, limit int, yield func(trace.Event) bool) (stats Stats, err error) {
	defer func() {
		if p := recover(); p != nil { // the library panics at some damages instead of saying so
			err = fmt.Errorf("%w: %v", ErrIndex, p)
		}
	}()
	file, err := parquet.OpenFile(r, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true), parquet.ReadBufferSize(64<<10))
	if err != nil {
		return stats, fmt.Errorf("%w: %w", ErrIndex, err)
	}
	if v, _ := file.Lookup(keyVersion); v != strconv.Itoa(indexVersion) || len(file.Schema().Columns()) != len(fields) {
		return stats, ErrIndex
	}
	s := &scan{q: q, stats: &stats, limit: limit, yield: yield, ctx: ctx}
	stats.Rows, stats.Groups = file.NumRows(), len(file.RowGroups())
	for _, g := range file.RowGroups() {
		if err := s.group(g); err != nil {
			if errors.Is(err, errEnough) {
				return stats, nil
			}
			return stats, err
		}
	}
	return stats, nil
}

// scan is one Scan under way. It lives no longer than the call.
type scan struct {
	q     *Query
	ctx   context.Context //nolint:containedctx // of the call that the scan is
	stats *Stats
	limit int
	yield func(trace.Event) bool

	every []int32 // 0, 1, 2, …
	g     *group
	why   error // of the first fault
	spare [][]int32
	space [][]verdict
}

// group is one row group as far as it was looked at.
type group struct {
	rows    parquet.RowGroup
	n       int
	columns []*columnData // by field
	asked   [][]verdict   // by leaf: its verdict on each value of its field
	tuples  []map[tuple]verdict
	touched bool  // more than dictionaries was read
	row     int32 // that ResolveName speaks of
}

// tuple are the codes of the values that a leaf with several fields looks at.
type tuple [4]int32

// maxTuples is how many a leaf remembers.
const maxTuples = 1 << 18

func (s *scan) group(rows parquet.RowGroup) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	n := int(rows.NumRows())
	s.g = &group{rows: rows, n: n, columns: make([]*columnData, len(fields)), asked: make([][]verdict, s.q.leaves), tuples: make([]map[tuple]verdict, s.q.leaves)}
	defer s.g.close()
	if s.g.outside(s.q.root) {
		s.stats.Skipped++
		return nil
	}
	for i := len(s.every); i < n; i++ {
		s.every = append(s.every, int32(i))
	}
	out := s.verdicts(n)
	defer s.giveBack(out)
	if err := s.ask(s.q.root, s.every[:n], out); err != nil {
		return err
	}
	if !s.g.touched {
		s.stats.Skipped++
	}
	return s.emit(out)
}

// outside reports whether the bounds of a column tell that no row can match.
func (g *group) outside(c *cond) bool {
	switch c.op {
	case all:
		return slices.ContainsFunc(c.parts, g.outside)
	case some:
		return !slices.ContainsFunc(c.parts, func(part *cond) bool { return !g.outside(part) })
	case not:
		return false
	}
	if c.onNumber == nil || c.low == math.MinInt64 && c.high == math.MaxInt64 {
		return false
	}
	chunk, ok := g.rows.ColumnChunks()[columnOf[c.fields[0]]].(*parquet.FileColumnChunk)
	if !ok {
		return false
	}
	low, high, ok := chunk.Bounds()
	return ok && (high.Int64() < c.low || low.Int64() > c.high)
}

// ask fills in the verdict of a condition on each of rows.
func (s *scan) ask(c *cond, rows []int32, out []verdict) error {
	switch {
	case len(rows) == 0:
		return nil
	case c.op == not:
		if err := s.ask(c.parts[0], rows, out); err != nil {
			return err
		}
		for i, v := range out {
			out[i] = v.not()
		}
		return nil
	case c.op != leaf:
		return s.askParts(c, rows, out)
	case len(c.fields) == 1:
		return s.askField(c, rows, out)
	}
	return s.askRows(c, rows, out)
}

// askParts asks one part after the other of the rows that none before has decided.
func (s *scan) askParts(c *cond, rows []int32, out []verdict) error {
	decides, otherwise := no, yes
	if c.op == some {
		decides, otherwise = yes, no
	}
	left, places := append(s.ints(), rows...), append(s.ints(), s.every[:len(rows)]...)
	part := s.verdicts(len(rows))
	defer func() { s.spare = append(s.spare, left, places); s.giveBack(part) }()
	for i := range out {
		out[i] = otherwise
	}
	for _, p := range c.parts {
		if err := s.ask(p, left, part[:len(left)]); err != nil {
			return err
		}
		n := 0
		for i, at := range places {
			if v := part[i]; v == decides || v == fault {
				out[at] = v
				if v == decides {
					continue
				}
			}
			left[n], places[n] = left[i], at
			n++
		}
		left, places = left[:n], places[:n]
	}
	return nil
}

// askField asks once for every value of the one field that a leaf looks at.
func (s *scan) askField(c *cond, rows []int32, out []verdict) error {
	f := c.fields[0]
	col, err := s.g.column(f)
	if err != nil {
		return err
	}
	if !col.coded() {
		return s.askNumbers(c, col, rows, out)
	}
	table := s.g.asked[c.id]
	if table == nil {
		table = make([]verdict, col.size())
		s.g.asked[c.id] = table
	}
	if len(table) <= len(rows) {
		same, err := s.askAll(c, col, table)
		if err != nil {
			return err
		}
		if same != unasked {
			for i := range out {
				out[i] = same
			}
			return nil
		}
	}
	codes, err := s.g.codes(f)
	if err != nil {
		return err
	}
	for i, row := range rows {
		code := codes[row]
		if table[code] == unasked {
			if table[code], err = s.askValue(c, col, code); err != nil {
				return err
			}
		}
		out[i] = table[code]
	}
	return nil
}

// askAll asks of all values of a field, and returns the verdict if there is but one.
func (s *scan) askAll(c *cond, col *columnData, table []verdict) (same verdict, err error) {
	for code := range table {
		if table[code] == unasked {
			if table[code], err = s.askValue(c, col, int32(code)); err != nil {
				return unasked, err
			}
		}
		if code > 0 && table[code] != table[0] {
			same = fault + 1
		}
	}
	if same != unasked || len(table) == 0 {
		return unasked, nil
	}
	return table[0], nil
}

func (s *scan) askValue(c *cond, col *columnData, code int32) (verdict, error) {
	switch {
	case c.onText != nil:
		return verdictOf(c.onText(col.text(code))), nil
	case c.onNumber != nil:
		return verdictOf(c.onNumber(col.number(code))), nil
	case c.fast != nil:
		if v := c.fast(entry{col, code}); v != fault {
			return v, nil
		}
	}
	return s.cel(c, one{c.fields[0], col.value(code)})
}

// cel asks CEL, and gives up with the scan's context.
func (s *scan) cel(c *cond, vars cel.Activation) (verdict, error) {
	s.stats.Asked++
	v, err := c.eval(s.ctx, vars)
	if v != fault {
		return v, nil
	}
	if s.ctx.Err() != nil {
		return v, s.ctx.Err()
	}
	if s.why == nil {
		s.why = err
	}
	return v, nil
}

// entry is one value of a dictionary.
type entry struct {
	col  *columnData
	code int32
}

func (e entry) text(int) string  { return e.col.text(e.code) }
func (e entry) number(int) int64 { return e.col.number(e.code) }

// one is the activation of a leaf with one field.
type one struct {
	field int
	value ref.Val
}

// ResolveName returns the value of the field.
func (o one) ResolveName(name string) (any, bool) {
	if fieldOf[name] != o.field {
		return nil, false
	}
	return o.value, true
}

// Parent is nil: there is nothing but the field.
func (o one) Parent() cel.Activation { return nil }

// askNumbers asks of a column that has no dictionary.
func (s *scan) askNumbers(c *cond, col *columnData, rows []int32, out []verdict) (err error) {
	numbers, err := s.g.numbers(c.fields[0])
	if err != nil {
		return err
	}
	for i, row := range rows {
		if i%4096 == 0 && s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		if c.onNumber != nil {
			out[i] = verdictOf(c.onNumber(numbers[row]))
			continue
		}
		s.g.row = row
		if c.fast != nil {
			if out[i] = c.fast(s.g); out[i] != fault {
				continue
			}
		}
		if out[i], err = s.cel(c, one{c.fields[0], numberOf(col.field.kind, numbers[row])}); err != nil {
			return err
		}
	}
	return nil
}

// askRows asks row by row, but only once for the same values.
func (s *scan) askRows(c *cond, rows []int32, out []verdict) error {
	coded := len(c.fields) <= len(tuple{})
	for _, f := range c.fields {
		col, err := s.g.load(f)
		if err != nil {
			return err
		}
		coded = coded && col.coded()
	}
	known := s.g.tuples[c.id]
	if known == nil {
		known = make(map[tuple]verdict)
		s.g.tuples[c.id] = known
	}
	for i, row := range rows {
		if i%4096 == 0 && s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		s.g.row = row
		if c.fast != nil {
			if out[i] = c.fast(s.g); out[i] != fault {
				continue
			}
		}
		var key tuple
		if coded {
			key = s.g.tuple(c.fields, row)
			if v, ok := known[key]; ok {
				out[i] = v
				continue
			}
		}
		v, err := s.cel(c, s.g)
		if err != nil {
			return err
		}
		out[i] = v
		if coded && len(known) < maxTuples {
			known[key] = v
		}
	}
	return nil
}

func (g *group) tuple(fields []int, row int32) (t tuple) {
	for k, f := range fields {
		t[k] = g.columns[f].code[row]
	}
	return t
}

func (g *group) text(f int) string {
	c := g.columns[f]
	return c.text(c.code[g.row])
}

func (g *group) number(f int) int64 {
	c := g.columns[f]
	if !c.coded() {
		return c.plain[g.row]
	}
	return c.number(c.code[g.row])
}

// ResolveName returns the value of a field in the group's current row.
func (g *group) ResolveName(name string) (any, bool) {
	i, ok := fieldOf[name]
	if !ok || g.columns[i] == nil {
		return nil, false
	}
	col := g.columns[i]
	if !col.coded() {
		return numberOf(col.field.kind, col.plain[g.row]), true
	}
	return col.value(col.code[g.row]), true
}

// Parent is nil: there is nothing but the row.
func (g *group) Parent() cel.Activation { return nil }

// emit yields the rows that match.
func (s *scan) emit(out []verdict) error {
	for row, v := range out {
		if v == fault {
			s.stats.Faults++
			s.stats.Fault = s.why
		}
		if v != yes {
			continue
		}
		e, err := s.g.event(int32(row))
		if err != nil {
			return err
		}
		s.stats.Matched++
		if !s.yield(e) || s.limit > 0 && s.stats.Matched >= int64(s.limit) {
			return errEnough
		}
		if s.stats.Matched%1024 == 0 && s.ctx.Err() != nil {
			return s.ctx.Err()
		}
	}
	return nil
}

// ints and verdicts are slices from earlier use.
func (s *scan) ints() []int32 {
	if n := len(s.spare); n > 0 {
		out := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return out[:0]
	}
	return make([]int32, 0, s.g.n)
}

func (s *scan) verdicts(n int) []verdict {
	if k := len(s.space); k > 0 && cap(s.space[k-1]) >= n {
		out := s.space[k-1][:n]
		s.space = s.space[:k-1]
		clear(out)
		return out
	}
	return make([]verdict, n)
}

func (s *scan) giveBack(v []verdict) { s.space = append(s.space, v) }

package query

import (
	"errors"
	"fmt"
	"io"
	"unsafe"

	"cel.dev/cel-go/common/types/ref"
	"github.com/parquet-go/parquet-go"

	"github.com/muster-ci/muster/internal/trace"
)

// columnData is one column of a row group: a dictionary and a code for each row, or for
// the few columns without a dictionary a number for each row.
type columnData struct {
	field *field
	pages *parquet.FilePages

	// Of the dictionary: texts in one piece with where each begins, or numbers.
	bytes   []byte
	offsets []uint32
	entries []int64
	boxed   []ref.Val // what CEL was given of it

	code  []int32
	plain []int64
}

func (c *columnData) coded() bool { return !plain[c.field.name] }

func (c *columnData) size() int {
	if c.field.textual() {
		return max(0, len(c.offsets)-1)
	}
	return len(c.entries)
}

// text is a value of the dictionary. It lives no longer than the group.
func (c *columnData) text(code int32) string {
	b := c.bytes[c.offsets[code]:c.offsets[code+1]]
	return unsafe.String(unsafe.SliceData(b), len(b))
}

func (c *columnData) number(code int32) int64 { return c.entries[code] }

// value is a value of the dictionary for CEL.
func (c *columnData) value(code int32) ref.Val {
	if c.boxed == nil {
		c.boxed = make([]ref.Val, c.size())
	}
	if c.boxed[code] == nil {
		if c.field.textual() {
			c.boxed[code] = valueOf(c.field.kind, c.text(code))
		} else {
			c.boxed[code] = numberOf(c.field.kind, c.number(code))
		}
	}
	return c.boxed[code]
}

// column opens a field's column and reads its dictionary.
func (g *group) column(f int) (*columnData, error) {
	if c := g.columns[f]; c != nil {
		return c, nil
	}
	pages, ok := g.rows.ColumnChunks()[columnOf[f]].Pages().(*parquet.FilePages)
	if !ok {
		return nil, fmt.Errorf("%w: column %s", ErrIndex, fields[f].name)
	}
	c := &columnData{field: &fields[f], pages: pages}
	g.columns[f] = c
	if !c.coded() {
		return c, nil
	}
	dictionary, err := pages.ReadDictionary()
	if err != nil {
		return nil, fmt.Errorf("read the values of %s: %w", fields[f].name, err)
	}
	if dictionary == nil {
		return nil, fmt.Errorf("%w: column %s has no dictionary", ErrIndex, fields[f].name)
	}
	data := dictionary.Page().Data()
	if c.field.textual() {
		c.bytes, c.offsets = data.ByteArray()
	} else {
		c.entries = data.Int64()
	}
	return c, nil
}

// load opens a column and reads all of it.
func (g *group) load(f int) (*columnData, error) {
	c, err := g.column(f)
	if err != nil || c.code != nil || c.plain != nil {
		return c, err
	}
	g.touched = true
	c.code, c.plain = make([]int32, 0, g.n), make([]int64, 0, g.n)
	for {
		page, err := c.pages.ReadPage()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read column %s: %w", c.field.name, err)
		}
		switch data := page.Data(); {
		case c.coded() && page.Dictionary() != nil:
			c.code = append(c.code, data.Int32()...)
		case !c.coded():
			c.plain = append(c.plain, data.Int64()...)
		}
		parquet.Release(page)
	}
	if len(c.code)+len(c.plain) != g.n {
		return nil, fmt.Errorf("%w: column %s has %d rows of %d", ErrIndex, c.field.name, len(c.code)+len(c.plain), g.n)
	}
	return c, nil
}

func (g *group) codes(f int) ([]int32, error) {
	c, err := g.load(f)
	if err != nil {
		return nil, err
	}
	return c.code, nil
}

func (g *group) numbers(f int) ([]int64, error) {
	c, err := g.load(f)
	if err != nil {
		return nil, err
	}
	return c.plain, nil
}

// event puts a row together again.
func (g *group) event(row int32) (trace.Event, error) {
	var e trace.Event
	for i := range fields {
		c, err := g.column(i)
		if err != nil {
			return e, err
		}
		code := int32(0)
		if !c.coded() || c.size() != 1 { // a single value needs no codes
			if c, err = g.load(i); err != nil {
				return e, err
			}
		}
		switch {
		case !c.coded():
			c.field.setNum(&e, c.plain[row])
			continue
		case c.size() != 1:
			code = c.code[row]
		}
		if !c.field.textual() {
			c.field.setNum(&e, c.number(code))
		} else if s := c.text(code); s != "" {
			c.field.setStr(&e, string([]byte(s))) // the text outlives the group
		}
	}
	return e, nil
}

func (g *group) close() {
	for _, c := range g.columns {
		if c != nil {
			_ = c.pages.Close() // it only gives back memory
		}
	}
}

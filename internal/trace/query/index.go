package query

import (
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"github.com/muster-ci/muster/internal/trace"
)

// indexVersion is in the file's metadata; Scan refuses others.
const indexVersion = 1

// groupRows is how many rows a row group has: what is skipped or read as one, and what has
// a dictionary of its own.
const groupRows = 1 << 17

// Sizes of a page of a column in bytes, which the writer takes for each column as soon as it
// has a value: largePage is 17 MiB for all of them. Traces of up to flushRows events get
// smallPage, in which as many values have room.
const (
	largePage = 1 << 20
	smallPage = 16 << 10
	flushRows = 1024
)

// Keys of the file's metadata.
const (
	keyVersion = "muster.index"
	keyEvents  = "muster.events"
)

// plain are the columns that have hardly a value twice; the others have dictionaries.
var plain = map[string]bool{"seq": true, "timestamp": true}

// schema has a required column for each field, its zero value where an event has none.
var schema = func() *parquet.Schema {
	codec := &zstd.Codec{Level: zstd.SpeedDefault, Concurrency: 1}
	group := make(parquet.Group, len(fields))
	for _, f := range fields {
		group[f.name] = parquet.Compressed(column(f), codec)
	}
	return parquet.NewSchema("trace", group)
}()

func column(f field) parquet.Node {
	var n parquet.Node
	switch f.kind {
	case text:
		n = parquet.String()
	case stamp:
		n = parquet.Timestamp(parquet.Nanosecond)
	case list, tally, open:
		n = parquet.JSON()
	default:
		n = parquet.Int(64)
	}
	if plain[f.name] {
		return parquet.Encoded(n, &parquet.DeltaBinaryPacked)
	}
	return parquet.Encoded(n, &parquet.RLEDictionary)
}

// columnOf is the number in the file of each field's column: they are in the order of their names.
var columnOf = func() []int {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	slices.Sort(names)
	at := make([]int, len(fields))
	for i, f := range fields {
		at[i], _ = slices.BinarySearch(names, f.name)
	}
	return at
}()

// WriteIndex writes the events of one trace as a Parquet file, in their order, and returns how
// many there were. Every field has a column under its JSON name, so that the file stands
// for the trace; lists and maps are JSON. It stops at the first error of events.
func WriteIndex(w io.Writer, events iter.Seq2[trace.Event, error]) (n int64, err error) {
	return writeIndex(w, events, groupRows)
}

func writeIndex(w io.Writer, events iter.Seq2[trace.Event, error], groupRows int64) (n int64, err error) {
	var file *parquet.GenericWriter[any]
	begin := func(page int) {
		file = parquet.NewGenericWriter[any](w, schema, parquet.CreatedBy("muster", "", ""), parquet.PageBufferSize(page),
			parquet.SortingWriterConfig(parquet.SortingColumns(parquet.Ascending("seq"))),
			parquet.KeyValueMetadata(keyVersion, strconv.Itoa(indexVersion)))
	}
	rows := make([][]parquet.Value, len(fields))
	flush := func() error {
		columns := file.ColumnWriters()
		for i := range fields {
			if len(rows[i]) == 0 {
				continue // nothing came since: an empty slice is computed with as a bad pointer
			}
			if _, err := columns[columnOf[i]].WriteRowValues(rows[i]); err != nil {
				return fmt.Errorf("write column %s: %w", fields[i].name, err)
			}
			rows[i] = rows[i][:0]
		}
		return nil
	}
	for e, err := range events {
		if err != nil {
			return n, err
		}
		for i := range fields {
			rows[i] = append(rows[i], value(&fields[i], &e, columnOf[i]))
		}
		if n++; n%flushRows == 0 {
			if file == nil {
				begin(largePage)
			}
			if err := flush(); err != nil {
				return n, err
			}
		}
		if n%groupRows == 0 {
			if err := file.Flush(); err != nil {
				return n, fmt.Errorf("write row group: %w", err)
			}
		}
	}
	if file == nil {
		begin(smallPage)
	}
	if err := flush(); err != nil {
		return n, err
	}
	file.SetKeyValueMetadata(keyEvents, strconv.FormatInt(n, 10))
	if err := file.Close(); err != nil {
		return n, fmt.Errorf("write index: %w", err)
	}
	return n, nil
}

func value(f *field, e *trace.Event, column int) parquet.Value {
	if f.textual() {
		return parquet.ByteArrayValue([]byte(f.str(e))).Level(0, 0, column)
	}
	return parquet.Int64Value(f.num(e)).Level(0, 0, column)
}

package workflow

import "strings"

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

func (w *Workflow) find(key string) *Job {
	for _, j := range w.Jobs {
		if strings.EqualFold(j.Key, key) {
			return j
		}
	}
	return nil
}

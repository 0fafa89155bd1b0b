package web

import (
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace/view"
)

// filesTab is the tree of files that were touched.
type filesTab struct {
	Kind  string // "", "reads", "writes", "creates", "deletes", "renames"
	Kinds []typeLink
	Query string
	Total view.FileCounts
	// Rows are the directories and files of At, or what a search found.
	Rows      []fileRow
	More      int // rows after the last
	Next      string
	At        string // the directory, "/" for all
	Above     []processName
	Cut       bool // a search found more
	Folded    int64
	Distinct  int64
	Sensitive []sensitiveRow
	CutSecret int64
	Renamed   []renameRow
	Largest   []topRow
}

// Part is what the script asks for when a directory is unfolded.
func (filesTab) Part() string { return "files" }

// renameRow is a file that got another name.
type renameRow struct {
	view.Rename
	Old, New clipped
	StepOf   clipped
}

// fileRow is one directory or file.
type fileRow struct {
	view.FileCounts
	Name clipped
	Path string
	Dir  bool
	// Files is how many are below a directory; Folded that these are only counted.
	Files     int64
	Folded    bool
	Sensitive string
	Secrets   int64
	Programs  clipped
	StepOf    clipped
	Link      string
	Kids      []fileRow
	More      int
	Next      string
	Lazy      bool
	W         int // how much of the whole it is, as a bar

	dir *view.Dir // nil of a file
}

// below is the path of a name in a directory. It is not cleaned: a name is what it is.
func below(at, name string) string { return strings.TrimSuffix(at, "/") + "/" + name }

// ID is an id for the row of a directory: a path may have any character.
func (r fileRow) ID() string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(r.Path)) // a hash takes everything
	return fmt.Sprintf("d-%016x", h.Sum64())
}

const (
	fileBudget = 70
	fileKids   = 200
)

// fileKinds are the kinds of access that the tree may be narrowed to.
var fileKinds = []struct{ Kind, Title string }{{"", "All"}, {"reads", "Read"}, {"writes", "Written"}, {"creates", "Created"}, {"deletes", "Deleted"}, {"renames", "Renamed"}}

// writings is how often files were opened to be written, those that it created included.
func writings(c view.FileCounts) int64 { return c.Writes + c.Creates }

// ofKind is the number of accesses of a kind.
func ofKind(c view.FileCounts, kind string) int64 {
	switch kind {
	case "reads":
		return c.Reads
	case "writes":
		return writings(c)
	case "creates":
		return c.Creates
	case "deletes":
		return c.Deletes
	case "renames":
		return c.Renames
	}
	return c.Reads + c.Writes + c.Creates + c.Deletes + c.Renames
}

// fileTree is a walk over the tree of files.
type fileTree struct {
	p     *tracePage
	kind  string
	whole int64
}

// children are the rows of a directory: its directories and files of which there is
// something of the kind, the most touched first among directories, then files by name.
func (f *fileTree) children(d *view.Dir, at string) []fileRow {
	var rows []fileRow
	for _, sub := range d.Dirs {
		n := ofKind(sub.Total, f.kind)
		if n == 0 {
			continue
		}
		name, full, inner := sub.Name, below(at, sub.Name), sub
		for len(inner.Dirs) == 1 && len(inner.Files) == 0 && inner.Folded == 0 { // a/b/c in one row
			inner = inner.Dirs[0]
			name, full = name+"/"+inner.Name, below(full, inner.Name)
		}
		rows = append(rows, fileRow{FileCounts: sub.Total, Name: clipPath(70, name+"/"), Path: full, Dir: true, Files: sub.Distinct, Secrets: sub.Sensitive, Lazy: true, Link: f.p.With("files", "dir", full, "kind", f.kind), W: sliver(n, f.whole), dir: inner})
	}
	for _, file := range d.Files {
		n := ofKind(file.FileCounts, f.kind)
		if n == 0 {
			continue
		}
		rows = append(rows, f.file(file, at, n))
	}
	if n := ofKind(d.FoldedCounts, f.kind); n > 0 {
		rows = append(rows, fileRow{FileCounts: d.FoldedCounts, Name: clipped{Text: plural(int(d.Folded), "more file", "more files")}, Folded: true, Files: d.Folded, W: sliver(n, f.whole)})
	}
	return rows
}

func (f *fileTree) file(file view.File, at string, n int64) fileRow {
	full := below(at, file.Name)
	return fileRow{FileCounts: file.FileCounts, Name: clipPath(70, file.Name), Path: full, Sensitive: visible(file.Sensitive, 60), Programs: clip(40, strings.Join(file.Programs, ", ")), StepOf: f.p.Step(file.Step), W: sliver(n, f.whole), Link: f.p.traceSearch("path == " + strconv.Quote(full))}
}

// unfold is a page of a directory's rows, unfolded as far as the budget goes.
func (f *fileTree) unfold(d *view.Dir, at string, nth, budget int) (rows []fileRow, more int) {
	all := f.children(d, at)
	nth = min(max(nth, 0), len(all))
	rows = all[nth:min(nth+fileKids, len(all))]
	budget -= len(rows)
	queue := make([]*fileRow, 0, len(rows))
	for i := range rows {
		queue = append(queue, &rows[i])
	}
	for len(queue) > 0 {
		r := queue[0]
		queue = queue[1:]
		if !r.Dir || f.kind == "" && len(r.dir.Dirs)+len(r.dir.Files) > budget {
			continue
		}
		kids := f.children(r.dir, r.Path)
		if len(kids) == 0 || len(kids) > budget {
			continue
		}
		budget -= len(kids)
		r.Kids, r.Lazy = kids, false
		for i := range r.Kids {
			queue = append(queue, &r.Kids[i])
		}
	}
	return rows, len(all) - nth - len(rows)
}

// dirAt is the directory of a path, nil if it is not in the tree.
func dirAt(root *view.Dir, at string) *view.Dir {
	d := root
	for name := range strings.SplitSeq(strings.Trim(at, "/"), "/") {
		if name == "" || d == nil {
			continue
		}
		i := slices.IndexFunc(d.Dirs, func(sub *view.Dir) bool { return sub.Name == name })
		if i < 0 {
			return nil
		}
		d = d.Dirs[i]
	}
	return d
}

func (s *site) traceFiles(_ *http.Request, p *tracePage) (any, error) {
	v := p.Views
	t := filesTab{Kind: p.params.Get("kind"), Query: text(p.params, "q"), At: "/"}
	for _, k := range fileKinds {
		t.Kinds = append(t.Kinds, typeLink{k.Title, p.With("files", "kind", k.Kind), k.Kind == t.Kind})
	}
	if !slices.ContainsFunc(fileKinds, func(k struct{ Kind, Title string }) bool { return k.Kind == t.Kind }) {
		return nil, muster.Errorf(muster.CodeInvalid, "there is no kind of access %q", text(p.params, "kind"))
	}
	p.fileLists(&t)
	if v.Files == nil {
		return t, nil
	}
	t.Total, t.Distinct = v.Files.Total, v.Files.Distinct
	tree := &fileTree{p: p, kind: t.Kind, whole: ofKind(v.Files.Total, t.Kind)}
	if t.Query != "" {
		t.Rows, t.Cut = tree.find(strings.ToLower(t.Query))
		return t, nil
	}
	dir := v.Files
	if at := p.params.Get("dir"); at != "" && at != "/" {
		if dir = dirAt(v.Files, at); dir == nil {
			return nil, muster.Errorf(muster.CodeNotFound, "the trace has no directory %s in its tree", clipPath(80, at).Text)
		}
		t.At = "/" + strings.Trim(at, "/")
		t.Above = p.dirsAbove(t.At, t.Kind)
	}
	nth, err := number(p.params, "from")
	if err != nil {
		return nil, err
	}
	t.Rows, t.More = tree.unfold(dir, t.At, int(nth), fileBudget)
	if t.More > 0 {
		t.Next = p.With("files", "dir", t.At, "kind", t.Kind, "from", int(nth)+len(t.Rows))
	}
	return t, nil
}

// dirsAbove are the directories on the way to one, itself included.
func (p *tracePage) dirsAbove(at, kind string) []processName {
	out := []processName{{clipped{Text: "/"}, p.With("files", "kind", kind)}}
	full := ""
	for name := range strings.SplitSeq(strings.Trim(at, "/"), "/") {
		full += "/" + name
		out = append(out, processName{clipPath(40, name+"/"), p.With("files", "dir", full, "kind", kind)})
	}
	return out
}

// fileLists fills in the lists beside the tree.
func (p *tracePage) fileLists(t *filesTab) {
	const most = 50
	tops := p.Views.FileTops
	for _, f := range tops.Sensitive[:min(most, len(tops.Sensitive))] {
		t.Sensitive = append(t.Sensitive, sensitiveRow{f, clipPath(80, f.Path)})
	}
	t.CutSecret = tops.HiddenSensitive + int64(len(tops.Sensitive)-len(t.Sensitive))
	for _, r := range tops.Renamed[:min(20, len(tops.Renamed))] {
		t.Renamed = append(t.Renamed, renameRow{r, clipPath(60, r.From), clipPath(60, r.To), p.Step(r.Step)})
	}
	t.Largest = topRows(tops.Largest[:min(10, len(tops.Largest))], func(x view.Top) int64 { return x.Bytes }, formatBytes, func(x view.Top) string { return p.traceSearch("path == " + strconv.Quote(x.Name)) })
}

// find are the files whose path has a text, case ignored.
func (f *fileTree) find(q string) (rows []fileRow, cut bool) {
	type place struct {
		d  *view.Dir
		at string
	}
	work := []place{{f.p.Views.Files, "/"}}
	for len(work) > 0 {
		at := work[len(work)-1]
		work = work[:len(work)-1]
		for _, file := range at.d.Files {
			full := below(at.at, file.Name)
			n := ofKind(file.FileCounts, f.kind)
			if n == 0 || !strings.Contains(strings.ToLower(full), q) {
				continue
			}
			if len(rows) == maxFound {
				return rows, true
			}
			r := f.file(file, at.at, n)
			r.Name = clipPath(110, full)
			rows = append(rows, r)
		}
		for _, sub := range slices.Backward(at.d.Dirs) {
			work = append(work, place{sub, below(at.at, sub.Name)})
		}
	}
	return rows, false
}

// Counts says the accesses of a row in words, for pointers and readers of the screen.
func (r fileRow) Counts() string {
	var parts []string
	for _, k := range []struct {
		n    int64
		word string
	}{{r.Reads, "read"}, {writings(r.FileCounts), "written"}, {r.Creates, "created"}, {r.Deletes, "deleted"}, {r.Renames, "renamed"}} {
		if k.n > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", k.word, formatNumber(k.n)))
		}
	}
	if r.Bytes > 0 {
		parts = append(parts, formatBytes(r.Bytes))
	}
	return strings.Join(parts, ", ")
}

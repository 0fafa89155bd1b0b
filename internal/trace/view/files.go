package view

import (
	"cmp"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/muster-ci/muster/internal/trace"
)

// files is the tree of files while it is made.
type files struct {
	root    *node
	byPath  map[string]*node // files only
	nodes   int
	foldAt  int
	writers map[string]*Top

	secrets       map[secretKey]*SensitiveFile
	hiddenSecrets int64
	renamed       []Rename
	hiddenRenamed int64
}

type secretKey struct {
	path, program string
	step          int
}

// node is a directory (kids is not nil) or a file.
type node struct {
	name   string
	path   string // of a file, as its key
	parent *node
	depth  int
	kids   map[string]*node
	File   // of a file; of a directory, what was done to itself
	folded int64
	counts FileCounts // of what was folded
}

func newFiles() files {
	return files{
		root: &node{name: "/", kids: map[string]*node{}}, byPath: make(map[string]*node), foldAt: 2 * maxFiles,
		writers: make(map[string]*Top), secrets: make(map[secretKey]*SensitiveFile),
	}
}

// kinds are what one event did to a file.
func kinds(e *trace.Event) FileCounts {
	n := times(e)
	var c FileCounts
	switch e.Type {
	case trace.FileOpen:
		if e.Opened("create") {
			c.Creates = n
		} else if e.Opened("write") || e.Opened("append") || e.Opened("truncate") {
			c.Writes = n
		}
		if e.Opened("read") || e.Opened("exec") || c == (FileCounts{}) {
			c.Reads = n
		}
	case trace.FileWrite:
		c.Bytes = max(0, e.Bytes)
	case trace.FileDelete:
		c.Deletes = n
	case trace.FileRename:
		c.Renames = n
	case trace.FileLink:
		c.Reads = n // by the new name it can be read
	}
	return c
}

func (c *FileCounts) add(d FileCounts) {
	c.Reads += d.Reads
	c.Writes += d.Writes
	c.Creates += d.Creates
	c.Deletes += d.Deletes
	c.Renames += d.Renames
	c.Bytes += d.Bytes
}

// kind is the strongest thing that was done.
func (c FileCounts) kind() string {
	switch {
	case c.Writes > 0 || c.Bytes > 0:
		return "write"
	case c.Creates > 0:
		return "create"
	case c.Renames > 0:
		return "rename"
	case c.Deletes > 0:
		return "delete"
	}
	return "read"
}

// file takes an event of a file.
func (b *Builder) file(s *step, p *proc, e *trace.Event) {
	program := programOf(p, e)
	c := kinds(e)
	n := b.touch(s, e, e.Path, program, c)
	if e.Type == trace.FileWrite && n.Writes+n.Creates == 0 {
		c.Writes = 1 // it was opened unseen: before the recorder, or by an inherited descriptor
		n.Writes = 1
	}
	if e.Type == trace.FileRename {
		b.touch(s, e, e.NewPath, program, FileCounts{Creates: times(e)})
		b.files.rename(e, program)
	}
	if e.Type == trace.FileLink {
		b.touch(s, e, e.NewPath, program, FileCounts{Creates: times(e)})
	}
	for _, t := range []*tally{&s.tally, &b.total} {
		t.add(c)
		t.files.add(e.Path)
	}
	if p != nil {
		p.Files += times(e)
		p.Written += c.Bytes
	}
	if c.Bytes > 0 {
		w := b.files.writers
		name := capped(w, program, maxNames)
		if w[name] == nil {
			w[name] = &Top{Name: name}
		}
		w[name].Count += times(e)
		w[name].Bytes += c.Bytes
	}
}

// touch counts an access at its file in the tree.
func (b *Builder) touch(s *step, e *trace.Event, path, program string, c FileCounts) *node {
	n := b.files.find(path, e.Opened("directory"))
	if n.Seq == 0 && n.Programs == nil {
		n.Step, n.Seq = s.number, e.Seq
		if n.Sensitive = sensitiveTo(path, e.PID); s.number == 0 && runnersOwn(path) {
			n.Sensitive = "" // before the first step, only the runner is there
		}
	}
	n.add(c)
	n.Programs = appendNew(n.Programs, program, 4)
	if n.Sensitive != "" {
		s.Sensitive += times(e)
		b.total.Sensitive += times(e)
		b.sensitive(s, e, path, n.Sensitive, c.kind(), program)
	}
	return n
}

// sensitiveTo is Sensitive, and what of /proc belongs to another process.
func sensitiveTo(path string, pid int) string {
	rest, ok := strings.CutPrefix(path, "/proc/")
	if !ok {
		return Sensitive(path)
	}
	of, leaf, _ := strings.Cut(rest, "/")
	if (leaf == "environ" || leaf == "mem") && digits(of) && of != strconv.Itoa(pid) {
		return "another process's memory"
	}
	return ""
}

// runnersOwn reports whether a file is one in which a runner keeps its registration.
func runnersOwn(path string) bool {
	leaf := path[strings.LastIndexByte(path, '/')+1:]
	return leaf == ".runner" || leaf == ".credentials" || leaf == ".credentials_rsaparams"
}

func (b *Builder) sensitive(s *step, e *trace.Event, path, what, kind, program string) {
	f := &b.files
	key := secretKey{path, program, s.number}
	one := f.secrets[key]
	if one == nil {
		if len(f.secrets) >= maxSensitive {
			f.hiddenSecrets++
			return
		}
		one = &SensitiveFile{Path: path, What: what, Kind: kind, Program: program, PID: e.PID, Step: s.number, First: e.Timestamp, Seq: e.Seq}
		f.secrets[key] = one
	}
	one.Count += times(e)
	if strength(kind) > strength(one.Kind) {
		one.Kind = kind
	}
}

func strength(kind string) int {
	return slices.Index([]string{"read", "connect", "delete", "rename", "create", "write"}, kind)
}

func (f *files) rename(e *trace.Event, program string) {
	if len(f.renamed) >= maxRenames {
		f.hiddenRenamed++
		return
	}
	f.renamed = append(f.renamed, Rename{From: e.Path, To: e.NewPath, Program: program, Step: e.Step, Seq: e.Seq})
}

// find finds or makes the file, or the directory, of a path.
func (f *files) find(path string, dir bool) *node {
	if n, ok := f.byPath[path]; ok {
		return n
	}
	parts := pathParts(path)
	n := f.root
	for i, part := range parts {
		n = f.child(n, part, dir || i < len(parts)-1)
	}
	if n.path == "" && n != f.root {
		n.path = path
		f.byPath[path] = n
		if f.nodes > f.foldAt {
			f.fold(n)
		}
	}
	return n
}

// child finds or makes what a directory has under a name. What was a file and is a
// directory now becomes one.
func (f *files) child(of *node, name string, dir bool) *node {
	n := of.kids[name]
	if n == nil {
		n = &node{name: name, parent: of, depth: of.depth + 1}
		of.kids[name] = n
		f.nodes++
	}
	if dir && n.kids == nil {
		n.kids = make(map[string]*node)
	}
	return n
}

// pathParts are the names on the way to a file. What is not in the file system ("memfd:x",
// "socket:[1]") is below "(unnamed)", processes in /proc are one, and what is very deep
// is one name.
func pathParts(path string) []string {
	rest, ok := strings.CutPrefix(path, "/")
	if !ok {
		return []string{"(unnamed)", cmp.Or(path, "?")}
	}
	parts := slices.DeleteFunc(strings.SplitN(rest, "/", maxDepth), func(p string) bool { return p == "" })
	if len(parts) > 1 && parts[0] == "proc" && digits(parts[1]) {
		parts[1] = "[pid]"
	}
	return parts
}

// keepDepth is how deep a directory may be to stay when it is empty.
const keepDepth = 3

// fold counts the least interesting files at their directories and forgets them, all but
// one that is in use, and the directories that are empty after that, those near the root last.
func (f *files) fold(but *node) {
	list := make([]*node, 0, len(f.byPath))
	for _, n := range f.byPath {
		if n != but && len(n.kids) == 0 {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b *node) int {
		return cmp.Or(compare(a.interest(), b.interest()), cmp.Compare(a.path, b.path))
	})
	plain := sort.Search(len(list), func(i int) bool { return list[i].Sensitive != "" })
	f.dropSome(list[:plain], but)
	if f.nodes > maxFiles {
		f.sweep(f.root, but)
		f.dropSome(list[plain:], but)
	}
	f.foldAt = max(f.nodes, maxFiles) + maxFiles
}

// dropSome drops in order until there are few enough.
func (f *files) dropSome(list []*node, but *node) {
	for _, n := range list {
		if f.nodes <= maxFiles {
			return
		}
		if n.parent.kids[n.name] != n || len(n.kids) > 0 {
			continue // it went with what was in it
		}
		f.drop(n)
		for d := n.parent; len(d.kids) == 0 && d.depth > keepDepth && d != but; d = d.parent {
			f.drop(d)
		}
	}
}

// drop folds a file, or an empty directory, into the directory that has it.
func (f *files) drop(n *node) {
	delete(f.byPath, n.path) // "" of a directory that was only passed through, which is no key
	delete(n.parent.kids, n.name)
	f.nodes--
	n.parent.folded += n.folded
	n.parent.counts.add(n.counts)
	n.parent.counts.add(n.FileCounts)
	if n.kids == nil {
		n.parent.folded++
	}
}

// sweep drops all empty directories below n. Paths are at most maxDepth deep.
func (f *files) sweep(n, but *node) {
	for _, k := range n.kids {
		if k.kids == nil {
			continue
		}
		f.sweep(k, but)
		if len(k.kids) == 0 && k != but {
			f.drop(k)
		}
	}
}

// interest is how much a file deserves to be listed; those that hold secrets most.
func (n *node) interest() int64 {
	i := n.Bytes + 1000*(n.Writes+n.Creates) + 10_000*(n.Deletes+n.Renames) + n.Reads
	if n.Sensitive != "" {
		i += 1e12
	}
	return i
}

// view makes the tree and its lists.
func (f *files) view() (*Dir, FileTops) {
	tops := FileTops{Writers: greatest(maps.Values(f.writers), 50, func(t *Top) int64 { return t.Bytes }), HiddenSensitive: f.hiddenSecrets, Renamed: slices.Clone(f.renamed), HiddenRenamed: f.hiddenRenamed}
	for _, s := range f.secrets {
		tops.Sensitive = append(tops.Sensitive, *s)
	}
	slices.SortFunc(tops.Sensitive, func(a, b SensitiveFile) int {
		return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Program, b.Program), cmp.Compare(a.Step, b.Step))
	})
	largest := make(map[string]*Top)
	for path, n := range f.byPath {
		if n.Bytes > 0 && n.kids == nil {
			largest[path] = &Top{Name: path, Count: n.Writes + n.Creates, Bytes: n.Bytes}
		}
	}
	tops.Largest = greatest(maps.Values(largest), 50, func(t *Top) int64 { return t.Bytes })
	if len(f.root.kids) == 0 {
		return nil, tops
	}
	return f.root.dir(), tops
}

// dir makes a directory with all that is below. Paths are at most maxDepth deep.
func (n *node) dir() *Dir {
	d := &Dir{Name: n.name, Total: n.counts, Distinct: n.folded, Folded: n.folded, FoldedCounts: n.counts}
	d.Total.add(n.FileCounts)
	if n.Sensitive != "" {
		d.Sensitive++
	}
	for _, name := range slices.Sorted(maps.Keys(n.kids)) {
		k := n.kids[name]
		if k.kids == nil {
			file := k.File
			file.Name, file.Programs = name, slices.Clone(k.Programs)
			d.Files = append(d.Files, file)
			d.Total.add(k.FileCounts)
			d.Distinct++
			if k.Sensitive != "" {
				d.Sensitive++
			}
			continue
		}
		below := k.dir()
		d.Dirs = append(d.Dirs, below)
		d.Total.add(below.Total)
		d.Distinct += below.Distinct
		d.Sensitive += below.Sensitive
	}
	return d
}

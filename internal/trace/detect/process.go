package detect

import (
	"path"
	"slices"
	"strings"

	"github.com/muster-ci/muster/internal/trace"
)

// node is one image of a process: what it runs since its last exec. parent is what came
// before it: the image that it replaced, or that of its parent. A node never changes but
// for last and hosts, so that what is asked of its line of ancestors can be remembered.
type node struct {
	key    trace.Process
	parent *node
	depth  int
	exe    string
	args   []string
	line   string   // arguments joined by spaces
	names  []string // program and, of an interpreter, script
	dir    string
	uid    uint32
	step   int  // in which it began
	forked bool // it never ran a program of its own
	copied bool // its program was made by hand in a folder for temporary files, or in memory
	born   uint64
	ended  uint64 // when, in µs since boot; 0 while it lives or if it is not known
	root   int    // step in which the first of its ancestors below the runner began
	host   string // the last host outside that it connected to
	own    place  // of the runner itself
	// being and under remember by set whether the process, or an ancestor, is in it.
	being, under map[*matcher]bool
}

// maxDepth is how far ancestors are followed.
const maxDepth = 64

// maxProcesses bounds the table; the oldest are forgotten. Ancestors of those that are
// left stay, as long as they are.
const maxProcesses = 1 << 16

// lingering is how many ended processes are kept for events that come late.
const lingering = 4096

// processes is the table of those that live, or ended just now.
type processes struct {
	byKey map[trace.Process]*node
	byPID map[int]*node
	ended []trace.Process // a ring
	at    int
	order []trace.Process // by age, for the limit
	first trace.Process   // with which the trace began
}

// place is where a process stands among the runner's own. It follows from how the runner is
// started and not from names, which whoever wants to pass for the runner can choose: the
// trace begins with the shell of run.sh, its only program that is told to run is the
// listener, and what the listener starts from its own folder is a worker. Steps are
// programs of other folders, and nothing below them is the runner's.
type place int8

const (
	notOwn   place = iota
	ownShell       // run.sh, run-helper.sh
	ownListener
	ownWorker
)

// ownName is a name that the runner's own processes have, for sets. No file can have it.
const ownName = "runner/own"

func (p *processes) place(n *node) place {
	up := n.parent
	isShell := shells[path.Base(n.exe)]
	switch {
	case up == nil && n.key == p.first && isShell:
		return ownShell
	case up == nil:
		return notOwn
	case up.own == ownShell && isShell:
		return ownShell
	case up.own == ownShell && len(n.args) > 1 && n.args[1] == "run":
		return ownListener
	case up.own >= ownListener && path.Dir(n.exe) == path.Dir(up.exe):
		return ownWorker
	}
	return notOwn
}

// shells are those that run the runner's scripts.
var shells = map[string]bool{"sh": true, "bash": true, "dash": true, "busybox": true}

func newProcesses() *processes {
	return &processes{byKey: map[trace.Process]*node{}, byPID: map[int]*node{}, ended: make([]trace.Process, lingering)}
}

// see returns the node of an event's process, which it makes if it must.
func (p *processes) see(e *trace.Event) *node {
	if e.PID == 0 {
		return nil
	}
	key := e.Process()
	old := p.byKey[key]
	if e.Type == trace.ProcessExec {
		n := p.exec(e, old)
		p.put(key, n)
		return n
	}
	if old != nil {
		return old
	}
	n := p.forked(e)
	p.put(key, n)
	return n
}

func (p *processes) exec(e *trace.Event, old *node) *node {
	n := &node{key: e.Process(), exe: e.Path, args: e.Args, line: strings.Join(e.Args, " "), dir: e.Dir, uid: e.UID, step: e.Step, born: e.Seq}
	n.names = names(n.exe, n.args)
	switch {
	case old != nil && !old.forked:
		n.parent = old
	case old != nil && old.parent != nil:
		n.parent = old.parent
	default:
		n.parent = p.parent(e)
	}
	if p.first == (trace.Process{}) {
		p.first = n.key
	}
	if n.own = p.place(n); n.own != notOwn {
		n.names = append(n.names, ownName)
	}
	n.count()
	return n
}

// forked is a process that runs what its parent does.
func (p *processes) forked(e *trace.Event) *node {
	n := &node{key: e.Process(), parent: p.parent(e), uid: e.UID, step: e.Step, forked: true, born: e.Seq}
	if up := n.parent; up != nil {
		n.exe, n.args, n.line, n.names, n.dir, n.own, n.copied = up.exe, up.args, up.line, up.names, up.dir, up.own, up.copied
	} else {
		n.exe, n.line, n.names = e.Command, e.Command, []string{e.Command}
	}
	n.count()
	return n
}

func (p *processes) parent(e *trace.Event) *node {
	if e.PPID == 0 {
		return nil
	}
	if n := p.byKey[trace.Process{PID: e.PPID, Start: e.ParentStart}]; n != nil {
		return n
	}
	if e.ParentStart == 0 {
		return p.byPID[e.PPID]
	}
	return nil
}

func (n *node) count() {
	n.root = n.step
	if n.parent == nil {
		return
	}
	if n.parent.own == notOwn && !strings.HasPrefix(n.parent.program(), "Runner.") && n.parent.root != 0 {
		n.root = n.parent.root
	}
	n.depth = n.parent.depth + 1
	if n.depth > maxDepth { // a chain of execs without end must not hold all of them
		n.depth, n.parent = maxDepth, n.parent.parent
	}
}

func (p *processes) put(key trace.Process, n *node) {
	if _, there := p.byKey[key]; !there {
		p.order = append(p.order, key)
	}
	p.byKey[key], p.byPID[key.PID] = n, n
	for len(p.byKey) > maxProcesses && len(p.order) > 0 {
		oldest := p.order[0]
		p.order = p.order[1:]
		p.forget(oldest)
	}
}

func (p *processes) forget(key trace.Process) {
	if n := p.byKey[key]; n != nil && p.byPID[key.PID] == n {
		delete(p.byPID, key.PID)
	}
	delete(p.byKey, key)
}

// exit lets a process go after as many others have ended.
func (p *processes) exit(key trace.Process) {
	p.forget(p.ended[p.at])
	p.ended[p.at] = key
	p.at = (p.at + 1) % lingering
	if n := p.byKey[key]; n != nil {
		// It is kept under its key only: its number may be another's now.
		if p.byPID[key.PID] == n {
			delete(p.byPID, key.PID)
		}
	}
	if len(p.order) > 2*maxProcesses {
		p.compact()
	}
}

// compact drops from the order what is in the table no more.
func (p *processes) compact() {
	kept := p.order[:0]
	for _, key := range p.order {
		if p.byKey[key] != nil {
			kept = append(kept, key)
		}
	}
	p.order = kept
}

// overlap reports whether two processes may have lived at the same time.
func overlap(a, b *node) bool {
	if a == nil || b == nil {
		return false
	}
	return (a.ended == 0 || b.key.Start < a.ended) && (b.ended == 0 || a.key.Start < b.ended)
}

// program is the process's name for rules and people.
func (n *node) program() string {
	if n == nil || len(n.names) == 0 {
		return ""
	}
	return n.names[0]
}

// isUnder reports whether an ancestor is in the set.
func (n *node) isUnder(m *matcher) bool {
	if n == nil || n.parent == nil {
		return false
	}
	if known, ok := n.under[m]; ok {
		return known
	}
	found := false
	for up, i := n.parent, 0; up != nil && i < maxDepth; up, i = up.parent, i+1 {
		if known, ok := up.under[m]; ok {
			found = known || m.is(up)
			break
		}
		if m.is(up) {
			found = true
			break
		}
	}
	if n.under == nil {
		n.under = map[*matcher]bool{}
	}
	n.under[m] = found
	return found
}

// within reports whether n is other or came from it.
func (n *node) within(other *node) bool {
	for i := 0; n != nil && i <= maxDepth; n, i = n.parent, i+1 {
		if n == other || n.key == other.key {
			return true
		}
	}
	return false
}

// names are what a process is called: its program and, of an interpreter, the script
// that it runs, both without a folder and the script without its ending.
func names(exe string, args []string) []string {
	program := path.Base(exe)
	all := []string{program}
	if len(args) > 0 {
		if arg0 := strings.TrimPrefix(path.Base(args[0]), "-"); arg0 != program && arg0 != "" && arg0 != "." && arg0 != "/" && believed(program, arg0) {
			all = append(all, arg0)
		}
	}
	if len(args) > 1 && (program == "busybox" || program == "toybox") && path.Base(args[0]) == program {
		all = append(all, args[1])
	}
	if script := script(program, args); script != "" {
		all = append(all, script)
	}
	return all
}

// oneName are programs that do the same whatever they are called, and what they are called
// by honest callers. What else somebody calls them is a disguise and no name.
var oneName = func() map[string]string {
	m := map[string]string{
		"bash": "sh", "dash": "sh", "zsh": "sh", "ksh": "sh", "python": "python", "perl": "perl", "ruby": "ruby", "node": "node",
		"gawk": "awk", "mawk": "awk", "nc": "nc",
	}
	for _, tool := range strings.Fields("cat tac head tail nl od xxd hexdump strings base32 base64 grep sed cut sort tr tee dd cp mv install tar gzip bzip2 xz zstd openssl jq find xargs curl wget ncat socat env printenv") {
		m[tool] = tool
	}
	return m
}()

// believed reports whether the name that a caller gave to a program says what it is.
func believed(program, arg0 string) bool {
	honest, one := oneName[strings.TrimRight(program, "0123456789.")]
	return !one || strings.HasPrefix(arg0, honest)
}

// loose reports whether a program lies where anybody puts files, or is no file.
func loose(exe string) bool {
	for _, place := range []string{"/tmp/", "/var/tmp/", "/dev/shm/", "/memfd:"} {
		if strings.HasPrefix(exe, place) {
			return true
		}
	}
	return false
}

// interpreter says how a program's arguments are read: inline are the flags after which
// the program itself follows, takes those with a value, module the flag of a module's name.
type interpreter struct{ inline, takes, module string }

var (
	shell        = interpreter{inline: "-c -s -lc -ic -xc -ec -euc -exc -", takes: "-o +o -O --rcfile --init-file"}
	interpreters = map[string]interpreter{
		"sh": shell, "bash": shell, "dash": shell, "zsh": shell, "ksh": shell, "ash": shell,
		"node":   {inline: "-e -p -pe --eval --print -", takes: "-r --require --import --loader"},
		"nodejs": {inline: "-e -p -pe --eval --print -", takes: "-r --require --import --loader"},
		"bun":    {inline: "-e", takes: ""}, "deno": {inline: "eval"},
		"ruby": {inline: "-e -", takes: "-r -I"}, "perl": {inline: "-e -E -ne -pe -", takes: "-I -M"},
		"php": {inline: "-r -", takes: "-d -c"}, "python": {inline: "-c -", takes: "-X -W", module: "-m"},
	}
)

func has(words, word string) bool {
	for w := range strings.FieldsSeq(words) {
		if w == word {
			return true
		}
	}
	return false
}

// installed reports whether a script lies where tools are installed, so that its name says
// what it is. A package may call a file of its own npm-cli.js.
func installed(script string) bool {
	if !strings.HasPrefix(script, "/") || loose(script) {
		return false
	}
	if _, module, ok := strings.Cut(script, "/node_modules/"); ok {
		owner, _, _ := strings.Cut(module, "/")
		return has(".bin npm yarn pnpm corepack", owner)
	}
	for _, place := range []string{"/bin/", "/sbin/", "/site-packages/", "/dist-packages/"} {
		if strings.Contains(script, place) {
			return true
		}
	}
	return strings.HasPrefix(script, "/usr/") || strings.HasPrefix(script, "/opt/")
}

// script is the argument that is the script's file, "" if there is none.
func (in interpreter) script(args []string) string {
	for i := 1; i < len(args); i++ {
		switch a := args[i]; {
		case has(in.inline, a), in.module != "" && a == in.module:
			return ""
		case has(in.takes, a):
			i++
		case !strings.HasPrefix(a, "-") && !strings.HasPrefix(a, "+"):
			return a
		}
	}
	return ""
}

// script is the file that a process runs: the script of an interpreter, or its program.
func (n *node) script() string { return ranFile(n.exe, n.dir, n.args) }

func ranFile(exe, dir string, args []string) string {
	in, ok := interpreters[strings.TrimRight(path.Base(exe), "0123456789.")]
	if !ok {
		return exe
	}
	script := in.script(args)
	switch {
	case script == "":
		return exe
	case path.IsAbs(script):
		return path.Clean(script)
	}
	return path.Join("/", dir, script)
}

// script is what the script of an interpreter is called, "" if it has no name that says
// anything.
func script(program string, args []string) string {
	in, ok := interpreters[strings.TrimRight(program, "0123456789.")]
	if !ok {
		return ""
	}
	if at := slices.Index(args, in.module); in.module != "" && at > 0 && at+1 < len(args) && in.script(args[:at]) == "" {
		return args[at+1]
	}
	file := in.script(args)
	if !installed(file) {
		return ""
	}
	base := path.Base(file)
	switch ext := path.Ext(base); ext {
	case ".js", ".cjs", ".mjs", ".py", ".sh", ".rb", ".pl", ".php", ".pyc":
		base = strings.TrimSuffix(base, ext)
	}
	return base
}

// Package tracegen makes the traces of builds that never were: as many events as one
// likes, distributed like those of a job that checks out, installs npm packages, and
// builds and tests Go. Tests and benchmarks of views and queries use it; nothing else
// does. What it makes depends on its options only.
package tracegen

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// Options say which build.
type Options struct {
	// Events is about how many events, at least 1,000.
	Events int
	// Run makes one run different from another of the same build in what differs between real
	// ones: pids, times, the order of parallel work, names of temporary files, addresses and
	// numbers of machines, names of caches. Work is the same.
	Run uint64
	// Incident adds one package whose installation reads a key and sends it away.
	Incident bool
	// Began is when the job began.
	Began time.Time
}

// Job is what the runner knew of the job of a run.
func Job(o Options) trace.Job {
	return trace.Job{
		Name: "build", Repository: "octo/shop", RunID: int64(1000 + o.Run), Attempt: 1, Key: "build", Workflow: "CI",
		Workspace: fmt.Sprintf("/var/lib/muster/runners/r-%06x/_work/shop/shop", o.Run*7919%0xffffff),
	}
}

// Events makes the trace.
func Events(o Options) iter.Seq[trace.Event] {
	return func(yield func(trace.Event) bool) {
		g := &gen{Options: o, r: rand.New(rand.NewPCG(o.Run, 1)), yield: yield, now: o.Began, pid: 1000 + int(o.Run%30000), ws: Job(o).Workspace}
		if g.now.IsZero() {
			g.now = time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
		}
		g.boot = g.now.Add(-time.Minute)
		g.build()
	}
}

// Seq2 is Events in the shape that readers of archives give them.
func Seq2(events iter.Seq[trace.Event]) iter.Seq2[trace.Event, error] {
	return func(yield func(trace.Event, error) bool) {
		for e := range events {
			if !yield(e, nil) {
				return
			}
		}
	}
}

type gen struct {
	Options
	r     *rand.Rand
	yield func(trace.Event) bool
	now   time.Time
	boot  time.Time
	pid   int
	seq   uint64
	step  int
	ws    string
	done  bool
	tmp   string
}

// process is one that runs.
type process struct {
	pid, ppid          int
	start, parentStart uint64
	command, container string
	began              time.Time
	cpu, read, written int64
}

func (g *gen) emit(p *process, e trace.Event) {
	if g.done {
		return
	}
	g.now = g.now.Add(time.Duration(20+g.r.IntN(600)) * time.Microsecond)
	g.seq++
	e.Seq, e.Step, e.Timestamp = g.seq, g.step, g.now
	if p != nil {
		e.PID, e.Start, e.PPID, e.ParentStart, e.Command, e.UID = p.pid, p.start, p.ppid, p.parentStart, p.command, 1001
		e.Container = p.container
	}
	g.done = !g.yield(e)
}

func (g *gen) exec(parent *process, path, dir string, args ...string) *process {
	g.pid += 1 + g.r.IntN(3)
	p := &process{pid: g.pid, start: uint64(g.now.Sub(g.boot).Microseconds()), command: base(path), began: g.now}
	if parent != nil {
		p.ppid, p.parentStart = parent.pid, parent.start
	}
	g.emit(p, trace.Event{Type: trace.ProcessExec, Path: path, Args: args, Dir: dir})
	return p
}

func base(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			path = path[i+1:]
			break
		}
	}
	return path[:min(15, len(path))]
}

func (g *gen) exit(p *process, code int) {
	took := g.now.Sub(p.began).Microseconds()
	g.emit(p, trace.Event{Type: trace.ProcessExit, ExitCode: code, DurationUS: took, CPUUS: took * int64(40+g.r.IntN(20)) / 100, MemoryKiB: int64(4000 + g.r.IntN(90000)), ReadBytes: p.read, WrittenBytes: p.written})
}

func (g *gen) open(p *process, path, flags string) {
	g.emit(p, trace.Event{Type: trace.FileOpen, Path: path, Flags: flags})
}

func (g *gen) write(p *process, path string, bytes int64) {
	g.open(p, path, "write,create,truncate")
	p.written += bytes
	g.emit(p, trace.Event{Type: trace.FileWrite, Path: path, Bytes: bytes})
}

func (g *gen) connect(p *process, host string, net int) {
	address := fmt.Sprintf("%d.%d.%d.%d", net, 10+len(host), 1+g.r.IntN(3), 1+g.r.IntN(200))
	for _, t := range []string{"A", "AAAA"} {
		e := trace.Event{Type: trace.DNSQuery, Hostname: host, QueryType: t, Address: "127.0.0.53", Port: 53, Protocol: "udp"}
		if t == "A" {
			e.Addresses = []string{address}
		}
		g.emit(p, e)
	}
	g.emit(p, trace.Event{Type: trace.NetConnect, Address: address, Port: 443, Protocol: "tcp", Hostname: host})
	g.emit(p, trace.Event{Type: trace.TLSHello, Address: address, Port: 443, Hostname: host})
}

// token is chance in a name.
func (g *gen) token(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[g.r.IntN(len(letters))]
	}
	return string(b)
}

func (g *gen) within(n int, name, kind, uses string, do func()) {
	g.step = n
	began := g.now
	g.emit(nil, trace.Event{Type: trace.StepStart, Name: name, StepKind: kind, Uses: uses})
	do()
	g.emit(nil, trace.Event{Type: trace.StepEnd, Name: name, StepKind: kind, Uses: uses, Result: "succeeded", DurationUS: g.now.Sub(began).Microseconds()})
	g.step = 0
}

func (g *gen) build() {
	n := max(1000, g.Events)
	g.tmp = "/tmp/go-build" + fmt.Sprint(1_000_000_000+g.r.IntN(1_000_000_000))
	g.emit(nil, trace.Event{Type: trace.TraceStart, Recorder: &trace.Recorder{Agent: "1.0.0", Kernel: "6.1.0", Scope: "cgroup+tree"}})
	run := g.exec(nil, "/bin/bash", "/var/lib/muster", "bash", "run.sh")
	listener := g.exec(run, "/opt/runner/bin/Runner.Listener", "/opt/runner", "Runner.Listener", "run")
	g.connect(listener, "broker.actions.githubusercontent.com", 20)
	worker := g.exec(listener, "/opt/runner/bin/Runner.Worker", "/opt/runner", "Runner.Worker", "spawnclient", "110", "113")
	g.connect(worker, fmt.Sprintf("run-actions-%d-azure-eastus.actions.githubusercontent.com", 1+g.r.IntN(3)), 20)

	g.within(1, "actions/checkout@v4", "uses", "actions/checkout@v4", func() { g.checkout(worker, n*4/100) })
	g.within(2, "Install packages", "run", "", func() { g.install(worker, n*33/100) })
	g.within(3, "Build", "run", "", func() { g.goBuild(worker, n*40/100, "build") })
	g.within(4, "Test", "run", "", func() { g.goBuild(worker, n*22/100, "test") })
	g.within(5, "actions/upload-artifact@v4", "uses", "actions/upload-artifact@v4", func() {
		node := g.exec(worker, "/opt/runner/externals/node20/bin/node", g.ws, "node", "/opt/runner/_work/_actions/actions/upload-artifact/v4/dist/index.js")
		g.connect(node, "results-receiver.actions.githubusercontent.com", 20)
		g.connect(node, fmt.Sprintf("productionresultssa%d.blob.core.windows.net", g.r.IntN(20)), 20)
		for i := range n / 100 {
			g.open(node, fmt.Sprintf("%s/dist/out%d.bin", g.ws, i), "read")
		}
		g.exit(node, 0)
	})
	g.exit(worker, 100)
	g.exit(listener, 0)
	g.exit(run, 0)
	g.emit(nil, trace.Event{Type: trace.TraceEnd, Counts: map[string]int64{"process_exec": 1}})
}

func (g *gen) shell(worker *process) *process {
	script := g.ws[:len(g.ws)-len("/shop/shop")] + "/_temp/" + fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x.sh", g.r.Uint32(), g.r.IntN(65536), g.r.IntN(4096), g.r.IntN(4096), g.r.Uint64()>>16)
	sh := g.exec(worker, "/usr/bin/bash", g.ws, "/usr/bin/bash", "-e", script)
	g.open(sh, script, "read")
	return sh
}

func (g *gen) checkout(worker *process, n int) {
	node := g.exec(worker, "/opt/runner/externals/node20/bin/node", g.ws, "node", "/opt/runner/_work/_actions/actions/checkout/v4/dist/index.js")
	git := g.exec(node, "/usr/bin/git", g.ws, "git", "-c", "protocol.version=2", "fetch", "--depth=1", "origin", "+"+g.token(40))
	remote := g.exec(git, "/usr/lib/git-core/git-remote-https", g.ws, "git-remote-https", "origin", "https://github.com/octo/shop")
	g.open(remote, "/home/runner/.netrc", "read")
	g.connect(remote, "github.com", 140)
	g.exit(remote, 0)
	g.write(git, g.ws+"/.git/objects/pack/tmp_pack_"+g.token(6), 8<<20)
	g.exit(git, 0)
	out := g.exec(node, "/usr/bin/git", g.ws, "git", "checkout", "--progress", "--force", "refs/remotes/origin/main")
	for i := range n / 2 {
		g.write(out, fmt.Sprintf("%s/src/pkg%d/file%d.go", g.ws, i/12, i%12), int64(500+i%9000))
	}
	g.exit(out, 0)
	g.exit(node, 0)
}

var words = []string{"core", "util", "parse", "http", "json", "yaml", "log", "test", "async", "stream", "color", "glob", "path", "color", "babel", "lint", "react", "form", "date", "crypto", "buffer", "event", "type", "cli", "merge", "deep", "fast", "lite", "node", "web"}

// name is the i-th package's, the same in every run.
func name(i int) string {
	return words[i%len(words)] + "-" + words[i/len(words)%len(words)] + suffix(i/len(words)/len(words))
}

func suffix(i int) string {
	if i == 0 {
		return ""
	}
	return "-" + words[i%len(words)] + suffix(i/len(words))
}

func (g *gen) install(worker *process, n int) {
	sh := g.shell(worker)
	npm := g.exec(sh, "/opt/hostedtoolcache/node/20.11.1/x64/bin/node", g.ws, "npm", "ci")
	g.open(npm, "/home/runner/.npmrc", "read")
	for i := 0; i*26 < n; i++ {
		pkg := name(i)
		if i%40 == 0 {
			g.connect(npm, "registry.npmjs.org", 104)
		}
		tar := fmt.Sprintf("/home/runner/.npm/_cacache/tmp/%08x", g.r.Uint32())
		g.write(npm, tar, int64(3000+i%50000))
		content := fmt.Sprintf("/home/runner/.npm/_cacache/content-v2/sha512/%02x/%02x/%028x", i%256, i/256%256, i)
		g.emit(npm, trace.Event{Type: trace.FileRename, Path: tar, NewPath: content})
		for f := range 10 {
			g.write(npm, fmt.Sprintf("%s/node_modules/%s/lib/file%d.js", g.ws, pkg, f), int64(200+f*777))
		}
		if i%60 == 7 {
			g.postinstall(npm, pkg, i)
		}
	}
	if g.Incident {
		g.incident(npm)
	}
	g.exit(npm, 0)
	g.exit(sh, 0)
}

func (g *gen) postinstall(npm *process, pkg string, i int) {
	sh := g.exec(npm, "/bin/sh", g.ws+"/node_modules/"+pkg, "sh", "-c", "node install.js")
	node := g.exec(sh, "/opt/hostedtoolcache/node/20.11.1/x64/bin/node", g.ws+"/node_modules/"+pkg, "node", "install.js")
	for f := range 20 {
		g.open(node, fmt.Sprintf("%s/node_modules/%s/lib/file%d.js", g.ws, pkg, f%10), "read")
	}
	if i%600 == 7 {
		g.connect(node, "objects.githubusercontent.com", 185)
	}
	g.exit(node, 0)
	g.exit(sh, 0)
}

func (g *gen) incident(npm *process) {
	sh := g.exec(npm, "/bin/sh", g.ws+"/node_modules/left-pod", "sh", "-c", "node steal.js")
	node := g.exec(sh, "/usr/bin/node", g.ws+"/node_modules/left-pod", "node", "steal.js")
	g.open(node, "/home/runner/.ssh/id_rsa", "read")
	g.open(node, "/home/runner/.aws/credentials", "read")
	g.connect(node, "cdn-7.metrics.example.xyz", 203)
	g.exit(node, 0)
	g.exit(sh, 1)
}

// task is a process with what it still has to do.
type task struct {
	p    *process
	left int
	i    int
}

// goBuild runs compilers, and the tests that they made, four at once.
func (g *gen) goBuild(worker *process, n int, verb string) {
	sh := g.shell(worker)
	tool := g.exec(sh, "/opt/hostedtoolcache/go/1.26.8/x64/bin/go", g.ws, "go", verb, "./...")
	for i := range n / 4000 {
		g.connect(tool, "proxy.golang.org", 142)
		g.open(tool, fmt.Sprintf("/home/runner/go/pkg/mod/cache/download/github.com/o/%s/@v/list", name(i)), "read")
	}
	const each = 56
	var running []*task
	for next := 0; ; {
		for len(running) < 4 && next*each < n {
			running = append(running, g.begin(tool, verb, next, each))
			next++
		}
		if len(running) == 0 || g.done {
			break
		}
		k := g.r.IntN(len(running))
		t := running[k]
		g.advance(t)
		if t.left--; t.left <= 0 {
			g.exit(t.p, 0)
			running = append(running[:k], running[k+1:]...)
		}
	}
	g.exit(tool, 0)
	g.exit(sh, 0)
}

func (g *gen) begin(tool *process, verb string, i, each int) *task {
	t := &task{left: each - 4, i: i}
	b := fmt.Sprintf("%s/b%03d", g.tmp, i)
	if verb == "test" && i%3 == 2 {
		t.p = g.exec(tool, fmt.Sprintf("%s/pkg%d.test", b, i), g.ws, fmt.Sprintf("%s/pkg%d.test", b, i), "-test.timeout=10m0s", "-test.paniconexit0")
		return t
	}
	t.p = g.exec(tool, "/opt/hostedtoolcache/go/1.26.8/x64/pkg/tool/linux_amd64/compile", g.ws, "compile", "-o", b+"/_pkg_.a", "-trimpath", b+"=>", "-p", "github.com/o/"+name(i), "-complete", "-buildid", g.token(20), "-importcfg", b+"/importcfg", "-pack", "./a.go", "./b.go")
	return t
}

func (g *gen) advance(t *task) {
	switch k := t.left; {
	case k%17 == 0:
		g.write(t.p, fmt.Sprintf("%s/b%03d/_pkg_%d.a", g.tmp, t.i, k), int64(20_000+k*1000))
		g.emit(t.p, trace.Event{Type: trace.FileDelete, Path: fmt.Sprintf("%s/b%03d/_pkg_%d.a", g.tmp, t.i, k)})
	case k%3 == 0:
		g.open(t.p, fmt.Sprintf("/home/runner/.cache/go-build/%02x/%064x-d", (t.i*7+k)%256, (t.i*31+k*k)%40_000), "read")
	default:
		g.open(t.p, fmt.Sprintf("/home/runner/go/pkg/mod/github.com/o/%s@v1.%d.3/file%d.go", name(t.i), t.i%9, k), "read")
	}
}

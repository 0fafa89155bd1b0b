package detect

import (
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
)

func shippedRules(t testing.TB) *Rules {
	t.Helper()
	r, err := Shipped()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func each(events ...trace.Event) iter.Seq2[trace.Event, error] {
	return func(yield func(trace.Event, error) bool) {
		for i, e := range events {
			if e.Seq == 0 {
				e.Seq = uint64(i + 1)
			}
			if e.Timestamp.IsZero() {
				e.Timestamp = epoch.Add(time.Duration(i) * time.Second)
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func detections(t *testing.T, r *Rules, events ...trace.Event) []muster.Detection {
	t.Helper()
	of, err := r.Run(trace.Job{}, nil, each(events...))
	if err != nil {
		t.Fatal(err)
	}
	return of
}

// A finding tells the process, its ancestors, the step and the first events, and counts
// the others of its kind.
func TestFinding(t *testing.T) {
	read := trace.Event{Type: trace.MemRead, Step: 2, PID: 4, PPID: 3, Method: "proc_mem", Target: 1, TargetCommand: "Runner.Worker"}
	events := []trace.Event{
		{Type: trace.StepStart, Step: 2, Name: "Changed files"},
		{Type: trace.ProcessExec, Step: 2, PID: 3, Path: "/usr/bin/bash", Args: []string{"bash", "x.sh"}},
		{Type: trace.ProcessExec, Step: 2, PID: 4, PPID: 3, Path: "/usr/bin/python3", Args: []string{"python3", "-"}},
	}
	for range 20 {
		events = append(events, read)
	}
	got := detections(t, shippedRules(t), events...)
	if len(got) != 1 {
		t.Fatalf("%v", titles(got))
	}
	got[0].Explanation, got[0].Remedy = "", ""
	want := muster.Detection{
		Rule: "runner-memory-read", Severity: muster.SeverityCritical, Title: "python3 read the memory of Runner.Worker (proc_mem)",
		Step: "Changed files", Process: "python3 -", PID: 4, Ancestry: []string{"bash x.sh"}, Subject: "Runner.Worker",
		Seq: []uint64{4, 5, 6, 7, 8, 9, 10, 11, 12, 13}, Count: 20, At: epoch.Add(3 * time.Second),
	}
	if d := cmp.Diff(want, got[0]); d != "" {
		t.Error(d)
	}
}

// However many different things a rule finds, its findings are few and all are counted.
func TestFindingsAreBounded(t *testing.T) {
	var events []trace.Event
	for i := range 300 {
		events = append(events, trace.Event{Type: trace.NetConnect, PID: 4, Address: "203.0.113.1", Port: 443, Hostname: fmt.Sprintf("h%d.example.com", i), Verdict: trace.VerdictDenied})
	}
	got := detections(t, shippedRules(t), events...)
	sum := 0
	for _, d := range got {
		sum += d.Count
	}
	if len(got) != maxPerRule+1 || sum != 300 {
		t.Errorf("%d findings of %d events", len(got), sum)
	}
}

// An exec in the same process keeps what it was before among its ancestors, and a number
// that is used again is another process (4-47).
func TestAncestry(t *testing.T) {
	install := []trace.Event{
		{Type: trace.ProcessExec, PID: 2, Start: 1, Path: "/usr/bin/node", Args: []string{"node", "/usr/bin/npm", "ci"}},
		{Type: trace.ProcessExec, PID: 3, Start: 2, PPID: 2, ParentStart: 1, Path: "/bin/sh", Args: []string{"sh", "-c", "curl x"}},
		{Type: trace.ProcessExec, PID: 3, Start: 2, PPID: 2, ParentStart: 1, Path: "/usr/bin/curl", Args: []string{"curl", "x"}},
		{Type: trace.ProcessExit, PID: 2, Start: 1},
	}
	connect := trace.Event{Type: trace.NetConnect, PID: 3, Start: 2, Address: "203.0.113.9", Port: 80}
	if got := detections(t, shippedRules(t), append(install, connect)...); len(got) != 1 || strings.Join(got[0].Ancestry, "; ") != "sh -c curl x; node /usr/bin/npm ci" {
		t.Errorf("%+v", got)
	}
	connect.Start = 9 // another process with the number of the first
	if got := detections(t, shippedRules(t), append(install, trace.Event{Type: trace.ProcessExec, PID: 3, Start: 9, Path: "/usr/bin/curl", Args: []string{"curl", "x"}}, connect)...); len(got) != 0 {
		t.Errorf("%v", titles(got))
	}
}

// No trace, however broken, makes the rules fail, and the same trace gives the same
// findings.
func TestAnyTrace(t *testing.T) {
	rules := shippedRules(t)
	some := func(of ...string) *rapid.Generator[string] { return rapid.SampledFrom(of) }
	paths := some("", "/", "x", "/root/.aws/credentials", "/w/a.c", "/w/a.o", "/usr/bin/bash", "/usr/bin/gcc", "/usr/bin/curl", "/tmp/x", "/w/.github/workflows/x", "/usr/bin/git", "\x00")
	rapid.Check(t, func(t *rapid.T) {
		var events []trace.Event
		for range rapid.IntRange(0, 40).Draw(t, "events") {
			events = append(events, trace.Event{
				Type: rapid.SampledFrom(allTypes).Draw(t, "type"), PID: rapid.IntRange(-1, 4).Draw(t, "pid"), PPID: rapid.IntRange(-1, 4).Draw(t, "ppid"),
				Path: paths.Draw(t, "path"), NewPath: paths.Draw(t, "new"), Args: rapid.SliceOfN(some("", "-c", "sh", "-", "npm", "install", "/x"), 0, 4).Draw(t, "args"),
				Flags: some("", "read", "write,create").Draw(t, "flags"), Address: some("", "203.0.113.1", "::1", "nonsense").Draw(t, "address"),
				Hostname: some("", "x.example.com", ".", "com", "webhook.site").Draw(t, "host"), Target: rapid.IntRange(0, 4).Draw(t, "target"),
				Step: rapid.IntRange(0, 2).Draw(t, "step"), Count: rapid.Int64Range(-1, 3).Draw(t, "count"), DurationUS: rapid.Int64Range(-5, 5).Draw(t, "duration"),
			})
		}
		first, err := rules.Examine(trace.Job{Workspace: "/w"}, nil, each(events...))
		if err != nil {
			t.Fatal(err)
		}
		again, err := rules.Examine(trace.Job{Workspace: "/w"}, nil, each(events...))
		if err != nil || cmp.Diff(first, again) != "" {
			t.Fatalf("%v %s", err, cmp.Diff(first, again))
		}
	})
}

// An error of the events ends the examination with it.
func TestErrorOfEvents(t *testing.T) {
	broken := errors.New("broken")
	_, err := shippedRules(t).Run(trace.Job{}, nil, func(yield func(trace.Event, error) bool) { yield(trace.Event{}, broken) })
	if !errors.Is(err, broken) {
		t.Error(err)
	}
}

// A folder of one's own adds, replaces, joins and overrides.
func TestLoad(t *testing.T) {
	const own = `
sets:
  drop_sites: {hosts: [drop.corp.example.com]}
overrides:
  - {rule: raw-socket, severity: low, except: [{when: 'program == "prober"', because: measures}]}
  - {rule: own-address-lookup, disabled: true}
rules:
  - name: mine
    title: "{program}"
    severity: low
    on: [dns_query]
    when: hostname == "mine.example.com"
    explanation: x
    remedy: y
`
	rules, err := Load(fstest.MapFS{"a.yaml": {Data: []byte(own)}})
	if err != nil {
		t.Fatal(err)
	}
	got := detections(t, rules,
		trace.Event{Type: trace.DNSQuery, PID: 1, Command: "a", Hostname: "mine.example.com"},
		trace.Event{Type: trace.DNSQuery, PID: 1, Hostname: "drop.corp.example.com"},
		trace.Event{Type: trace.DNSQuery, PID: 1, Hostname: "api.ipify.org"},
		trace.Event{Type: trace.ProcessExec, PID: 2, Path: "/bin/prober"}, trace.Event{Type: trace.RawSocket, PID: 2},
		trace.Event{Type: trace.ProcessExec, PID: 3, Path: "/bin/other"}, trace.Event{Type: trace.RawSocket, PID: 3},
	)
	var names []string
	for _, d := range got {
		names = append(names, d.Rule+" "+string(d.Severity)+" "+d.Subject)
	}
	want := []string{"drop-site high drop.corp.example.com", "mine low mine.example.com", "raw-socket low other"}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
}

// What is wrong with a rule is told with its name and where.
func TestLoadRefuses(t *testing.T) {
	rule := func(change string) string {
		return "rules:\n  - {name: mine, title: x, severity: low, explanation: x, remedy: y, " + change + "}\n"
	}
	for text, want := range map[string]string{
		rule("on: [dns_query], when: hostnme == 'x'"):                                       "hostnme",
		rule("on: [dns_query], when: hostname"):                                             "must be true or false",
		rule("on: [dns_qery], when: 'true'"):                                                `no events of type "dns_qery"`,
		rule("on: [dns_query], when: 'host.isIn(\"no_such\")'"):                             `no set "no_such"`,
		rule("on: [dns_query], when: 'marks.has(\"no_such\", path)'"):                       `no mark "no_such"`,
		rule("on: [file_open], when: 'path.glob(\"x/*\")'"):                                 "begin it with /",
		rule("on: [dns_query]"):                                                             "needs both on",
		rule("on: [dns_query], when: 'true', subject: '{nobody}'"):                          "no such variable",
		rule("on: [dns_query], when: 'true', subject: '{1.path}'"):                          "",
		rule("on: [dns_query], when: 'true', subject: '{2.path}'"):                          "there are 1 stages",
		rule("on: [dns_query], when: 'true', group: {by: '{path}', over: 3}"):               "within",
		rule("on: [dns_query], when: 'true', except: [{when: 'true'}]"):                     "does not say why",
		rule("sequence: [{on: [dns_query], when: 'true'}], within: 5m"):                     "a sequence of one",
		"rules:\n  - {name: Mine}\n":                                                        "small letters",
		"rules:\n  - {name: mine, severity: bad}\n":                                         "severity",
		"rules:\n  - {name: mine, colour: red}\n":                                           "colour",
		"overrides:\n  - {rule: none}\n":                                                    "no such rule",
		"sets:\n  sensitive: {paths: [relative]}\n":                                         "begin it with /",
		"sets:\n  sensitive: {commands: ['(']}\n":                                           "commands",
		rule("on: [dns_query], when: 'true'") + "  - {name: mine, title: x, severity: low}": "twice",
	} {
		_, err := Load(fstest.MapFS{"a.yaml": {Data: []byte(text)}})
		if want == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s%v", text, err)
		}
	}
}

// Many events of a build are examined in bounded memory, and nothing is found in them.
func TestManyEvents(t *testing.T) {
	rules := shippedRules(t)
	began := time.Now()
	report, err := rules.Examine(trace.Job{Workspace: "/w"}, nil, busy(200_000))
	if err != nil || len(report.Detections) != 0 {
		t.Fatalf("%v, %v", err, titles(report.Detections))
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("%v, %d MiB from the system", time.Since(began).Round(time.Millisecond), m.Sys>>20)
	if m.Sys > 256<<20 {
		t.Errorf("%d MiB", m.Sys>>20)
	}
}

// busy is a build that starts compilers, reads headers, writes objects and asks for names.
func busy(n int) iter.Seq2[trace.Event, error] {
	return func(yield func(trace.Event, error) bool) {
		at := epoch
		for i := range n {
			at = at.Add(time.Millisecond)
			pid := 100 + i/10
			e := trace.Event{Timestamp: at, Seq: uint64(i + 1), Step: 1, PID: pid, Start: uint64(pid), PPID: 99, ParentStart: 99, Command: "cc1"}
			switch i % 10 {
			case 0:
				e.Type, e.Path, e.Args = trace.ProcessExec, "/usr/lib/gcc/cc1", []string{"cc1", "-quiet", "a.c", "-o", "a.o"}
			case 1, 2, 3, 4, 5:
				e.Type, e.Path, e.Flags = trace.FileOpen, fmt.Sprintf("/w/include/h%d.h", i%5000), "read"
			case 6:
				e.Type, e.Path, e.Flags = trace.FileOpen, fmt.Sprintf("/w/out/o%d.o", i), "write,create,truncate"
			case 7:
				e.Type, e.Path, e.Bytes = trace.FileWrite, fmt.Sprintf("/w/out/o%d.o", i-1), 900
			case 8:
				e.Type, e.Hostname, e.Address, e.Port = trace.NetConnect, "proxy.golang.org", "203.0.113.9", 443
			case 9:
				e.Type, e.DurationUS = trace.ProcessExit, 1000
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func BenchmarkExamine(b *testing.B) {
	rules := shippedRules(b)
	for b.Loop() {
		if _, err := rules.Examine(trace.Job{Workspace: "/w"}, nil, busy(200_000)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/200_000, "ns/event")
}

// A storm of processes that never end leaves a bounded table, and the youngest are in it.
func TestProcessesAreBounded(t *testing.T) {
	p := newProcesses()
	for i := range 3 * maxProcesses {
		p.see(&trace.Event{Type: trace.ProcessExec, PID: i + 1, Start: uint64(i + 1), Path: "/bin/true"})
	}
	if len(p.byKey) > maxProcesses || p.byKey[trace.Process{PID: 3 * maxProcesses, Start: 3 * maxProcesses}] == nil {
		t.Errorf("%d", len(p.byKey))
	}
	for i := range 3 * maxProcesses {
		key := trace.Process{PID: i + 1, Start: uint64(i + 1)}
		p.see(&trace.Event{Type: trace.ProcessExec, PID: key.PID, Start: key.Start, Path: "/bin/true"})
		p.exit(key)
	}
	if len(p.byKey) > maxProcesses || len(p.order) > 2*maxProcesses+1 {
		t.Errorf("%d in the table, %d in order", len(p.byKey), len(p.order))
	}
}

// A chain of programs that replace each other is followed as far as is bounded, and what
// began it is not forgotten.
func TestDeepAncestry(t *testing.T) {
	events := []trace.Event{
		{Type: trace.ProcessExec, PID: 2, Path: "/usr/bin/node", Args: []string{"node", "/usr/bin/npm", "ci"}},
		{Type: trace.ProcessExec, PID: 3, PPID: 2, Path: "/bin/sh", Args: []string{"sh", "-c", "x"}},
	}
	for range 300 {
		events = append(events, trace.Event{Type: trace.ProcessExec, PID: 3, PPID: 2, Path: "/usr/bin/env", Args: []string{"env", "x"}})
	}
	events = append(events, trace.Event{Type: trace.NetConnect, PID: 3, PPID: 2, Address: "203.0.113.9", Port: 80})
	if got := detections(t, shippedRules(t), events...); len(got) == 0 || got[0].Rule != "package-script-network" {
		t.Errorf("%v", titles(got))
	}
}

package view

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/muster-ci/muster/bench/tracegen"
	"github.com/muster-ci/muster/internal/trace"
)

func same(d Diff) bool {
	return d.Empty() && len(d.Steps)+len(d.GoneHosts)+len(d.GonePrograms)+len(d.GoneSensitive)+len(d.Partial) == 0
}

// Ten runs of the same build, on other days and machines, differ in nothing.
func TestDiffOfTenRuns(t *testing.T) {
	first := viewsOf(tracegen.Options{Events: 20_000, Run: 1})
	for i := range uint64(10) {
		now := viewsOf(tracegen.Options{Events: 20_000, Run: 2 + i*i*7919, Began: time.Date(2027, 1, int(i)+1, 3, 0, 0, 0, time.UTC)})
		if d := Compare(now, first); !same(d) {
			t.Errorf("run %d: %+v", i, d)
		}
	}
}

// Nor do any two runs of any size; and one with an incident in it differs in just that.
func TestDiffOfSameBuild(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1000, 1500).Draw(t, "events")
		one, two := uint64(rapid.IntRange(1, 1<<40).Draw(t, "one")), uint64(rapid.IntRange(1, 1<<40).Draw(t, "two"))
		before := viewsOf(tracegen.Options{Events: size, Run: one})
		if d := Compare(viewsOf(tracegen.Options{Events: size, Run: two}), before); !same(d) {
			t.Fatalf("%+v", d)
		}
		d := Compare(viewsOf(tracegen.Options{Events: size, Run: two, Incident: true}), before)
		if len(d.NewHosts) != 1 || d.NewHosts[0].Host != "cdn-7.metrics.example.xyz" || len(d.NewPrograms) != 1 || len(d.NewSensitive) != 2 {
			t.Fatalf("incident: %+v", d)
		}
	})
}

// sane checks what readers of views rely on.
func sane(t interface {
	Helper()
	Errorf(string, ...any)
}, v *Views) {
	t.Helper()
	children := make([]int, len(v.Processes))
	for i, p := range v.Processes {
		if p.Parent >= i || p.Parent < -1 {
			t.Errorf("process %d has the parent %d", i, p.Parent)
			return
		}
		if p.Parent >= 0 {
			children[p.Parent]++
		}
		if p.Main != 0 && p.Main >= len(p.Images) {
			t.Errorf("process %d has %d images and the main one %d", i, len(p.Images), p.Main)
		}
	}
	for i, p := range v.Processes {
		if p.Children != children[i] {
			t.Errorf("process %d says %d children and has %d", i, p.Children, children[i])
		}
	}
	for i, f := range v.Flame {
		if f.Parent >= i || f.SelfWallUS < 0 || f.TotalWallUS < f.SelfWallUS || f.TotalCPUUS < f.SelfCPUUS {
			t.Errorf("frame %d: %+v", i, f)
		}
	}
	var connections int64
	for _, c := range v.Network.Categories {
		connections += c.Connections
	}
	if got := connections + v.Network.HiddenConnections; got != v.Overview.Counts.Connections {
		t.Errorf("%d connections by category and %d in all", got, v.Overview.Counts.Connections)
	}
	for _, c := range v.Network.Connections {
		if c.Process >= len(v.Processes) {
			t.Errorf("connection of process %d", c.Process)
		}
	}
	for _, e := range v.Network.Graph.Edges {
		if e.From >= len(v.Network.Graph.Nodes) || e.To >= len(v.Network.Graph.Nodes) {
			t.Errorf("edge %+v", e)
		}
	}
	if len(v.Processes) > 2*maxProcesses+maxProcesses/4 || len(v.Flame) > maxFrames+2*maxSteps || len(v.Steps) > maxSteps {
		t.Errorf("%d processes, %d frames, %d steps", len(v.Processes), len(v.Flame), len(v.Steps))
	}
}

// However strange the events, nothing panics, the views hold together, and they are
// the same after Encode and Decode.
func TestViewsOfAnything(t *testing.T) {
	types := []trace.Type{
		trace.TraceStart, trace.TraceEnd, trace.StepStart, trace.StepEnd, trace.ProcessExec, trace.ProcessExec, trace.ProcessExit, trace.NetConnect, trace.DNSQuery,
		trace.TLSHello, trace.UnixConnect, trace.RawSocket, trace.FileOpen, trace.FileWrite, trace.FileDelete, trace.FileRename, trace.MemRead, trace.SetUID, trace.Mount,
		trace.Tamper, trace.Dropped, "of_a_later_version",
	}
	event := rapid.Custom(func(t *rapid.T) trace.Event {
		return trace.Event{
			Type: rapid.SampledFrom(types).Draw(t, "type"), Timestamp: rapid.SampledFrom([]time.Time{{}, time.Unix(1, 5).UTC(), time.Unix(1, 999).UTC(), time.Unix(2, 0).UTC(), time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)}).Draw(t, "time"),
			Seq: uint64(rapid.IntRange(0, 99).Draw(t, "seq")), Step: rapid.IntRange(-1, 4).Draw(t, "step"),
			PID: rapid.IntRange(-1, 6).Draw(t, "pid"), Start: uint64(rapid.IntRange(0, 2).Draw(t, "start")),
			PPID: rapid.IntRange(-1, 6).Draw(t, "ppid"), ParentStart: uint64(rapid.IntRange(0, 2).Draw(t, "pstart")),
			Path: rapid.SampledFrom([]string{"", "/", "/a", "/a/b", "//a/", "x", "/home/u/.ssh/id_rsa", "/proc/3/mem"}).Draw(t, "path"), NewPath: rapid.SampledFrom([]string{"", "/a/b/c"}).Draw(t, "new"),
			Hostname: rapid.SampledFrom([]string{"", "a.example.com", "github.com", "."}).Draw(t, "host"), Address: rapid.SampledFrom([]string{"", "10.0.0.1", "192.0.2.9", "::1", "x"}).Draw(t, "addr"),
			Addresses: rapid.SliceOfN(rapid.SampledFrom([]string{"10.0.0.1", "192.0.2.9"}), 0, 2).Draw(t, "answers"),
			Verdict:   rapid.SampledFrom([]string{"", trace.VerdictDenied, trace.VerdictWouldDeny}).Draw(t, "verdict"),
			Flags:     rapid.SampledFrom([]string{"", "read", "read,write,create", "directory"}).Draw(t, "flags"),
			Bytes:     int64(rapid.IntRange(-1, 9).Draw(t, "bytes")), Count: int64(rapid.IntRange(-1, 3).Draw(t, "count")),
			DurationUS: rapid.SampledFrom([]int64{-1, 0, 5, 1e6, math.MaxInt64, math.MinInt64}).Draw(t, "duration"), CPUUS: int64(rapid.IntRange(-1, 1e6).Draw(t, "cpu")), Name: rapid.SampledFrom([]string{"", "n"}).Draw(t, "name"), Method: rapid.SampledFrom([]string{"", "m"}).Draw(t, "method"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		b := NewBuilder(trace.Job{})
		for _, e := range rapid.SliceOfN(event, 0, 60).Draw(t, "events") {
			b.Add(e)
		}
		v := b.Views()
		sane(t, v)
		if again := b.Views(); !reflect.DeepEqual(again, v) {
			t.Fatal("the second views differ from the first")
		}
		var text, twice bytes.Buffer
		if err := Encode(&text, v); err != nil {
			t.Fatal(err)
		}
		back, err := Decode(&text)
		if err != nil {
			t.Fatal(err)
		}
		if err := Encode(&twice, back); err != nil {
			t.Fatal(err)
		}
		text.Reset()
		if err := Encode(&text, v); err != nil || !bytes.Equal(text.Bytes(), twice.Bytes()) {
			t.Fatal("Decode lost something")
		}
		if d := Compare(back, v); !d.Empty() {
			t.Fatalf("not the same as itself: %+v", d)
		}
	})
}

// Two processes that ran for ever do not take less than no time.
func TestDurationsAddUp(t *testing.T) {
	b := NewBuilder(trace.Job{})
	for pid := range 2 {
		b.Add(trace.Event{Type: trace.ProcessExit, Timestamp: time.Unix(1, 0), Seq: uint64(pid), PID: pid + 1, Start: 1, DurationUS: math.MaxInt64})
	}
	sane(t, b.Views())
}

// Who can be reached from outside is worth a note, and a file that gets a further name is read by it.
// The kernel adds to a process's bytes those of the children that it waited for. A view
// counts each byte once, for the process that moved it.
func TestBytesAreCountedOnce(t *testing.T) {
	b := NewBuilder(trace.Job{})
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	exit := func(pid, parent int, command string, read, written int64) trace.Event {
		return trace.Event{Type: trace.ProcessExit, Timestamp: at, PID: pid, Start: uint64(pid), PPID: parent, ParentStart: uint64(parent), Command: command, DurationUS: 1, ReadBytes: read, WrittenBytes: written}
	}
	for _, e := range []trace.Event{
		{Type: trace.ProcessExec, Timestamp: at, PID: 10, Start: 10, PPID: 9, Path: "/bin/bash"},
		{Type: trace.ProcessExec, Timestamp: at, PID: 11, Start: 11, PPID: 10, ParentStart: 10, Path: "/bin/make"},
		{Type: trace.ProcessExec, Timestamp: at, PID: 12, Start: 12, PPID: 11, ParentStart: 11, Path: "/bin/dd"},
		{Type: trace.ProcessExec, Timestamp: at, PID: 13, Start: 13, PPID: 10, ParentStart: 10, Path: "/bin/sync"},
		exit(12, 11, "dd", 300, 20_000),
		exit(11, 10, "make", 400, 20_500),
		exit(13, 10, "sync", 0, 1_000), // not waited for: its bytes are nobody else's
		exit(10, 9, "bash", 400, 20_600),
	} {
		b.Add(e)
	}
	v := b.Views()
	got := map[string][2]int64{}
	for _, p := range v.Processes {
		got[p.Command] = [2]int64{p.ReadBytes, p.WrittenBytes}
	}
	want := map[string][2]int64{"dd": {300, 20_000}, "make": {100, 500}, "sync": {0, 1_000}, "bash": {0, 0}}
	if !maps.Equal(got, want) {
		t.Errorf("read and written %v, want %v", got, want)
	}
	if all := v.Performance.Total; all.ReadBytes != 400 || all.WrittenBytes != 21_500 {
		t.Errorf("the job read %d and wrote %d", all.ReadBytes, all.WrittenBytes)
	}
}

func TestListenersAndLinks(t *testing.T) {
	b := NewBuilder(trace.Job{})
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for i, e := range []trace.Event{
		{Type: trace.NetListen, Address: "127.0.0.1", Port: 8080, Protocol: "tcp"},
		{Type: trace.NetListen, Address: "::", Port: 4444, Protocol: "tcp"},
		{Type: trace.FileLink, Path: "/home/u/.aws/credentials", NewPath: "/w/notes"},
	} {
		e.Timestamp, e.Seq, e.PID, e.Start, e.Command = at, uint64(i+1), 5, 5, "nc"
		b.Add(e)
	}
	v := b.Views()
	if len(v.Notable) != 1 || v.Notable[0].Text != "waits for connections from outside on [::]:4444 (tcp)" || v.Processes[0].Notable != 1 {
		t.Errorf("notable %+v", v.Notable)
	}
	if s := v.FileTops.Sensitive; len(s) != 1 || s[0].Path != "/home/u/.aws/credentials" {
		t.Errorf("sensitive %+v", s)
	}
	text, err := json.Marshal(v.Files)
	if err != nil || !strings.Contains(string(text), `"name":"notes","creates":1`) {
		t.Errorf("files %s, %v", text, err)
	}
}

// The runner looks into all environments at the end of each job, which is worth no note. What a
// step began cannot pass for it, not even when the steps are over, and no other method can.
func TestRunnersOwnLookIsRoutine(t *testing.T) {
	b := NewBuilder(trace.Job{})
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	read := func(second, pid int, method string) trace.Event {
		return trace.Event{Type: trace.MemRead, Timestamp: at.Add(time.Duration(second) * time.Second), PID: pid, Start: uint64(pid), PPID: 10, ParentStart: 10, Command: "Runner.Worker", Method: method, Target: 7, TargetCommand: "sleep"}
	}
	exec := func(second, pid, step int) trace.Event {
		return trace.Event{Type: trace.ProcessExec, Timestamp: at.Add(time.Duration(second) * time.Second), PID: pid, Start: uint64(pid), PPID: 10, ParentStart: 10, Step: step, Path: "/r/bin/Runner.Worker"}
	}
	for _, e := range []trace.Event{
		exec(0, 10, 0),
		{Type: trace.StepStart, Timestamp: at.Add(time.Second), Step: 1, Name: "Build"},
		exec(2, 11, 1),
		read(3, 10, "proc_environ"), // the runner
		read(3, 10, "proc_mem"),
		read(3, 11, "proc_environ"), // a step
		{Type: trace.StepEnd, Timestamp: at.Add(4 * time.Second), Step: 1, Name: "Build"},
		exec(5, 12, 0),
		read(6, 12, "proc_environ"), // what a step left
	} {
		b.Add(e)
	}
	v := b.Views()
	var got []string
	for _, n := range v.Notable {
		got = append(got, fmt.Sprint(n.PID, " ", n.Text))
	}
	want := []string{"10 read the memory of sleep (process 7)", "11 read the environment of sleep (process 7)", "12 read the environment of sleep (process 7)"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if n := v.Overview.ByType[trace.MemRead]; n != 4 {
		t.Errorf("%d reads are counted", n)
	}
}

// The verdict counts the findings that a page lists below it.
func TestVerdictCountsFindings(t *testing.T) {
	for _, c := range []struct {
		found map[string]int
		text  string
	}{
		{map[string]int{"high": 1, "medium": 2, "low": 3, "info": 1}, "The rules found 7 things (1 high, 2 medium, 3 low, 1 info)."},
		{map[string]int{"medium": 1}, "The rules found 1 thing (1 medium)."},
		{map[string]int{"low": 3, "info": 1}, "Nothing worse than low was found in 0 events (3 low, 1 info)."},
		{nil, "Nothing was found in 0 events."},
	} {
		v := &Views{Ended: true}
		v.Judge(Known{Findings: c.found})
		if v.Overview.Verdict.Text != c.text {
			t.Errorf("%v: %s", c.found, v.Overview.Verdict.Text)
		}
	}
}

// Floods stay within the limits, and what counts survives them.
func TestLimits(t *testing.T) {
	b := NewBuilder(trace.Job{})
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	seq := uint64(0)
	add := func(e trace.Event) {
		seq++
		at = at.Add(100 * time.Microsecond)
		e.Seq, e.Timestamp, e.Step = seq, at, 1
		b.Add(e)
	}
	add(trace.Event{Type: trace.NetConnect, PID: 5, Start: 5, Command: "curl", Address: "192.0.2.1", Port: 443, Verdict: trace.VerdictDenied})
	add(trace.Event{Type: trace.FileOpen, PID: 5, Start: 5, Command: "curl", Path: "/home/u/.ssh/id_rsa", Flags: "read"})
	add(trace.Event{Type: trace.ProcessExit, PID: 5, Start: 5})
	for i := range 50_000 {
		n := uint64(i + 10)
		s := words(i)
		add(trace.Event{Type: trace.ProcessExec, PID: i + 10, Start: n, PPID: 2, Path: "/bin/" + s})
		add(trace.Event{Type: trace.FileOpen, PID: i + 10, Start: n, Path: "/x/" + s + "/y/z", Flags: "read"})
		add(trace.Event{Type: trace.FileOpen, PID: i + 10, Start: n, Path: "/d/" + s, Flags: "read,directory"})
		add(trace.Event{Type: trace.DNSQuery, PID: i + 10, Start: n, Hostname: s + ".tunnel.example.com"})
		add(trace.Event{Type: trace.Mount, PID: i + 10, Start: n, Path: "/m"})
		if i%2 == 0 {
			add(trace.Event{Type: trace.ProcessExit, PID: i + 10, Start: n, CPUUS: 3, DurationUS: 5})
		}
	}
	add(trace.Event{Type: trace.TraceEnd})
	if n := b.files.nodes; n > 3*maxFiles {
		t.Errorf("%d nodes of files are held", n)
	}
	v := b.Views()
	sane(t, v)
	if got := v.HiddenProcesses + int64(len(v.Processes)); got != 50_002 { // with the parent that was not seen
		t.Errorf("%d processes listed or counted", got)
	}
	if c := v.Overview.Counts; c.Processes != 50_001 || c.Refused != 1 || c.CPUUS != 3*25_000 {
		t.Errorf("counts: %+v", c)
	}
	if c := v.Overview.Counts.Files; c < 98_000 || c > 102_000 {
		t.Errorf("about 100,001 files, and the estimate is %d", c)
	}
	if !slices.ContainsFunc(v.Processes, func(p Process) bool { return p.PID == 5 && p.Refused == 1 }) {
		t.Error("the refused process is not listed")
	}
	if len(v.FileTops.Sensitive) != 1 || v.Files.Sensitive != 1 || v.Files.Distinct != 50_001 {
		t.Errorf("files: %d sensitive, %d distinct", v.Files.Sensitive, v.Files.Distinct)
	}
	if h := v.Network.Hosts; len(h) > maxBelow+2 || h[0].Host != "192.0.2.1" {
		t.Errorf("%d hosts", len(h))
	}
	if len(v.Notable) != maxNotable || v.HiddenNotable != 50_000-maxNotable {
		t.Errorf("%d notable, %d more", len(v.Notable), v.HiddenNotable)
	}
}

func words(i int) string {
	const letters = "abcdefghij"
	s := []byte("pq")
	for ; i > 0; i /= 10 {
		s = append(s, letters[i%10])
	}
	return string(s)
}

// brokenDisk takes nothing.
type brokenDisk struct{}

func (brokenDisk) Write([]byte) (int, error) { return 0, errors.New("the disk is full") }

// What packs views is used again, also by several at a time and after it failed.
func TestEncodeAgain(t *testing.T) {
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 20 {
				if err := Encode(brokenDisk{}, &Views{Version: Version}); err == nil {
					t.Error("a full disk is no error")
				}
				var text bytes.Buffer
				v := &Views{Version: Version, HiddenNotable: int64(100*i + n)}
				if err := Encode(&text, v); err != nil {
					t.Error(err)
				}
				if got, err := Decode(&text); err != nil || got.HiddenNotable != v.HiddenNotable {
					t.Errorf("%+v, %v", got, err)
				}
			}
		})
	}
	all.Wait()
}

func TestDecodeOtherVersion(t *testing.T) {
	var text bytes.Buffer
	if err := Encode(&text, &Views{Version: Version + 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(&text); !errors.Is(err, ErrVersion) {
		t.Errorf("%v", err)
	}
	if _, err := Decode(strings.NewReader("nonsense")); err == nil || errors.Is(err, ErrVersion) {
		t.Errorf("%v", err)
	}
}

package query

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"pgregory.net/rapid"

	"github.com/muster-ci/muster/bench/tracegen"
	"github.com/muster-ci/muster/internal/trace"
)

func each(events []trace.Event) iter.Seq2[trace.Event, error] {
	return tracegen.Seq2(slices.Values(events))
}

// smallGroups are row groups of which a test has several without many events.
const smallGroups = 4096

func index(t interface {
	Helper()
	Fatal(...any)
}, events []trace.Event) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := writeIndex(&b, each(events), smallGroups)
	if err != nil || n != int64(len(events)) {
		t.Fatal(n, err)
	}
	return b.Bytes()
}

// oracle asks CEL itself, of the whole expression.
func oracle(t interface {
	Helper()
	Fatal(...any)
}, expr string) func(*trace.Event) verdict {
	t.Helper()
	env, err := environment()
	if err != nil {
		t.Fatal(err)
	}
	ast, issues := env.Compile(expr)
	if issues.Err() != nil {
		t.Fatal(issues.Err())
	}
	run, err := env.Program(ast)
	if err != nil {
		t.Fatal(err)
	}
	return func(e *trace.Event) verdict {
		v, _, err := run.Eval(cel.Activation(&bound{event: e}))
		if err != nil {
			return fault
		}
		return verdictOf(bool(v.(types.Bool)))
	}
}

var (
	someTexts   = []string{"", "a", "ab", "x.xyz", "/a/b", "read,write", "10.0.0.1", "net_connect", "dns_query"}
	someNumbers = []string{"0", "1", "7", "443", "-1"}
)

// expressions are random ones, with parts that have no value for some events.
func expressions() *rapid.Generator[string] {
	textField := rapid.SampledFrom([]string{"type", "hostname", "path", "command", "flags", "address"})
	numberField := rapid.SampledFrom([]string{"pid", "port", "seq", "bytes", "step", "exit_code"})
	literal := rapid.Custom(func(t *rapid.T) string { return `"` + rapid.SampledFrom(someTexts).Draw(t, "text") + `"` })
	number := rapid.SampledFrom(someNumbers)
	part := rapid.Custom(func(t *rapid.T) string {
		f, n := textField.Draw(t, "field"), numberField.Draw(t, "number")
		switch rapid.IntRange(0, 20).Draw(t, "form") {
		case 18:
			return "size(" + f + ") > " + n
		case 19:
			return f + ".base() <= " + literal.Draw(t, "l")
		case 20: // too large for some
			return n + rapid.SampledFrom([]string{" * ", " + ", " - "}).Draw(t, "op") + rapid.SampledFrom([]string{"9223372036854775807", "-9223372036854775807"}).Draw(t, "n") + " % 5 < pid"
		case 0:
			return f + " == " + literal.Draw(t, "l")
		case 1:
			return literal.Draw(t, "l") + " != " + f
		case 2:
			return f + "." + rapid.SampledFrom([]string{"startsWith", "endsWith", "contains", "inDomain", "glob", "hasFlag"}).Draw(t, "f") + "(" + literal.Draw(t, "l") + ")"
		case 3:
			return f + `.matches("^[a-x]+")`
		case 4:
			return n + rapid.SampledFrom([]string{" < ", " <= ", " > ", " >= ", " == ", " != "}).Draw(t, "op") + number.Draw(t, "n")
		case 5:
			return number.Draw(t, "n") + rapid.SampledFrom([]string{" < ", " <= ", " > ", " >= "}).Draw(t, "op") + n
		case 6:
			return f + " in [" + literal.Draw(t, "a") + ", " + literal.Draw(t, "b") + "]"
		case 7:
			return n + " in [0, 443]"
		case 8:
			return "args[1] == " + literal.Draw(t, "l") // no value for a list that is shorter
		case 9:
			return "10 / " + n + " > 2" // none for 0
		case 10:
			return "args.exists(a, a == " + f + ")"
		case 11:
			return literal.Draw(t, "l") + " in args"
		case 12:
			return f + " + command == path"
		case 13:
			return "timestamp " + rapid.SampledFrom([]string{"<", ">="}).Draw(t, "op") + ` timestamp("2026-11-21T12:00:00Z") + duration("` + rapid.SampledFrom([]string{"1s", "-1s", "0s"}).Draw(t, "d") + `")`
		case 14:
			return "truncated"
		case 15:
			return "pid + port + seq + bytes + step > 10"
		case 16:
			return `address.inCIDR(["10.0.0.0/8", "192.0.2.1"])`
		}
		return `lost["x"] > 1` // none without that key
	})
	return rapid.Custom(func(t *rapid.T) string {
		expr := part.Draw(t, "first")
		for range rapid.IntRange(0, 4).Draw(t, "parts") {
			p := part.Draw(t, "part")
			if rapid.Bool().Draw(t, "not") {
				p = "!(" + p + ")"
			}
			expr = "(" + expr + rapid.SampledFrom([]string{" && ", " || "}).Draw(t, "op") + p + ")"
		}
		if rapid.IntRange(0, 9).Draw(t, "choice") == 0 {
			expr = "port > 5 ? " + expr + " : !(" + expr + ")"
		}
		return expr
	})
}

func someEvents() *rapid.Generator[trace.Event] {
	word := rapid.SampledFrom(someTexts)
	return rapid.Custom(func(t *rapid.T) trace.Event {
		e := trace.Event{
			Type: trace.Type(word.Draw(t, "type")), Timestamp: noon.Add(time.Duration(rapid.IntRange(-2, 2).Draw(t, "at")) * time.Second),
			Seq: uint64(rapid.IntRange(0, 8).Draw(t, "seq")), Step: rapid.IntRange(0, 2).Draw(t, "step"), PID: rapid.IntRange(0, 7).Draw(t, "pid"),
			Hostname: word.Draw(t, "host"), Path: word.Draw(t, "path"), Command: word.Draw(t, "command"), Flags: word.Draw(t, "flags"), Address: word.Draw(t, "address"),
			Port: rapid.SampledFrom([]int{0, 1, 443}).Draw(t, "port"), Bytes: int64(rapid.IntRange(0, 9).Draw(t, "bytes")), ExitCode: rapid.IntRange(-1, 1).Draw(t, "exit"),
			Truncated: rapid.Bool().Draw(t, "truncated"),
		}
		if n := rapid.IntRange(0, 3).Draw(t, "args"); n > 0 {
			e.Args = rapid.SliceOfN(word, n, n).Draw(t, "arg")
		}
		if rapid.Bool().Draw(t, "lost") {
			e.Lost = map[string]int64{"x": int64(rapid.IntRange(0, 3).Draw(t, "x"))}
		}
		return e
	})
}

// Match, Scan and CEL itself agree on every expression and every event.
func TestScanAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		events := rapid.SliceOfN(someEvents(), 0, 30).Draw(t, "events")
		file := index(t, events)
		for range 4 {
			expr := expressions().Draw(t, "expr")
			q, err := Compile(expr)
			if err != nil {
				t.Fatalf("%s: %v", expr, err)
			}
			truth := oracle(t, expr)
			var want []trace.Event
			faults := int64(0)
			for _, e := range events {
				v := truth(&e)
				ok, err := q.Match(e)
				if ok != (v == yes) || (err != nil) != (v == fault) && (q.types == nil || v != fault) {
					t.Fatalf("%s: Match says %v %v, CEL %v, of %+v", expr, ok, err, v, e)
				}
				switch v {
				case yes:
					want = append(want, e)
				case fault:
					faults++
				}
			}
			var got []trace.Event
			stats, err := q.Scan(context.Background(), bytes.NewReader(file), int64(len(file)), 0, func(e trace.Event) bool {
				got = append(got, e)
				return true
			})
			if err != nil || !reflect.DeepEqual(got, want) || stats.Faults != faults || stats.Matched != int64(len(want)) || stats.Rows != int64(len(events)) {
				t.Fatalf("%s: %d events, want %d; %+v; %v\n%+v\n%+v", expr, len(got), len(want), stats, err, got, want)
			}
			if faults > 0 && stats.Fault == nil {
				t.Fatalf("%s: %d faults without a reason", expr, faults)
			}
		}
	})
}

// Every field survives the index, over several row groups.
func TestIndexHoldsEverything(t *testing.T) {
	events := []trace.Event{{
		Type: "x", Timestamp: noon.Add(time.Nanosecond), Seq: 1, Step: 2, PID: 3, Start: 4, PPID: 5, ParentStart: 6, UID: 7, Command: "c", Container: "d", Path: "p", NewPath: "n",
		Args: []string{"a", "<\"é\n>", ""}, Truncated: true, Dir: "w", ExitCode: -8, Signal: 9, DurationUS: 10, CPUUS: 11, MemoryKiB: 12, ReadBytes: 13, WrittenBytes: 14,
		Address: "::1", Port: 15, Protocol: "tcp", Hostname: "h", QueryType: "A", Addresses: []string{"1"}, Verdict: "v", Flags: "f", Bytes: 16, Count: 17, Method: "m",
		Target: 18, TargetCommand: "t", TargetUID: 19, Source: "s", FileSystem: "fs", Name: "nm", StepKind: "k", Uses: "u", Result: "r",
		Recorder: &trace.Recorder{Agent: "a", Missing: map[string]string{"x": "y"}}, Counts: map[string]int64{"a": 1}, Lost: map[string]int64{"b": 2},
	}}
	v := reflect.ValueOf(events[0])
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("the test leaves out %s", v.Type().Field(i).Name)
		}
	}
	if v.NumField() != len(fields) {
		t.Errorf("an event has %d fields, and an expression knows %d", v.NumField(), len(fields))
	}
	for i, f := range fields { // in the event's order, under their JSON names
		tag, _, _ := bytes.Cut([]byte(v.Type().Field(i).Tag.Get("json")), []byte(","))
		if string(tag) != f.name {
			t.Errorf("field %d is %s, and the variable %s", i, tag, f.name)
		}
	}
	for e := range tracegen.Events(tracegen.Options{Events: 2*smallGroups + 2000, Run: 3}) {
		events = append(events, e)
	}
	file := index(t, events)
	q, err := Compile("true")
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	stats, err := q.Scan(context.Background(), bytes.NewReader(file), int64(len(file)), 0, func(e trace.Event) bool {
		if !reflect.DeepEqual(e, events[i]) {
			t.Errorf("%+v\nis in the index\n%+v", events[i], e)
			return false
		}
		i++
		return true
	})
	if err != nil || i != len(events) || stats.Groups < 3 {
		t.Errorf("%d of %d events, %+v, %v", i, len(events), stats, err)
	}
}

// A trace that is small has an index that takes little memory to make, for many may end at a
// time; and whatever its size, all of it is there.
func TestIndexOfSmallTraces(t *testing.T) {
	all := slices.Collect(tracegen.Events(tracegen.Options{Events: 2 * flushRows}))
	for _, n := range []int{0, 60, flushRows - 1, flushRows, flushRows + 1} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		file := index(t, all[:n])
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; n < flushRows && took > 8<<20 {
			t.Errorf("the index of %d events took %d KiB", n, took>>10)
		}
		q, err := Compile("true")
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		if _, err := q.Scan(context.Background(), bytes.NewReader(file), int64(len(file)), 0, func(e trace.Event) bool {
			same := reflect.DeepEqual(e, all[i])
			i++
			return same
		}); err != nil || i != n {
			t.Errorf("%d of %d events are in the index, %v", i, n, err)
		}
	}
}

func TestScanSparesWork(t *testing.T) {
	var events []trace.Event
	for e := range tracegen.Events(tracegen.Options{Events: 3 * smallGroups, Run: 5, Incident: true}) {
		events = append(events, e)
	}
	file := index(t, events)
	last := events[len(events)-1].Timestamp.Add(-60 * time.Millisecond).Format(time.RFC3339Nano)
	for _, c := range []struct {
		expr    string
		skipped int
		asked   int64
		matches bool
	}{
		{`hostname.endsWith(".xyz")`, 2, 0, true},                      // the dictionary of one group has it
		{`hostname.endsWith(".nowhere")`, 3, 0, false},                 // that of none
		{`timestamp > timestamp("2030-01-01T00:00:00Z")`, 3, 0, false}, // by the bounds
		{`timestamp > timestamp("` + last + `") && type == "net_connect"`, 2, 0, true},
		{`seq == 17`, 2, 0, true},
		{`type == "process_exec" && "-importcfg" in args`, 0, 500, true}, // once for each list of arguments
	} {
		q, err := Compile(c.expr)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		stats, err := q.Scan(context.Background(), bytes.NewReader(file), int64(len(file)), 0, func(trace.Event) bool { n++; return true })
		if err != nil || stats.Skipped < c.skipped || stats.Asked > c.asked || (n > 0) != c.matches {
			t.Errorf("%s: %d found, %+v, %v", c.expr, n, stats, err)
		}
	}
}

func TestScanEnds(t *testing.T) {
	events := []trace.Event{exec("/a", "x"), exec("/b"), exec("/c")}
	file := index(t, events)
	q, err := Compile(`pid == 100`)
	if err != nil {
		t.Fatal(err)
	}
	count := func(limit, enough int) (n int) {
		_, err := q.Scan(context.Background(), bytes.NewReader(file), int64(len(file)), limit, func(trace.Event) bool { n++; return n != enough })
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(2, 0); n != 2 {
		t.Errorf("limit 2 gives %d", n)
	}
	if n := count(0, 1); n != 1 {
		t.Errorf("yield said no after 1, and %d came", n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := q.Scan(ctx, bytes.NewReader(file), int64(len(file)), 0, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// What is no index, or a damaged one, is an error and nothing worse.
func TestScanDamaged(t *testing.T) {
	file := index(t, []trace.Event{exec("/a", "x"), exec("/b")})
	q, err := Compile(`path == "/a" || pid == 3`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Scan(context.Background(), bytes.NewReader([]byte("nonsense")), 8, 0, nil); !errors.Is(err, ErrIndex) {
		t.Errorf("%v", err)
	}
	rapid.Check(t, func(t *rapid.T) {
		bad := bytes.Clone(file)
		for range rapid.IntRange(1, 5).Draw(t, "damages") {
			bad[rapid.IntRange(0, len(bad)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "by"))
		}
		_, _ = q.Scan(context.Background(), bytes.NewReader(bad), int64(len(bad)), 0, func(trace.Event) bool { return true })
	})
}

func TestWriteIndexStops(t *testing.T) {
	broken := errors.New("the archive is gone")
	n, err := WriteIndex(new(bytes.Buffer), func(yield func(trace.Event, error) bool) {
		if yield(exec("/a"), nil) {
			yield(trace.Event{}, broken)
		}
	})
	if n != 1 || !errors.Is(err, broken) {
		t.Errorf("%d %v", n, err)
	}
}

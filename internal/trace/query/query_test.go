package query

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/muster-ci/muster/internal/trace"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func exec(path string, args ...string) trace.Event {
	return trace.Event{Type: trace.ProcessExec, Timestamp: noon, Seq: 7, Step: 2, PID: 100, Path: path, Args: args}
}

func TestMatch(t *testing.T) {
	dns := trace.Event{Type: trace.DNSQuery, Timestamp: noon, Hostname: "api.evil.xyz", QueryType: "TXT", Addresses: []string{"192.0.2.1"}}
	conn := trace.Event{Type: trace.NetConnect, Timestamp: noon, Address: "10.1.2.3", Port: 443, Protocol: "tcp"}
	open := trace.Event{Type: trace.FileOpen, Timestamp: noon, Path: "/home/runner/.ssh/id_rsa", Flags: "read"}
	end := trace.Event{Type: trace.TraceEnd, Timestamp: noon, Lost: map[string]int64{"buffer_full": 3}}
	start := trace.Event{Type: trace.TraceStart, Timestamp: noon, Recorder: &trace.Recorder{Kernel: "6.1"}}
	for _, c := range []struct {
		expr  string
		event trace.Event
		want  bool
	}{
		{`type == "dns_query" && hostname.endsWith(".xyz")`, dns, true},
		{`type == "dns_query" && hostname.endsWith(".xyz")`, conn, false},
		{`hostname.inDomain("evil.xyz")`, dns, true},
		{`hostname.inDomain("vil.xyz")`, dns, false},
		{`hostname.inDomain(["example.com", "xyz"])`, dns, true},
		{`address.inCIDR("10.0.0.0/8") && port == 443`, conn, true},
		{`address.inCIDR(["192.168.0.0/16", "10.1.2.3"])`, conn, true},
		{`address.inCIDR("10.0.0.0/8")`, dns, false},
		{`address.isPublic()`, conn, false},
		{`addresses.exists(a, a.inCIDR("192.0.2.0/24"))`, dns, true},
		{`path.glob("/home/*/.ssh/**")`, open, true},
		{`path.glob(["/etc/*", "**/id_{rsa,ed25519}"])`, open, true},
		{`path.base() == "id_rsa" && flags.hasFlag("read")`, open, true},
		{`flags.hasFlag("rea")`, open, false},
		{`"-c" in args && args[0] == "sh"`, exec("/bin/sh", "sh", "-c", "true"), true},
		{`args.join(" ").contains("-c true")`, exec("/bin/sh", "sh", "-c", "true"), true},
		{`type(pid) == int && pid > 99`, exec("/bin/sh"), true},
		{`timestamp >= timestamp("2026-11-21T12:00:00Z") && timestamp.getHours() == 12`, dns, true},
		{`timestamp - timestamp("2026-11-21T11:00:00Z") == duration("1h")`, dns, true},
		{`lost["buffer_full"] > 2`, end, true},
		{`recorder.kernel.startsWith("6.")`, start, true},
		{`size(recorder) == 0 && size(counts) == 0 && size(args) == 0 && container == ""`, dns, true},
		{`hostname.matches("^api\\.")`, dns, true},
		{`hostname.entropy() > 2.0`, dns, true},
		{`type in ["file_open", "dns_query"] && query_type == "TXT"`, dns, true},
	} {
		q, err := Compile(c.expr)
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
			continue
		}
		if got, err := q.Match(c.event); got != c.want || err != nil {
			t.Errorf("%s: %v %v, want %v", c.expr, got, err, c.want)
		}
	}
}

func TestMatchWithoutValue(t *testing.T) {
	q, err := Compile(`args[1] == "-c"`)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := q.Match(exec("/bin/sh", "sh")); ok || err == nil {
		t.Errorf("an argument that is not there: %v %v", ok, err)
	}
	if ok, err := q.Match(exec("/bin/sh", "sh", "-c")); !ok || err != nil {
		t.Errorf("one that is: %v %v", ok, err)
	}
}

// An error points at its place and says what to do.
func TestCompileErrors(t *testing.T) {
	for _, c := range []struct{ expr, place, says string }{
		{`type = "x"`, "column 6", `"=="`},
		{`type == "dns_query" and port == 1`, "column 21", `"&&"`},
		{`hostnam == "x"`, "column 1", "did you mean hostname?"},
		{`type == "a" && host == "x"`, "column 16", "write hostname"},
		{`type == dns_query`, "column 9", "quotation marks"},
		{`port == "443"`, "column 6", "without quotation marks"},
		{`timestamp > "2026-11-21"`, "column 11", `timestamp("2026`},
		{`hostname`, "column 1", "compare it"},
		{`address.inCIDR("10.0.0.0/99")`, "column 16", `"10.0.0.0/8"`},
		{`path.matches("(")`, "column 14", "RE2"},
		{`path.startswith("/")`, "column 16", "startsWith"},
		{`args.contains("x")`, "column 14", "args.exists"},
		{`type == "x" &&`, "column 15", "too early"},
		{"type == \"x\" &&\n  prot == 3", "line 2, column 3", "did you mean port"},
		{``, "column 1", "too early"},
		{strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200), "line 1", ""},
		{`path == "` + strings.Repeat("x", maxExpression) + `"`, "line 1", "at most"},
	} {
		_, err := Compile(c.expr)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%.60s: %v is no *Error", c.expr, err)
			continue
		}
		if got := err.Error(); !strings.Contains(got, c.place) || !strings.Contains(got, c.says) {
			t.Errorf("%.60s: %s\nwant %q and %q", c.expr, got, c.place, c.says)
		}
	}
}

// A hostile expression ends soon, whatever the event.
func TestHostileExpression(t *testing.T) {
	e := exec("/bin/" + strings.Repeat("a", 4000))
	for range 1000 {
		e.Args = append(e.Args, "aaaa")
	}
	for _, expr := range []string{
		`args.all(a, args.all(b, args.all(c, args.all(d, a == d))))`,
		`path.replace("", path).replace("", path).replace("", path).contains("x")`,
		`args.map(a, args.map(b, args)).size() > 3`,
		`(path + path + path).matches("(a*)*(a*)*(a*)*b")`,
		`path.glob("` + strings.Repeat("*a", 60) + `b")`,
	} {
		q, err := Compile(expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		began := worked(t)
		ok, err := q.Match(e)
		if took := worked(t) - began; took > 2*time.Second {
			t.Errorf("%s took %v: %v %v", expr, took, ok, err)
		}
	}
}

// worked is how long this process has used a processor: what others do on the machine
// counts for nothing.
func worked(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestTypes(t *testing.T) {
	for expr, want := range map[string][]trace.Type{
		`type == "dns_query" && port == 1`:                          {trace.DNSQuery},
		`port == 1 && ("file_open" == type && pid == 2)`:            {trace.FileOpen},
		`type in ["file_open", "dns_query"] && type != "dns_query"`: {trace.FileOpen, trace.DNSQuery},
		`type in ["file_open", "dns_query"] && type == "dns_query"`: {trace.DNSQuery},
		`type == "dns_query" || port == 1`:                          nil,
		`type == "dns_query" && type == "file_open"`:                {},
		`type == command`: nil,
	} {
		q, err := Compile(expr)
		if err != nil {
			t.Fatal(err)
		}
		got := q.Types()
		if (got == nil) != (want == nil) || len(got) != len(want) {
			t.Errorf("%s: %v, want %v", expr, got, want)
		}
	}
}

// Going back and the table agree.
func TestGlobAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[ab/é]{0,12}`).Draw(t, "s")
		p := rapid.StringMatching(`([ab/é?*]|\*\*){0,8}`).Draw(t, "p")
		if a, b := globOne(s, p), globTable(s, p); a != b {
			t.Fatalf("%q ~ %q: %v and %v", s, p, a, b)
		}
	})
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		path, pattern string
		want          bool
	}{
		{"/etc/passwd", "/etc/*", true},
		{"/etc/ssl/certs", "/etc/*", false},
		{"/etc/ssl/certs", "/etc/**", true},
		{"/home/a/.ssh/id_rsa", "/home/*/.ssh/id_?sa", true},
		{"/home/é", "/home/?", true},
		{"/a/b/c.go", "**/*.{go,js}", true},
		{"/a/b/c.py", "**/*.{go,js}", false},
		{"", "", true}, {"", "**", true}, {"a", "", false}, {"/", "?", false},
		{"{", "{", true},
	} {
		if got := Glob(c.path, c.pattern); got != c.want {
			t.Errorf("%q ~ %q: %v", c.path, c.pattern, got)
		}
	}
	if began := worked(t); Glob(strings.Repeat("a", 4096), "**"+strings.Repeat("*a", 60)+"b") || worked(t)-began > time.Second {
		t.Error("a hostile pattern takes long")
	}
}

// Looking for the texts first changes no answer.
func TestMatcherAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`(?:ab|[abAc/]){0,8}`).Draw(t, "text")
		re, err := regexp.Compile(rapid.StringMatching(`(\^)?((ab|a|b|c|A)[*?+]?|\((a|b\+|ab)\|?(c|ab)\)[*+]?|\(\?i:ab\)|[.]){1,4}`).Draw(t, "re"))
		if err != nil {
			return
		}
		if got, want := matcher(re)(text), re.MatchString(text); got != want {
			t.Fatalf("%q ~ %q: %v", text, re, got)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	q, err := Compile(`hostname.endsWith(".xyz") || path.startsWith("/root/")`)
	if err != nil {
		b.Fatal(err)
	}
	e := exec("/usr/bin/sh", "sh", "-c", "true")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := q.Match(e); err != nil {
			b.Fatal(err)
		}
	}
}

// docs/traces-query.md tells all fields with their types, and its examples are questions.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../../../docs/traces-query.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range Fields() {
		if row := fmt.Sprintf("| `%s` | %s | %s |", f.Name, f.Type, f.About); !strings.Contains(string(text), row) {
			t.Errorf("the table of fields lacks the row\n%s", row)
		}
	}
	examples := regexp.MustCompile("(?s)```cel\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(examples) < 10 {
		t.Errorf("%d examples", len(examples))
	}
	for _, e := range examples {
		if _, err := Compile(e[1]); err != nil {
			t.Errorf("%s: %v", e[1], err)
		}
	}
}

package detect

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
)

// A baseline learns from some runs, and then what is new is a finding, once.
func TestBaselineMatures(t *testing.T) {
	rules := shippedRules(t)
	job := trace.Job{Repository: "octo/app", Key: "build", Workspace: "/r/_work/app/app"}
	usual := []trace.Event{
		{Type: trace.ProcessExec, PID: 1, Path: "/opt/hostedtoolcache/go/1.26.1/x64/bin/go", Args: []string{"go"}},
		{Type: trace.ProcessExec, PID: 2, Path: "/tmp/go-build123456/b001/exe/app", Args: []string{"app"}},
		{Type: trace.NetConnect, PID: 1, Address: "203.0.113.1", Port: 443, Hostname: "api.corp.example.com"},
		{Type: trace.FileOpen, PID: 1, Path: "/home/runner/.docker/config.json", Flags: "read"},
	}
	base := &Baseline{}
	for i := range MatureAfter {
		report, err := rules.Examine(job, base, each(usual...))
		if err != nil || len(report.Detections) != 0 {
			t.Fatalf("run %d: %v %v", i, err, titles(report.Detections))
		}
		if !base.Learn(report.Facts, "r-1", epoch.Add(time.Duration(i)*time.Hour)) {
			t.Fatal("not learnt")
		}
		doc, err := base.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if base, err = ParseBaseline(doc); err != nil {
			t.Fatal(err)
		}
	}
	if !base.Mature() {
		t.Fatal("not mature")
	}
	// The same with other versions and temporary names is nothing new.
	usual[0].Path, usual[1].Path = "/opt/hostedtoolcache/go/1.27.0/x64/bin/go", "/tmp/go-build9/b001/exe/app"
	unusual := append(usual,
		trace.Event{Type: trace.NetConnect, PID: 1, Address: "203.0.113.2", Port: 443, Hostname: "sfrclak.com"},
		trace.Event{Type: trace.NetConnect, PID: 1, Address: "203.0.113.2", Port: 443, Hostname: "sfrclak.com"},
		trace.Event{Type: trace.ProcessExec, PID: 3, Path: "/usr/bin/ncat", Args: []string{"ncat"}},
		trace.Event{Type: trace.FileOpen, PID: 1, Path: "/home/runner/.aws/credentials", Flags: "read"},
	)
	report, err := rules.Examine(job, base, each(unusual...))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range report.Detections {
		got = append(got, d.Rule+" "+d.Subject+" "+d.Fact)
	}
	want := []string{"new-sensitive-file ~/.aws/credentials sensitive:~/.aws/credentials", "new-host sfrclak.com host:sfrclak.com", "new-binary /usr/bin/ncat binary:/usr/bin/ncat"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"host:sfrclak.com", "binary:/usr/bin/ncat", "sensitive:~/.aws/credentials"}, base.New(report.Facts)); d != "" {
		t.Error(d)
	}
}

// A machine that does not record connections teaches nothing of hosts: when another does,
// what the job always reached is no finding. Of what it does record, what is new is one.
func TestBaselineMaturesByKind(t *testing.T) {
	rules, base := shippedRules(t), &Baseline{}
	start := func(missing ...string) trace.Event {
		r := &trace.Recorder{Missing: map[string]string{}}
		for _, m := range missing {
			r.Missing[m] = "no cgroup v2"
		}
		return trace.Event{Type: trace.TraceStart, Recorder: r}
	}
	tool := trace.Event{Type: trace.ProcessExec, PID: 1, Path: "/usr/bin/make", Args: []string{"make"}}
	reach := func(host string) trace.Event {
		return trace.Event{Type: trace.NetConnect, PID: 1, Address: "203.0.113.1", Port: 443, Hostname: host}
	}
	run := func(events ...trace.Event) (found []string) {
		t.Helper()
		report, err := rules.Examine(trace.Job{}, base, each(append(events, trace.Event{Type: trace.TraceEnd})...))
		if err != nil || !base.Learn(report.Facts, "r-1", epoch) {
			t.Fatal(err, titles(report.Detections))
		}
		for _, d := range report.Detections {
			found = append(found, d.Fact)
		}
		return found
	}
	for range MatureAfter {
		run(start("net_connect", "dns_query"), tool)
	}
	if got := run(start("net_connect"), tool, trace.Event{Type: trace.ProcessExec, PID: 2, Path: "/usr/bin/rarely"}); !slices.Equal(got, []string{"binary:/usr/bin/rarely"}) {
		t.Errorf("a new program: %v", got)
	}
	for n := range MatureAfter {
		if got := run(start(), tool, reach("api.corp.example.com")); len(got) != 0 {
			t.Fatalf("run %d that sees connections: %v", n, got)
		}
	}
	if got := run(start(), tool, reach("new.example.com")); !slices.Equal(got, []string{"host:new.example.com"}) {
		t.Errorf("a new host: %v", got)
	}
	// Who accepts what there is accepts nothing of what was never looked at.
	base = &Baseline{}
	run(start("all"))
	run(start("dns_query"), tool)
	base.AcceptAll(Act{By: "operator"})
	if got := run(start(), reach("api.corp.example.com"), trace.Event{Type: trace.ProcessExec, PID: 2, Path: "/usr/bin/rarely"}); !slices.Equal(got, []string{"binary:/usr/bin/rarely"}) {
		t.Errorf("after it was accepted: %v", got)
	}
}

// A run with a finding of weight teaches nothing; one with what is new only does.
func TestBaselineLearnsFromGoodRuns(t *testing.T) {
	rules, base := shippedRules(t), &Baseline{}
	bad, err := rules.Examine(trace.Job{}, base, each(
		trace.Event{Type: trace.NetConnect, PID: 1, Address: "203.0.113.1", Port: 443, Hostname: "exfil.example.com"},
		trace.Event{Type: trace.MemRead, PID: 1, Method: "proc_mem", Target: 2, TargetCommand: "Runner.Worker"},
	))
	if err != nil || bad.Facts.Worst != muster.SeverityCritical {
		t.Fatalf("%v %s", err, bad.Facts.Worst)
	}
	if base.Learn(bad.Facts, "r-1", epoch) || base.Runs != 0 || base.Refused != 1 || base.Knows("host", "exfil.example.com") {
		t.Errorf("%+v", base)
	}
	base.Accepted = &Act{By: "operator", At: epoch}
	fresh, err := rules.Examine(trace.Job{}, base, each(trace.Event{Type: trace.FileOpen, PID: 1, Path: "/root/.kube/config", Flags: "read"}))
	if err != nil || len(fresh.Detections) != 1 || fresh.Facts.Worst != "" {
		t.Fatalf("%v %v %q", err, titles(fresh.Detections), fresh.Facts.Worst)
	}
	if !base.Learn(fresh.Facts, "r-2", epoch) {
		t.Errorf("%+v", base)
	}
	if s, met := base.Seen(Fact{"sensitive", "~/.kube/config"}); !met || s.Trace != "r-2" {
		t.Errorf("%+v", base)
	}
}

// What is new to a mature baseline is a finding in each run that has it, until enough had it
// or somebody accepts it; what was met while it learnt is usual at once.
func TestNewUntilUsualOrAccepted(t *testing.T) {
	base := &Baseline{}
	run := func(n int, hosts ...string) {
		t.Helper()
		f := newFacts()
		for _, h := range hosts {
			f.Hosts[h] = 1
		}
		if !base.Learn(f, fmt.Sprintf("r-%d", n), epoch.Add(time.Duration(n)*time.Hour)) {
			t.Fatal("not learnt")
		}
	}
	for n := range MatureAfter {
		run(n, fmt.Sprintf("early-%c.example", 'a'+n))
	}
	if !base.Mature() || len(base.Fresh()) != 0 || !base.Knows("host", "early-e.example") {
		t.Fatalf("%+v", base)
	}
	slow, expected := Fact{"host", "slow.example"}, Fact{"host", "expected.example"}
	for n := range UsualAfter - 1 {
		run(10+n, slow.What, expected.What)
		if base.Knows("host", slow.What) || base.Knows("host", expected.What) || len(base.Fresh()) != 2 {
			t.Fatalf("usual after %d runs: %+v", n+1, base.Hosts)
		}
	}
	if s, _ := base.Seen(slow); s.Trace != "r-10" || !s.First.Equal(epoch.Add(10*time.Hour)) || s.Runs != UsualAfter-1 {
		t.Errorf("%+v", s)
	}
	by := Act{By: "operator", At: epoch.Add(20 * time.Hour), Reason: "the mirror moved"}
	if !base.Accept(expected, by) || base.Accept(expected, Act{By: "somebody else"}) || base.Accept(Fact{"port", "1"}, by) || base.Accept(Fact{"host", ""}, by) {
		t.Error("what is accepted is accepted once, and must be something")
	}
	if s, _ := base.Seen(expected); s.Accepted == nil || *s.Accepted != by || s.Runs != UsualAfter-1 || !base.Knows("host", expected.What) {
		t.Errorf("%+v", s)
	}
	run(21, slow.What)
	if !base.Knows("host", slow.What) || len(base.Fresh()) != 0 {
		t.Errorf("%+v", base.Hosts)
	}
	// In advance, too.
	mirror := Fact{"host", "next.example"}
	if !base.Accept(mirror, by) || !base.Knows("host", mirror.What) {
		t.Error("not accepted before it was met")
	}
	run(22, mirror.What)
	if s, _ := base.Seen(mirror); s.Fresh || s.Runs != 1 || s.Accepted == nil {
		t.Errorf("%+v", s)
	}
}

// Somebody may look at a young baseline and call it right, and have it begin anew.
func TestBaselineAcceptedAndForgotten(t *testing.T) {
	base := &Baseline{}
	by := Act{By: "operator", At: epoch}
	base.Learn(Facts{Hosts: map[string]int{"a.example": 2}}, "r-1", epoch)
	if base.Mature() || !base.AcceptAll(by) || !base.Mature() || base.AcceptAll(by) {
		t.Errorf("%+v", base)
	}
	base.Learn(Facts{Hosts: map[string]int{"b.example": 1}}, "r-2", epoch)
	if got := base.Fresh(); len(got) != 1 || got[0].String() != "host:b.example" {
		t.Error(got)
	}
	if !base.AcceptAll(Act{By: "another", At: epoch.Add(time.Hour)}) || base.Accepted.By != "operator" || base.Hosts["b.example"].Accepted.By != "another" || base.Hosts["a.example"].Accepted != nil {
		t.Errorf("%+v", base)
	}
	doc, err := base.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseBaseline(doc); err != nil || !cmp.Equal(again, base) {
		t.Errorf("%v %s", err, cmp.Diff(base, again))
	}
	base.Forget(by)
	if base.Mature() || len(base.Facts()) != 0 || base.Runs != 0 || base.Forgotten == nil || *base.Forgotten != by {
		t.Errorf("%+v", base)
	}
}

// Whoever names a fact may write it as a job had it.
func TestParseFact(t *testing.T) {
	for text, want := range map[string]string{
		"host:evil.example": "host:evil.example", "host:mirror7.example.com": "host:mirror*.example.com", "host:2001:db8::1": "host:2001:db8::1", "binary:/opt/node/20.1.0/bin/node": "binary:/opt/node/*/bin/node",
		"sensitive:/home/runner/.aws/credentials": "sensitive:~/.aws/credentials", "sensitive:~/.aws/credentials": "sensitive:~/.aws/credentials",
	} {
		if f, err := ParseFact(text); err != nil || f.String() != want {
			t.Errorf("%s: %s %v", text, f, err)
		}
	}
	for _, text := range []string{"", "evil.example", "host:", "host: ", "port:443", ":x", "host:" + strings.Repeat("x", maxFact)} {
		if _, err := ParseFact(text); muster.CodeOf(err) != muster.CodeInvalid {
			t.Errorf("%.20q is taken: %v", text, err)
		}
	}
}

// A rule of somebody's own that asks for what is new names the fact; one that only looks
// like it does not, nor does the line that counts what is too much.
func TestFindingsNameTheFact(t *testing.T) {
	rules, err := Load(fstest.MapFS{"own.yaml": {Data: []byte(`rules:
  - {name: own-host, title: "{program}", severity: low, on: [net_connect], when: 'new_host.endsWith(".example")', subject: "{program}", explanation: x, remedy: y}
  - {name: any-host, title: "{new_host}", severity: low, on: [net_connect], when: 'port == 443', explanation: x, remedy: y}
`)}})
	if err != nil {
		t.Fatal(err)
	}
	base := &Baseline{Accepted: &Act{By: "operator"}}
	events := []trace.Event{{Type: trace.NetConnect, PID: 1, Address: "203.0.113.1", Port: 443, Hostname: "a.example"}}
	for i := range maxPerRule + 1 {
		events = append(events, trace.Event{Type: trace.ProcessExec, PID: 2, Path: "/bin/" + strings.Repeat("x", i+1), Args: []string{"x"}})
	}
	report, err := rules.Examine(trace.Job{}, base, each(events...))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, d := range report.Detections {
		got[d.Rule] = append(got[d.Rule], d.Fact)
	}
	if n := len(got["new-binary"]); n != maxPerRule+1 || got["new-binary"][0] != "binary:/bin/x" || got["new-binary"][n-1] != "" {
		t.Errorf("%d: %q", n, got["new-binary"])
	}
	if got["own-host"][0] != "host:a.example" || got["any-host"][0] != "" || got["new-host"][0] != "host:a.example" {
		t.Error(got)
	}
}

// What people read is what happened, letter by letter: it can be looked for. Only the fact is
// written in a baseline's way.
func TestTitlesOfWhatIsNew(t *testing.T) {
	report, err := shippedRules(t).Examine(trace.Job{}, &Baseline{Accepted: &Act{By: "operator"}}, each(
		trace.Event{Type: trace.ProcessExec, PID: 1, Path: "/usr/bin/base64", Args: []string{"base64"}},
		trace.Event{Type: trace.DNSQuery, PID: 1, Hostname: "x7f3.metrics.example.com", QueryType: "A"},
		trace.Event{Type: trace.FileOpen, PID: 1, Path: "/srv/r-zol7zr7wmtabajbm/home/.aws/credentials", Flags: "read"},
	))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, d := range report.Detections {
		got[d.Title] = d.Fact
	}
	for title, fact := range map[string]string{
		"/usr/bin/base64 ran, which this job never did before":                                         "binary:/usr/bin/base*",
		"base64 turned to x7f3.metrics.example.com, which this job never did before":                   "host:x*f*.metrics.example.com",
		"base64 opened /srv/r-zol7zr7wmtabajbm/home/.aws/credentials, which this job never did before": "sensitive:/srv/*/home/.aws/credentials",
	} {
		if got[title] != fact {
			t.Errorf("%s: %q among %q", title, got[title], got)
		}
	}
}

// A question for a name is refused for the name, whatever port its resolver has.
func TestTitlesOfRefusals(t *testing.T) {
	got := map[string]bool{}
	for _, d := range detections(t, shippedRules(t),
		trace.Event{Type: trace.ProcessExec, PID: 1, Path: "/usr/bin/curl", Args: []string{"curl"}},
		trace.Event{Type: trace.DNSQuery, PID: 1, Hostname: "a.example.com", Address: "192.0.2.53", Port: 53, Verdict: trace.VerdictDenied},
		trace.Event{Type: trace.NetConnect, PID: 1, Address: "2001:db8::1", Port: 443, Verdict: trace.VerdictDenied},
		trace.Event{Type: trace.NetConnect, PID: 1, Address: "192.0.2.9", Protocol: "icmp", Verdict: trace.VerdictWouldDeny},
	) {
		got[d.Title] = true
	}
	for _, title := range []string{"curl was refused a.example.com", "curl was refused [2001:db8::1]:443", "curl would be refused 192.0.2.9 if the policy were enforced"} {
		if !got[title] {
			t.Errorf("%q is not among %v", title, got)
		}
	}
}

func TestNormal(t *testing.T) {
	n := newNormaliser(trace.Job{Workspace: "/home/r/_work/app/app"})
	for from, want := range map[string]string{
		"/home/r/_work/app/app/bin/tool":                              "$WORKSPACE/bin/tool",
		"/home/r/_work/_temp/0a1b2c3d-1111-4222-8333-444455556666.sh": "$TEMP/*",
		"/home/runner/.cargo/bin/cargo":                               "~/.cargo/bin/cargo",
		"/opt/hostedtoolcache/Python/3.11.9/x64/bin/python3.11":       "/opt/hostedtoolcache/Python/*/x*/bin/python*",
		"/tmp/go-build3141592/b001/x.test":                            "/tmp/*/b*/x.test",
		"/usr/lib/gcc/x86_64-linux-gnu/12/cc1":                        "/usr/lib/gcc/x*-linux-gnu/*/cc*",
		"/root/.nvm/versions/node/v20.1.0/bin/node":                   "~/.nvm/versions/node/v*/bin/node",
		"/var/lib/x/deadbeefdeadbeef/run":                             "/var/lib/x/*/run",
		// The home that a runner has for one job is beside its folder, and named by its id.
		"/srv/runners/r-zol7zr7wmtabajbm/home/.aws/credentials":         "/srv/runners/*/home/.aws/credentials",
		"/srv/runners/r-abcdefghijklmnop/runner/externals/bin/node":     "/srv/runners/*/runner/externals/bin/node",
		"/tmp/data/runners/r-e56vx2l2uct4btrd/home/.docker/config.json": "/tmp/*/runners/*/home/.docker/config.json",
		"/srv/runners/r-short/home/.npmrc":                              "/srv/runners/r-short/home/.npmrc",
	} {
		if got := n.path(from); got != want {
			t.Errorf("%s: %s instead of %s", from, got, want)
		}
	}
	for from, want := range map[string]string{
		"results12.blob.core.windows.net":                     "results*.blob.core.windows.net",
		"d1a2b3c4d5e6f7.cloudfront.net":                       "d1a2b3c4d5e6f7.cloudfront.net",
		"proxy.golang.org":                                    "proxy.golang.org",
		"i-0123456789abcdef0.eu-west-1.compute.amazonaws.com": "i-*.eu-west-1.compute.amazonaws.com",
		"203.0.113.9":                                         "203.0.113.9",
		"2001:db8::1":                                         "2001:db8::1",
		"example.com":                                         "example.com",
	} {
		if got := n.host(from); got != want {
			t.Errorf("%s: %s instead of %s", from, got, want)
		}
	}
}

func TestBaselineOfTheFuture(t *testing.T) {
	if _, err := ParseBaseline([]byte(`{"version":99}`)); err == nil {
		t.Error("read")
	}
	if _, err := ParseBaseline([]byte(`{`)); err == nil {
		t.Error("read")
	}
	if b, err := ParseBaseline(nil); err != nil || b.Mature() {
		t.Errorf("%v", err)
	}
}

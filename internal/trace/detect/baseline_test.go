package detect

import (
	"testing"
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
		if !base.Learn(report.Facts, epoch.Add(time.Duration(i)*time.Hour)) {
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
		got = append(got, d.Rule+" "+d.Subject)
	}
	want := []string{"new-sensitive-file ~/.aws/credentials", "new-host sfrclak.com", "new-binary /usr/bin/ncat"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"host:sfrclak.com", "binary:/usr/bin/ncat", "sensitive:~/.aws/credentials"}, base.New(report.Facts)); d != "" {
		t.Error(d)
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
	if base.Learn(bad.Facts, epoch) || base.Runs != 0 || base.Refused != 1 || base.Knows("host", "exfil.example.com") {
		t.Errorf("%+v", base)
	}
	base.Accepted = true
	fresh, err := rules.Examine(trace.Job{}, base, each(trace.Event{Type: trace.FileOpen, PID: 1, Path: "/root/.kube/config", Flags: "read"}))
	if err != nil || len(fresh.Detections) != 1 || fresh.Facts.Worst != "" {
		t.Fatalf("%v %v %q", err, titles(fresh.Detections), fresh.Facts.Worst)
	}
	if !base.Learn(fresh.Facts, epoch) || !base.Knows("sensitive", "~/.kube/config") {
		t.Errorf("%+v", base)
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

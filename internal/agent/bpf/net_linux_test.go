//go:build linux && (amd64 || arm64)

package bpf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/muster-ci/muster/internal/trace"
)

func policyOf(mode trace.EgressMode) trace.Egress {
	return trace.Egress{Mode: mode, Allow: []string{
		"allowed.test", "*.wild.test", "ported.test:443", "cname.test", "rebind.test", freeAt, "localname",
	}}
}

// ways are those in which a job may try to reach an address, and what they are told as.
var ways = []struct {
	act      string // with the address behind it
	protocol string
	portless bool
}{
	{"tcp", "tcp", false},
	{"nonblocking", "tcp", false},
	{"mapped", "tcp", false},
	{"mptcp", "", false},
	{"fastopen", "tcp", false},
	{"udp", "udp", false},
	{"udp-mapped", "udp", false},
	{"udp-connected", "udp", false},
	{"ping", "icmp", true},
	{"icmp", "icmp", true},
	{"raw", "udp", false},
	{"uring", "tcp", false},
	{"orphan tcp", "tcp", false},
}

// S4-65: what is not allowed is denied, whichever way it is tried, and for the job alone:
// a bystander on the same machine reaches the same address at the same moment.
func TestEgressDeniesEveryWay(t *testing.T) {
	l := newLab(t)
	r := openRecorder(t, l)
	job, bystander := l.start(), l.start()
	w := watch(t, r, job, policyOf(trace.EgressEnforce))
	for _, way := range ways {
		bad, good := deniedAt+":443", freeAt+":443"
		if way.portless {
			bad, good = deniedAt, freeAt
		}
		if got := job.do(way.act, bad); got != refused {
			t.Errorf("%s to what is not allowed: %s", way.act, got)
		}
		if got := bystander.do(way.act, bad); !strings.HasPrefix(got, "ok") {
			t.Errorf("%s by a bystander: %s", way.act, got)
		}
		if got := job.do(way.act, good); !strings.HasPrefix(got, "ok") {
			t.Errorf("%s to what is allowed: %s", way.act, got)
		}
	}
	for _, way := range []string{"tcp", "udp", "udp-connected"} {
		if got := job.do(way, "["+denied6+"]:443"); got != refused {
			t.Errorf("%s over IPv6: %s", way, got)
		}
	}
	if got := job.do("icmp", denied6); got != refused {
		t.Errorf("ICMPv6: %s", got)
	}
	events := w.end()
	for _, way := range ways {
		like := trace.Event{Type: trace.NetConnect, Address: deniedAt, Protocol: way.protocol, Verdict: trace.VerdictDenied}
		if len(find(events, like)) == 0 {
			t.Errorf("%s: no event that it was denied", way.act)
		}
	}
	for _, e := range find(events, trace.Event{Type: trace.NetConnect, Verdict: trace.VerdictDenied}) {
		if e.PID == 0 || e.Start == 0 || e.Command == "" || e.Address == freeAt {
			t.Errorf("denied: %+v", e)
		}
	}
}

// Audit refuses nothing and tells of everything.
func TestEgressAudit(t *testing.T) {
	l := newLab(t)
	r := openRecorder(t, l)
	for _, mode := range []trace.EgressMode{trace.EgressAudit, trace.EgressLearn} {
		job := l.start()
		w := watch(t, r, job, policyOf(mode))
		for _, way := range ways {
			bad := deniedAt + ":443"
			if way.portless {
				bad = deniedAt
			}
			if got := job.do(way.act, bad); !strings.HasPrefix(got, "ok") {
				t.Errorf("%s: %s: %s", mode, way.act, got)
			}
		}
		for _, c := range [][2]string{{"tcp", metadataAt + ":80"}, {"fetch " + resolverAt, "evil.test:443"}, {"fetch " + resolverAt, "allowed.test:443"}, {"tls", allowedAt + ":443 evil.test"}} {
			if got := job.do(c[0], c[1]); !strings.HasPrefix(got, "ok") {
				t.Errorf("%s: %v: %s", mode, c, got)
			}
		}
		events := w.end()
		if n := len(find(events, trace.Event{Type: trace.NetConnect, Verdict: trace.VerdictDenied})); n > 0 {
			t.Errorf("%s: %d denied", mode, n)
		}
		for _, like := range []trace.Event{
			{Type: trace.NetConnect, Address: deniedAt, Protocol: "tcp", Verdict: trace.VerdictWouldDeny},
			{Type: trace.NetConnect, Address: deniedAt, Protocol: "icmp", Verdict: trace.VerdictWouldDeny},
			{Type: trace.NetConnect, Address: metadataAt, Verdict: trace.VerdictWouldDeny},
			{Type: trace.NetConnect, Address: allowedAt, Hostname: "allowed.test", Verdict: trace.VerdictAllowed},
			{Type: trace.DNSQuery, Hostname: "evil.test", Verdict: trace.VerdictWouldDeny},
			{Type: trace.DNSQuery, Hostname: "allowed.test", Verdict: trace.VerdictAllowed},
			{Type: trace.NetConnect, Address: deniedAt, Hostname: "evil.test", Verdict: trace.VerdictWouldDeny},
			{Type: trace.TLSHello, Hostname: "evil.test", Address: allowedAt, Verdict: trace.VerdictWouldDeny},
		} {
			if len(find(events, like)) == 0 {
				t.Errorf("%s: nothing like %+v", mode, like)
			}
		}
	}
}

// A policy is the scope's own: two jobs on one machine may have different ones, and what
// one of them learns does not open anything to the other.
func TestEgressOfTwoJobs(t *testing.T) {
	l := newLab(t)
	r := openRecorder(t, l)
	one, other, free := l.start(), l.start(), l.start()
	a := watch(t, r, one, trace.Egress{Mode: trace.EgressEnforce, Allow: []string{"allowed.test"}})
	b := watch(t, r, other, trace.Egress{Mode: trace.EgressEnforce, Allow: []string{"evil.test"}})
	c := watch(t, r, free, trace.Egress{})
	for _, x := range []struct {
		who  *actor
		act  string
		want string
	}{
		{one, "fetch " + resolverAt + " allowed.test:443", "ok " + allowedAt},
		{other, "fetch " + resolverAt + " evil.test:443", "ok " + deniedAt},
		{one, "tcp " + deniedAt + ":443", refused},
		{other, "tcp " + allowedAt + ":443", refused},
		{free, "tcp " + deniedAt + ":443", "ok"},
		{free, "fetch " + resolverAt + " evil.test:443", "ok " + deniedAt},
	} {
		if got := x.who.do(x.act); got != x.want {
			t.Errorf("%s: %s, want %s", x.act, got, x.want)
		}
	}
	a.end()
	b.end()
	for _, e := range c.end() {
		if netEvent(e) && e.Verdict != "" {
			t.Errorf("a verdict without a policy: %+v", e)
		}
	}
	// What a policy has put into the tables is taken out with it.
	for _, table := range []string{"policies", "networks", "names"} {
		n := 0
		var key, value []byte
		for all := r.net.tables[table].Iterate(); all.Next(&key, &value); {
			n++
		}
		if n != 0 {
			t.Errorf("%d entries are left in %s", n, table)
		}
	}
	if got := one.do("tcp", deniedAt+":443"); got != "ok" {
		t.Errorf("after its end: %s", got)
	}
}

// Names open addresses before the answer is there; what is not allowed is not looked up.
func TestEgressByName(t *testing.T) {
	l := newLab(t)
	r := openRecorder(t, l)
	job := l.start()
	w := watch(t, r, job, policyOf(trace.EgressEnforce))
	for _, c := range []struct{ act, want string }{
		{"tcp " + allowedAt + ":443", refused}, // nobody has asked for its name yet
		{"fetch " + resolverAt + " allowed.test:443", "ok " + allowedAt},
		{"tcp " + allowedAt + ":22", "ok"},
		{"tcp [" + allowed6 + "]:443", refused},
		{"fetch " + resolverAt + " AAAA/allowed.test:443", "ok " + allowed6},
		{"fetch " + resolverAt + " a.wild.test:443", "ok 192.0.2.82"},
		{"fetch " + resolverAt + " A.WILD.test:443", "ok 192.0.2.82"},
		{"fetch " + resolverAt + " ported.test:80", refused},
		{"fetch " + resolverAt + " ported.test:443", "ok 192.0.2.83"},
		{"fetch " + resolverAt + " cname.test:443", "ok 192.0.2.84"},
		{"fetch " + resolverAt + " many.wild.test:443", "ok 192.0.2.149"},
		{"lookup udp " + resolverAt + " evil.test", refused},
		{"lookup udp " + resolverAt + " wild.test", refused},
		{"lookup udp " + resolverAt + " x.tunnel.test", refused},
		{"lookup udp " + resolverAt + " allowed.test.evil.example", refused},
		{"lookup udp " + resolverAt + " allowed.test.corp.test", "ok RCodeNameError"}, // on a client's way through the search domains
		{"lookup udp " + freeAt + " evil.test", refused},                              // another server does not help
		{"lookup tcp " + resolverAt + " allowed.test", "ok " + allowedAt},
		{"dns-gso " + resolverAt + " allowed.test", "ok"},
		{"dns-gso " + resolverAt + " allowed.test tunnele.test", refused},
		{"tcp 192.0.2.149:8443", "ok"}, // the control plane
	} {
		if got := job.do(c.act); got != c.want {
			t.Errorf("%s: %s, want %s", c.act, got, c.want)
		}
	}
	for _, network := range []string{"tcp", "mptcp"} {
		if got := job.do("lookup " + network + " " + resolverAt + " x.tunnel.test"); strings.HasPrefix(got, "ok") {
			t.Errorf("a tunnel over %s: %s", network, got)
		}
	}
	// DNS rebinding: the name is allowed, the metadata service is not.
	if got := job.do("fetch " + resolverAt + " rebind.test:80"); got != refused {
		t.Errorf("rebinding: %s", got)
	}
	events := w.end()
	for _, name := range []string{"evil.test", "x.tunnel.test", "allowed.test.evil.example", "tunnele.test"} {
		if l.wasAsked(name) {
			t.Errorf("%s came as far as a resolver", name)
		}
		if len(find(events, trace.Event{Type: trace.DNSQuery, Hostname: name, Verdict: trace.VerdictDenied})) == 0 && name != "tunnele.test" {
			t.Errorf("no event that %s was denied", name)
		}
	}
	asked := find(events, trace.Event{Type: trace.DNSQuery, Hostname: "allowed.test", QueryType: "A", Verdict: trace.VerdictAllowed})
	if len(asked) == 0 || len(asked[0].Addresses) != 1 || asked[0].Addresses[0] != allowedAt || asked[0].PID != job.cmd.Process.Pid || asked[0].Address != resolverAt {
		t.Errorf("the look-up of allowed.test: %+v", asked)
	}
	if len(find(events, trace.Event{Type: trace.NetConnect, Address: allowedAt, Hostname: "allowed.test", Verdict: trace.VerdictAllowed})) == 0 {
		t.Error("a connection does not have the name that it was made by")
	}
	if len(find(events, trace.Event{Type: trace.NetConnect, Address: metadataAt, Hostname: "rebind.test", Verdict: trace.VerdictDenied})) == 0 {
		t.Error("no event of the metadata service being asked for")
	}
}

// Where programs ask a daemon for names, no answer passes by; the recorder knows them itself.
func TestEgressWhereADaemonResolves(t *testing.T) {
	l := newLab(t)
	root := t.TempDir()
	nsswitch := filepath.Join(root, "nsswitch.conf")
	socket := filepath.Join(root, "run/systemd/resolve/io.systemd.Resolve")
	for _, err := range []error{
		os.WriteFile(nsswitch, []byte("passwd: files\nhosts: mymachines resolve [!UNAVAIL=return] files dns\n"), 0o600),
		os.MkdirAll(filepath.Dir(socket), 0o755), os.WriteFile(socket, nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r := openRecorder(t, l, func(o *Options) {
		o.NSSwitch, o.root = nsswitch, root
		o.lookup = func(_ context.Context, _, name string) ([]netip.Addr, error) {
			if a := l.names[name]; a != nil {
				return a, nil
			}
			return nil, errors.New("no such name")
		}
	})
	job := l.start()
	w := watch(t, r, job, policyOf(trace.EgressEnforce))
	for act, want := range map[string]string{
		"tcp " + allowedAt + ":443":  "ok",
		"tcp [" + allowed6 + "]:443": "ok",
		"tcp 192.0.2.83:443":         "ok",
		"tcp 192.0.2.83:80":          refused,
		"tcp " + metadataAt + ":80":  refused,
		"tcp " + deniedAt + ":443":   refused,
		"tcp 192.0.2.82:443":         refused, // below a wildcard
	} {
		if got := job.do(act); got != want {
			t.Errorf("%s: %s, want %s", act, got, want)
		}
	}
	w.end()
}

func TestAsksDaemon(t *testing.T) {
	for _, c := range []struct {
		nsswitch, socket string
		want             bool
	}{
		{"hosts: files resolve dns", "/run/systemd/resolve/io.systemd.Resolve", true},
		{"hosts: files dns", "/run/systemd/resolve/io.systemd.Resolve", false},
		{"hosts: files resolve dns", "", false},
		{"networks: resolve\nhosts: files dns", "/run/systemd/resolve/io.systemd.Resolve", false},
		{"hosts: files dns", "/run/nscd/socket", true},
		{"", "", false},
	} {
		if got := asksDaemon(c.nsswitch, func(path string) bool { return path == c.socket }); got != c.want {
			t.Errorf("%q with %q: %v", c.nsswitch, c.socket, got)
		}
	}
}

// The metadata service is there for who allows it by its address.
func TestEgressMetadataAllowed(t *testing.T) {
	l := newLab(t)
	r := openRecorder(t, l)
	for allow, want := range map[string]string{"0.0.0.0/0": refused, metadataAt + ":80": "ok", "169.254.0.0/16": "ok"} {
		job := l.start()
		w := watch(t, r, job, trace.Egress{Mode: trace.EgressEnforce, Allow: []string{allow}})
		if got := job.do("tcp", metadataAt+":80"); got != want {
			t.Errorf("%s allows: %s, want %s", allow, got, want)
		}
		w.end()
	}
}

// Behind an address that many names share, TLS says which one is meant.
func TestEgressComparesTLS(t *testing.T) {
	l := newLab(t)
	r := openRecorder(t, l)
	job := l.start()
	w := watch(t, r, job, policyOf(trace.EgressEnforce))
	if got := job.do("fetch", resolverAt, "allowed.test:443"); !strings.HasPrefix(got, "ok") {
		t.Fatal(got)
	}
	at := allowedAt + ":443"
	for _, c := range []struct {
		act  string
		pass bool
	}{
		{"tls " + at + " allowed.test", true},
		{"tls " + at + " x.wild.test", true},
		{"tls " + at + " evil.test", false},
		{"tls " + at + " ALLOWED.test", true},
		{"tls " + at + " wild.test", false},
		{"tls-split " + at + " evil.test", false},
		{"tls-records " + at + " evil.test", false},
		{"tls-mptcp " + at + " evil.test", false},
		{"tls-mptcp " + at + " allowed.test", true},
		{"bytes " + at, true},
		{"tls-long " + at + " allowed.test", true},
		{"tls-long " + at + " evil.test", false},
		{"tls " + freeAt + ":443 evil.test", true}, // allowed by its address: any name
		{"tls " + at + " " + strings.Repeat("a.", 100) + "wild.test", true},
	} {
		got := job.do(c.act)
		if c.pass != (got == "ok") {
			t.Errorf("%s: %s", c.act, got)
		}
	}
	events := w.end()
	if len(find(events, trace.Event{Type: trace.TLSHello, Hostname: "evil.test", Address: allowedAt, Verdict: trace.VerdictDenied})) == 0 {
		t.Error("no event of the greeting that was denied")
	}
	if len(find(events, trace.Event{Type: trace.TLSHello, Hostname: "allowed.test", Verdict: trace.VerdictAllowed})) == 0 {
		t.Error("no event of the greeting that was allowed")
	}
}

// A connection whose greeting is refused ends at once where the recorder can reach it.
func TestEgressCuts(t *testing.T) {
	const variable = "MUSTER_TEST_OWN_NETWORK"
	if os.Getenv(variable) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestEgressCuts$", "-test.v")
		cmd.Env = append(os.Environ(), variable+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	l := makeLab(t, true)
	r := openRecorder(t, l)
	job := l.start()
	w := watch(t, r, job, policyOf(trace.EgressEnforce))
	for _, c := range []struct{ act, want string }{
		{"fetch " + resolverAt + " allowed.test:443", "ok " + allowedAt},
		{"fetch " + resolverAt + " AAAA/allowed.test:443", "ok " + allowed6},
		{"tls " + allowedAt + ":443 allowed.test", "ok"},
		{"tls " + allowedAt + ":443 evil.test", "cut"},
		{"tls [" + allowed6 + "]:443 evil.test", "cut"},
	} {
		if got := job.do(c.act); got != c.want {
			t.Errorf("%s: %s, want %s", c.act, got, c.want)
		}
	}
	w.end()
}

// Who connects to the job is answered: a policy is about what goes out.
func TestEgressAnswersWhoComesIn(t *testing.T) {
	l := newLab(t)
	r := openRecorder(t, l)
	job, outside := l.start(), l.start()
	w := watch(t, r, job, policyOf(trace.EgressEnforce))
	if got := job.do("serve", "192.0.2.2:7000"); got != "ok" {
		t.Fatal(got)
	}
	if got := outside.do("bytes", "192.0.2.2:7000"); got != "ok" {
		t.Errorf("a client of the job: %s", got)
	}
	w.end()
}

func TestEgressWhereverItGoes(t *testing.T) {
	l := newLab(t)
	r := openRecorder(t, l)
	job := l.start()
	w := watch(t, r, job, policyOf(trace.EgressEnforce))
	child := w.scope.cgroup + "/child"
	if err := mkdir(child); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{child, r.mount} {
		if got := job.do("cgroup", dir); got != "ok" {
			t.Fatalf("move to %s: %s", dir, got)
		}
		for _, act := range []string{"tcp", "udp", "raw"} {
			if got := job.do(act, deniedAt+":443"); got != refused {
				t.Errorf("%s from %s: %s", act, dir, got)
			}
		}
		if got := job.do("tcp", freeAt+":443"); got != "ok" {
			t.Errorf("what is allowed from %s: %s", dir, got)
		}
		if got := job.do("orphan", "tcp", deniedAt+":443"); got != refused {
			t.Errorf("an orphan from %s: %s", dir, got)
		}
	}
	events := w.end()
	if len(find(events, trace.Event{Type: trace.CgroupMove})) == 0 {
		t.Error("nothing tells that it left its cgroup")
	}
}

// What is not a wall, so that nobody believes it to be one: docs/egress.md says so.
func TestEgressIsNoWall(t *testing.T) {
	l := newLab(t)
	r := openRecorder(t, l)
	connected, fresh := l.sockets(deniedAt + ":443")
	job := l.start(connected, fresh)
	w := watch(t, r, job, policyOf(trace.EgressEnforce))
	if got := job.do("inherited", "connected"); got != "ok" {
		t.Errorf("a connection that was made before the job: %s", got)
	}
	if got := job.do("inherited", deniedAt+":443"); got != refused {
		t.Errorf("a socket that was made before the job: %s", got)
	}
	if got := job.do("packet", deniedAt+":443"); got != "ok" {
		t.Errorf("a frame of its own: %s", got)
	}
	events := w.end()
	if len(find(events, trace.Event{Type: trace.RawSocket, Method: "packet"})) == 0 {
		t.Error("no event of the packet socket")
	}
}

// Who answers in the resolver's place teaches nothing.
func TestEgressBelievesOnlyResolvers(t *testing.T) {
	l := newLab(t)
	r := openRecorder(t, l)
	job := l.start()
	w := watch(t, r, job, policyOf(trace.EgressEnforce))
	got := job.do("serve53", resolverAt, "allowed.test")
	if strings.HasPrefix(got, "ok") {
		t.Errorf("an answer of the job's own: %s", got)
	}
	if got := job.do("tcp", deniedAt+":443"); got != refused {
		t.Errorf("and what it opens: %s", got)
	}
	w.end()
}

// S0-20: a question that is sent in pieces is told when it was answered.
func TestQuestionsInPieces(t *testing.T) {
	l := newLab(t)
	r := openRecorder(t, l)
	job := l.start()
	w := watch(t, r, job, trace.Egress{})
	if got := job.do("lookup", "tcp-split", resolverAt, "evil.test"); got != "ok "+deniedAt {
		t.Fatal(got)
	}
	events := w.end()
	if told := find(events, trace.Event{Type: trace.DNSQuery, Hostname: "evil.test", Protocol: "tcp"}); len(told) != 1 || !slices.Equal(told[0].Addresses, []string{deniedAt}) {
		t.Errorf("told %+v", told)
	}
}

// Thousands of connections are told of in as few events as say the same.
func TestConnectionsAreTold(t *testing.T) {
	l := newLab(t)
	r := openRecorder(t, l)
	job := l.start()
	w := watch(t, r, job, trace.Egress{})
	const n = 2000
	if got := job.do("storm", freeAt+":443", fmt.Sprint(n)); !strings.HasPrefix(got, "ok") {
		t.Fatal(got)
	}
	events := w.end()
	var sum int64
	told := find(events, trace.Event{Type: trace.NetConnect, Address: freeAt, Port: 443, Protocol: "tcp"})
	for _, e := range told {
		sum += max(1, e.Count)
	}
	if sum != n || len(told) > 30 {
		t.Errorf("%d connections were told in %d events of %d", n, len(told), sum)
	}
}

package trace_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

func connect(at int, host, addr string, port int) trace.Event {
	return trace.Event{
		Type: trace.NetConnect, Timestamp: time.Unix(int64(at), 0).UTC(), Hostname: host,
		Address: addr, Port: port, Protocol: "tcp", Verdict: trace.VerdictWouldDeny,
	}
}

func TestLearn(t *testing.T) {
	have, err := trace.Egress{Allow: []string{"known.example", "192.0.2.0/24"}}.Rules()
	if err != nil {
		t.Fatal(err)
	}
	var l trace.EgressLearner
	for i, e := range []trace.Event{
		connect(9, "proxy.golang.org", "203.0.113.1", 443),
		connect(3, "Proxy.golang.org.", "203.0.113.2", 443),
		connect(5, "known.example", "203.0.113.3", 443),
		connect(5, "", "192.0.2.9", 22),
		connect(5, "", "203.0.113.9", 22),
		connect(5, "", "::ffff:203.0.113.9", 22),
		connect(5, "", "127.0.0.1", 3000),
		connect(5, "rebind.example", "169.254.169.254", 80),
		connect(5, "one.cdn.example", "203.0.113.4", 443),
		connect(5, "two.cdn.example", "203.0.113.4", 443),
		connect(5, "three.cdn.example", "203.0.113.4", 443),
		connect(5, "four.cdn.example", "203.0.113.4", 443),
		connect(5, "five.cdn.example", "203.0.113.4", 80),
		connect(5, "acc1.blob.core.windows.net", "203.0.113.5", 443),
		connect(5, "acc2.blob.core.windows.net", "203.0.113.5", 443),
		connect(5, "acc3.blob.core.windows.net", "203.0.113.5", 443),
		connect(5, "acc4.blob.core.windows.net", "203.0.113.5", 443),
		{Type: trace.DNSQuery, Hostname: "only.looked.up.example"},
		{Type: trace.NetConnect, Address: "not an address"},
	} {
		if i == 1 {
			e.Count = 4
		}
		l.Add(e)
	}
	var got []string
	for _, p := range l.Propose(have) {
		got = append(got, fmt.Sprintf("%s %d %d-%d %v %t", p.Entry, p.Count, p.First.Unix(), p.Last.Unix(), p.Hosts, p.Warning != ""))
	}
	want := []string{
		"*.cdn.example:443 4 5-5 [four.cdn.example one.cdn.example three.cdn.example two.cdn.example] false",
		"169.254.169.254:80 1 5-5 [] true",
		"203.0.113.9:22 2 5-5 [] true",
		"acc1.blob.core.windows.net:443 1 5-5 [] false",
		"acc2.blob.core.windows.net:443 1 5-5 [] false",
		"acc3.blob.core.windows.net:443 1 5-5 [] false",
		"acc4.blob.core.windows.net:443 1 5-5 [] false",
		"five.cdn.example:80 1 5-5 [] false",
		"proxy.golang.org:443 5 3-9 [] false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("proposed:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// What is proposed allows all that was seen, and no name of a domain that has many owners.
func FuzzProposalAllowsWhatWasSeen(f *testing.F) {
	f.Add("a.x.example b.x.example c.x.example d.x.example", "203.0.113.1", 443)
	f.Add("a.github.io b.github.io c.github.io d.github.io", "169.254.169.254", 80)
	f.Add("", "2001:db8::1", 1)
	f.Fuzz(func(t *testing.T, hosts, addr string, port int) {
		a, err := netip.ParseAddr(addr)
		if err != nil || a.Zone() != "" || port < 1 || port > 65535 {
			return
		}
		var l trace.EgressLearner
		var seen []trace.Event
		for _, h := range append(strings.Fields(hosts), "") {
			if d, err := trace.ParseDestination(h); h != "" && (err != nil || d.Name == "" || d.Below) {
				continue
			}
			seen = append(seen, connect(1, h, addr, port))
			l.Add(seen[len(seen)-1])
		}
		var policy trace.Egress
		for _, p := range l.Propose(nil) {
			policy.Allow = append(policy.Allow, p.Entry)
			if d, _ := trace.ParseDestination(p.Entry); d.Below && slices.Contains([]string{"com", "github.io", "co.uk"}, d.Name) {
				t.Errorf("%q: proposed %q", hosts, p.Entry)
			}
		}
		r, err := policy.Rules()
		if err != nil {
			t.Fatalf("%q: %v", policy.Allow, err)
		}
		for _, e := range seen {
			if !r.Allows(e.Hostname, a, port) {
				t.Errorf("%q does not allow %q at %s port %d", policy.Allow, e.Hostname, addr, port)
			}
		}
	})
}

// Of what GitHub names, nothing is left that would stop every job or that anybody can rent.
func TestReachable(t *testing.T) {
	got := trace.Reachable([]string{
		"192.30.252.0/22", "2606:50c0::/32", "*.pkg.github.com", "ghcr.io", "GHCR.io.", "*.blob.core.windows.net", "productionresultssa0.blob.core.windows.net", "not a name", "192.0.2.7/24", "",
	})
	if !slices.IsSorted(got) || len(got) != len(slices.Compact(slices.Clone(got))) {
		t.Errorf("not in order, or twice: %q", got)
	}
	r, err := trace.Egress{GitHub: got}.Rules()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"ghcr.io": true, "npm.pkg.github.com": true, "productionresultssa0.blob.core.windows.net": true, "evil.blob.core.windows.net": false,
	} {
		if r.AllowsName(name) != want {
			t.Errorf("%s: allowed %v", name, !want)
		}
	}
	for addr, want := range map[string]bool{"192.30.252.1": true, "2606:50c0::1": true, "4.148.1.1": false} {
		if r.AllowsAddress(netip.MustParseAddr(addr), 443) != want {
			t.Errorf("%s: allowed %v", addr, !want)
		}
	}
}

package muster_test

import (
	"strings"
	"testing"

	"github.com/muster-ci/muster"
)

func TestEgress(t *testing.T) {
	p := muster.Pool{Name: "a", Scope: muster.Scope{Kind: muster.ScopeOrganization, Owner: "octo"}, Labels: muster.Labels{"a"}, Provider: "process"}.WithDefaults()
	for _, text := range []string{"proxy.golang.org", "*.example.com", "*.example.com:443", "localhost", "192.0.2.7", "192.0.2.0/24", "192.0.2.0/24:8080", "2001:db8::/32", "2001:db8::1",
		"[2001:db8::1]:443", "[2001:db8::/32]:443", "_dmarc.example.com", "EXAMPLE.com"} {
		p.Egress = muster.Egress{Mode: "enforce", Allow: []string{text}}
		if err := p.Validate(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{"", "*", "a.*.com", "https://example.com", "example.com/path", "example.com:0", "example.com:70000", "example.com:", "192.0.2", "192.0.2.0/33",
		"192.0.2.7/24", "192.0.2.7/24:443", "[2001:db8::1/32]:443", "fe80::1%eth0", "[192.0.2.7]:443", "::ffff:0.0.0.0/90",
		"[2001:db8::1]", "[example.com]:443", "-x.com", "a b", "*.*.com", strings.Repeat("a.", 130) + "com"} {
		p.Egress = muster.Egress{Mode: "audit", Allow: []string{text}}
		if p.Validate() == nil {
			t.Errorf("%q is allowed", text)
		}
	}
	for _, e := range []muster.Egress{{Mode: "warn"}, {Allow: []string{"a.com"}}, {NoGitHub: true}, {Mode: "audit", Allow: make([]string, 1001)}} {
		p.Egress = e
		if p.Validate() == nil {
			t.Errorf("%+v is allowed", e)
		}
	}
	p.Egress, p.Trace = muster.Egress{}, muster.PoolTrace{MaxEvents: -2}
	if p.Validate() == nil {
		t.Error("a bound of -2 is allowed")
	}
	for _, c := range []struct{ set, want int64 }{{0, muster.DefaultTraceEvents}, {7, 7}, {-1, 0}} {
		if got, _ := (muster.PoolTrace{MaxEvents: c.set}).Bounds(); got != c.want {
			t.Errorf("%d is bounded by %d, want %d", c.set, got, c.want)
		}
	}
}

package trace_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/muster-ci/muster/internal/trace"
)

func TestParseDestination(t *testing.T) {
	for text, want := range map[string]string{
		"proxy.golang.org":         "proxy.golang.org",
		"Proxy.GoLang.Org.":        "proxy.golang.org",
		" proxy.golang.org:443 ":   "proxy.golang.org:443",
		"*.example.com":            "*.example.com",
		"*.example.com:8443":       "*.example.com:8443",
		"bücher.example":           "xn--bcher-kva.example",
		"faß.de":                   "xn--fa-hia.de",
		"_acme.example.com":        "_acme.example.com",
		"r3---sn-x.example.com":    "r3---sn-x.example.com",
		"artifacts":                "artifacts",
		"192.0.2.7":                "192.0.2.7",
		"192.0.2.7:22":             "192.0.2.7:22",
		"192.0.2.0/24":             "192.0.2.0/24",
		"192.0.2.0/24:443":         "192.0.2.0/24:443",
		"192.0.2.7/32":             "192.0.2.7",
		"2001:db8::/32":            "2001:db8::/32",
		"[2001:db8::/32]:443":      "[2001:db8::/32]:443",
		"2001:DB8::1":              "2001:db8::1",
		"[2001:db8::1]":            "2001:db8::1",
		"[2001:db8::1]:443":        "[2001:db8::1]:443",
		"::ffff:192.0.2.7":         "192.0.2.7",
		"[::ffff:192.0.2.7]:443":   "192.0.2.7:443",
		"::ffff:192.0.2.0/120":     "192.0.2.0/24",
		"0.0.0.0/0":                "0.0.0.0/0",
		"3com.example":             "3com.example",
		"*.xn--bcher-kva.example.": "*.xn--bcher-kva.example",
	} {
		d, err := trace.ParseDestination(text)
		if err != nil || d.String() != want {
			t.Errorf("%q: %q, %v; want %q", text, d, err, want)
		}
		if again, err := trace.ParseDestination(d.String()); err != nil || again != d {
			t.Errorf("%q: its own writing %q is %+v, %v", text, d, again, err)
		}
	}
}

func TestParseDestinationRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "is empty",
		"  ":                      "is empty",
		"*":                       "allows everything",
		"*:443":                   "allows everything",
		"https://example.com":     "is a URL",
		"example.com/path":        "has a path",
		"a.example, b.example":    "more than one entry",
		"a.*.example.com":         "write *.DOMAIN",
		"*example.com":            "write *.DOMAIN",
		"*.":                      "has no name",
		"example.com:0":           "between 1 and 65535",
		"example.com:65536":       "between 1 and 65535",
		"example.com:https":       "between 1 and 65535",
		"example.com:80-443":      "an entry for each",
		"example.com:":            "between 1 and 65535",
		"192.0.2.0/33":            "is not a network",
		"192.0.2.0/x":             "is not a network",
		"192.0.2.7/24":            "write 192.0.2.0/24 for the network or 192.0.2.7",
		"2001:db8::/129":          "is not a network",
		"192.0.2.256":             "four numbers",
		"192.0.2":                 "four numbers",
		"[2001:db8::1":            "without a ]",
		"[2001:db8::1]443":        "other than a port",
		"[2001:db8::]/32":         "within the brackets",
		"[example.com]:443":       "not an IPv6 address",
		"fe80::1%eth0":            "has a zone",
		"::ffff:0.0.0.0/90":       "beyond IPv4",
		"exam ple.com":            "more than one entry",
		"example..com":            "labels",
		".example.com":            "labels",
		"exa$mple.com":            "labels",
		strings.Repeat("a", 64):   "name of a host",
		strings.Repeat("a.", 130): "longer than 250",
	} {
		if d, err := trace.ParseDestination(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want an error with %q", text, d, err, want)
		}
	}
}

func TestValidateTellsEverything(t *testing.T) {
	err := trace.Egress{Mode: "strict", Allow: []string{"*", "ok.example", "192.0.2.1/24"}}.Validate()
	for _, want := range []string{`no mode "strict"`, `"*" allows everything`, `"192.0.2.1/24" has bits`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q in it", err, want)
		}
	}
	if err := (trace.Egress{}).Validate(); err != nil {
		t.Error(err)
	}
	var many []string
	for p := range 9 {
		many = append(many, "a.example:"+string(rune('1'+p)))
	}
	if err := (trace.Egress{Allow: many}).Validate(); err == nil || !strings.Contains(err.Error(), "more than 8 ports") {
		t.Error(err)
	}
}

func TestRules(t *testing.T) {
	r, err := trace.Egress{
		Allow: []string{
			"a.example", "b.example:443", "*.wide.example", "x.wide.example:22", "*.deep.wide.example:80",
			"192.0.2.0/24", "192.0.2.128/25:443", "198.51.100.0/24:443", "2001:db8::/32", "0.0.0.0/0:853",
			"169.254.169.254:8080",
		},
		GitHub: []string{"github.test"},
	}.Rules("plane.example:8443")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, addr string
		port       int
		want       bool
	}{
		{"a.example", "203.0.113.1", 80, true},
		{"A.Example.", "203.0.113.1", 80, true},
		{"x.a.example", "203.0.113.1", 80, false},
		{"b.example", "203.0.113.1", 443, true},
		{"b.example", "203.0.113.1", 80, false},
		{"wide.example", "203.0.113.1", 80, false},
		{"y.wide.example", "203.0.113.1", 80, true},
		{"z.y.wide.example", "203.0.113.1", 1, true},
		{"x.wide.example", "203.0.113.1", 80, true}, // narrower entries do not take away
		{"q.deep.wide.example", "203.0.113.1", 443, true},
		{"notwide.example", "203.0.113.1", 80, false},
		{"github.test", "203.0.113.1", 22, true},
		{"plane.example", "203.0.113.1", 8443, true},
		{"plane.example", "203.0.113.1", 443, false},
		{"", "203.0.113.1", 80, false},
		{"", "203.0.113.1", 853, true},
		{"", "192.0.2.200", 80, true},
		{"", "198.51.100.1", 443, true},
		{"", "198.51.100.1", 80, false},
		{"", "::ffff:192.0.2.9", 80, true},
		{"", "2001:db8::77", 1, true},
		{"", "2001:db9::77", 1, false},
		{"", "127.8.8.8", 9, true},
		{"", "::1", 9, true},
		{"", "0.0.0.0", 9, true},
		{"", "169.254.169.254", 80, false},
		{"", "169.254.169.254", 853, false}, // 0.0.0.0/0 is not meant for it
		{"", "169.254.169.254", 8080, true},
		{"a.example", "169.254.169.254", 80, false}, // rebinding
		{"a.example", "::ffff:169.254.169.254", 80, false},
		{"a.example", "fd00:ec2::254", 80, false},
	} {
		if got := r.Allows(c.name, netip.MustParseAddr(c.addr), c.port); got != c.want {
			t.Errorf("%q at %s port %d: %v", c.name, c.addr, c.port, got)
		}
	}
	for name, want := range map[string]bool{
		"b.example": true, "c.example": false, "wide.example": false, "t.wide.example": true,
		"data-41.tunnel.example": false, "": false, ".": false, "example": false,
	} {
		if r.AllowsName(name) != want {
			t.Errorf("look up %q: %v", name, !want)
		}
	}
	if r, err := (trace.Egress{NoGitHub: true, GitHub: []string{"github.test"}}).Rules(); err != nil || r.AllowsName("github.test") {
		t.Error("GitHub is allowed without being so", err)
	}
}

// specific is what the kernel does: it takes the one rule that matches the most of a name.
func specific(rules []trace.NameRule, name string) ([]uint16, bool) {
	best := -1
	for i, r := range rules {
		if r.Below && strings.HasSuffix(name, "."+r.Name) || !r.Below && name == r.Name {
			if best < 0 || len(r.Name) >= len(rules[best].Name) {
				best = i
			}
		}
	}
	if best < 0 {
		return nil, false
	}
	return rules[best].Ports, true
}

// The tables of the kernel decide by the most specific rule alone: it must hold what those
// above it allow.
func FuzzMostSpecificRuleDecides(f *testing.F) {
	f.Add("*.a.b:1 a.b:2 *.b x.a.b:3", "x.a.b", uint16(2))
	f.Add("*.a.b:1 x.a.b *.b:2 c.b:9", "x.y.a.b", uint16(2))
	f.Fuzz(func(t *testing.T, entries, name string, port uint16) {
		r, err := trace.Egress{Allow: strings.Fields(entries)}.Rules()
		d, bad := trace.ParseDestination(name)
		if err != nil || bad != nil || d.Name == "" || d.Below || port == 0 {
			return
		}
		want := r.Allows(d.Name, netip.MustParseAddr("203.0.113.1"), int(port))
		if r.AllowsAddress(netip.MustParseAddr("203.0.113.1"), int(port)) {
			return
		}
		ports, found := specific(r.Names(), d.Name)
		if got := found && (ports == nil || slices.Contains(ports, port)); got != want {
			t.Errorf("%q: %s:%d by the most specific rule %v, by all %v; rules %v", entries, d.Name, port, got, want, r.Names())
		}
		if found != r.AllowsName(d.Name) {
			t.Errorf("%q: look-up of %s", entries, d.Name)
		}
	})
}

func FuzzParseDestination(f *testing.F) {
	for _, s := range []string{"a.example:443", "*.b.example", "[2001:db8::1]:22", "192.0.2.0/24", "::ffff:1.2.3.4/100", "*.*.x", "Ⓐ.example", "xn--a.b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := trace.ParseDestination(text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "egress: ") {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if again, err := trace.ParseDestination(d.String()); err != nil || again != d {
			t.Errorf("%q: %+v is written %q and read as %+v, %v", text, d, d.String(), again, err)
		}
		if (d.Name == "") != d.Network.IsValid() || d.Network.IsValid() && (d.Network != d.Network.Masked() || d.Network.Addr().Is4In6()) {
			t.Errorf("%q: %+v", text, d)
		}
	})
}

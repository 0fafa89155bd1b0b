package muster

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// PoolTrace bounds the record of a pool's jobs. The zero value records them within the
// default bounds.
type PoolTrace struct {
	// Off records nothing.
	Off bool `json:"off,omitempty"`
	// MaxEvents and MaxBytes (of text before compression) end the recording of a job's
	// ordinary events; what a bound leaves out is counted. 0 means the default, and less
	// than 0 none.
	MaxEvents int64 `json:"max_events,omitempty"`
	MaxBytes  int64 `json:"max_bytes,omitempty"`
}

// The bounds of a trace whose pool has none of its own.
const (
	DefaultTraceEvents = 5_000_000
	DefaultTraceBytes  = 2 << 30
)

// Bounds are the bounds that hold, 0 for none.
func (t PoolTrace) Bounds() (events, bytes int64) {
	return max(0, first(t.MaxEvents, DefaultTraceEvents)), max(0, first(t.MaxBytes, DefaultTraceBytes))
}

func (t PoolTrace) validate(bad func(format string, args ...any)) {
	if t.MaxEvents < -1 || t.MaxBytes < -1 {
		bad("trace max_events and max_bytes are positive, 0 for the default, or -1 for no bound")
	}
}

// Egress is what the jobs of a pool may reach. The zero value is no policy.
type Egress struct {
	// Mode is "" or "audit", "learn" or "enforce", each stricter than the one before.
	Mode string `json:"mode,omitempty"`
	// Allow are hosts, wildcards such as *.example.com, addresses and networks, each with
	// :PORT behind it if it is for one port only.
	Allow []string `json:"allow,omitempty"`
	// NoGitHub leaves out what GitHub's own services need, which is allowed otherwise.
	NoGitHub bool `json:"no_github,omitempty"`
}

// maxEgress bounds an allow list: the kernel looks at each entry.
const maxEgress = 1000

func (e Egress) validate(bad func(format string, args ...any)) {
	switch e.Mode {
	case "", "audit", "learn", "enforce":
	default:
		bad("egress mode %q is unknown: use audit, learn or enforce, or leave it out", e.Mode)
	}
	if e.Mode == "" && (len(e.Allow) > 0 || e.NoGitHub) {
		bad("egress has an allow list and no mode: set mode to audit, learn or enforce")
	}
	if len(e.Allow) > maxEgress {
		bad("egress allows %d destinations; more than %d are not looked at: use wildcards and networks", len(e.Allow), maxEgress)
	}
	for _, a := range e.Allow {
		if !validDestination(a) {
			bad("egress: %q is no host, *.host, address or network without bits beyond its length, with :PORT if it is for one port ([2001:db8::1]:443)", a)
		}
	}
}

var hostName = regexp.MustCompile(`\A(\*\.)?([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.)*[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\z`)

// validDestination reports whether text can be an entry of an allow list.
func validDestination(text string) bool {
	if p, err := netip.ParsePrefix(text); err == nil {
		return validNetwork(p)
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Zone() == ""
	}
	host := text
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		port, err := strconv.ParseUint(text[i+1:], 10, 16)
		if err != nil || port == 0 {
			return false
		}
		host = text[:i]
		if in, ok := strings.CutPrefix(host, "["); ok {
			in, ok = strings.CutSuffix(in, "]")
			a, addr := netip.ParseAddr(in)
			p, network := netip.ParsePrefix(in)
			return ok && strings.Contains(in, ":") && (addr == nil && a.Zone() == "" || network == nil && validNetwork(p))
		}
		if p, err := netip.ParsePrefix(host); err == nil {
			return p.Addr().Is4() && validNetwork(p)
		}
		if a, err := netip.ParseAddr(host); err == nil {
			return a.Is4()
		}
	}
	return len(host) <= 250 && hostName.MatchString(host) && strings.Trim(host, "0123456789.") != ""
}

// validNetwork reports whether a network has no bits beyond its length, and is all IPv4 or
// all IPv6: anything else was meant otherwise than it reads.
func validNetwork(p netip.Prefix) bool {
	return p == p.Masked() && (!p.Addr().Is4In6() || p.Bits() >= 96)
}

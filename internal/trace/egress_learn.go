package trace

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"
)

// EgressLearner gathers what jobs reached, to propose an allow list. The zero value is
// ready. It is not safe for concurrent use. It holds at most maxLearned destinations.
type EgressLearner struct {
	seen map[learnt]*EgressProposal
	// Full says that there were more destinations than it holds.
	Full bool
}

const maxLearned = 65536

type learnt struct {
	name string
	addr netip.Addr // zero if there is a name
	port int
}

// EgressProposal is one entry that would allow what was seen.
type EgressProposal struct {
	// Entry is as in Egress.Allow.
	Entry string `json:"entry"`
	// Count is how many connections it would allow, First and Last the first and last of them.
	Count int64     `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Hosts are the names that a wildcard stands for, at most 20, nil otherwise.
	Hosts []string `json:"hosts,omitempty"`
	// Warning says why it should be looked at twice, "" if nothing speaks against it.
	Warning string `json:"warning,omitempty"`
}

// Add takes a NetConnect; it ignores all other events, and loopback and look-ups of names,
// which are always allowed.
func (l *EgressLearner) Add(e Event) {
	if e.Type != NetConnect {
		return
	}
	a, err := netip.ParseAddr(e.Address)
	if err != nil || a.Unmap().IsLoopback() || a.IsUnspecified() || e.Port == 53 && e.Verdict == VerdictAllowed {
		return
	}
	k := learnt{CleanName(e.Hostname), a.Unmap().WithZone(""), e.Port}
	if d, err := ParseDestination(k.name); err != nil || d.Name != k.name || d.Below {
		k.name = "" // bytes that no entry can name
	}
	if k.name != "" && !IsMetadata(k.addr) {
		k.addr = netip.Addr{}
	}
	p := l.seen[k]
	if p == nil {
		if len(l.seen) >= maxLearned {
			l.Full = true
			return
		}
		if l.seen == nil {
			l.seen = map[learnt]*EgressProposal{}
		}
		p = &EgressProposal{First: e.Timestamp, Last: e.Timestamp}
		l.seen[k] = p
	}
	p.merge(EgressProposal{Count: max(1, e.Count), First: e.Timestamp, Last: e.Timestamp})
}

func (p *EgressProposal) merge(q EgressProposal) {
	p.Count += q.Count
	if q.First.Before(p.First) {
		p.First = q.First
	}
	if q.Last.After(p.Last) {
		p.Last = q.Last
	}
}

// Propose returns the entries that have to be added to a policy so that it allows all that
// was added, in order. have may be nil.
func (l *EgressLearner) Propose(have *EgressRules) []EgressProposal {
	byPort := map[int]map[string]EgressProposal{}
	var out []EgressProposal
	for k, p := range l.seen {
		if have != nil && (k.name != "" && !k.addr.IsValid() && have.allowsPort(k.name, k.port) || k.addr.IsValid() && have.AllowsAddress(k.addr, k.port)) {
			continue
		}
		if k.name == "" || k.addr.IsValid() {
			out = append(out, proposeAddress(k, *p))
			continue
		}
		if byPort[k.port] == nil {
			byPort[k.port] = map[string]EgressProposal{}
		}
		byPort[k.port][k.name] = *p
	}
	for port, names := range byPort {
		out = append(out, proposeNames(names, port)...)
	}
	slices.SortFunc(out, func(a, b EgressProposal) int { return cmp.Compare(a.Entry, b.Entry) })
	return out
}

func (r *EgressRules) allowsPort(name string, port int) bool {
	p, found := r.namePorts(name)
	return found && p.allow(port)
}

func proposeAddress(k learnt, p EgressProposal) EgressProposal {
	d := Destination{Network: netip.PrefixFrom(k.addr, k.addr.BitLen()), Port: uint16(k.port)}
	p.Entry = d.String()
	switch {
	case IsMetadata(k.addr):
		p.Warning = "the machine's metadata service, which hands out credentials"
	case k.addr.IsMulticast():
		p.Warning = "multicast"
	case k.port == 53:
		p.Warning = "a resolver of names; the machine's own are allowed without an entry"
	default:
		p.Warning = "reached by its address, without a look-up of a name"
	}
	return p
}

// A wildcard is proposed for at least this many names below the same one.
const enoughForWildcard = 4

// proposeNames collapses the names that were reached at one port into wildcards where that
// is safe: where one owner holds all that is below, which the public suffix list tells.
func proposeNames(names map[string]EgressProposal, port int) []EgressProposal {
	children := map[string][]string{}
	for name := range names {
		if _, parent, ok := strings.Cut(name, "."); ok && !shared(parent) {
			children[parent] = append(children[parent], name)
		}
	}
	var out []EgressProposal
	for parent, below := range children {
		if len(below) < enoughForWildcard {
			continue
		}
		slices.Sort(below)
		p := names[below[0]]
		for _, name := range below[1:] {
			p.merge(names[name])
		}
		for _, name := range below {
			delete(names, name)
		}
		p.Entry = Destination{Name: parent, Below: true, Port: uint16(port)}.String()
		p.Hosts = below[:min(len(below), 20)]
		out = append(out, p)
	}
	for name, p := range names {
		p.Entry = Destination{Name: name, Port: uint16(port)}.String()
		out = append(out, p)
	}
	return out
}

// shared reports whether names right below a domain may belong to different owners: it is a
// public suffix (com, co.uk), or is known to be let out (blob.core.windows.net, github.io).
func shared(domain string) bool {
	suffix, _ := publicsuffix.PublicSuffix(domain)
	return suffix == domain
}

package inspect

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/view"
)

// Allowlist is what a pool's egress policy is, what it refuses, and what it would have to
// allow for the jobs that ran.
type Allowlist struct {
	Policy trace.Egress
	// Proposed would allow what was reached and the policy does not, the most jobs first;
	// Present are the policy's own entries.
	Proposed, Present []Entry
	// Refused is what the policy refused or would have, the latest first, at most maxRefused.
	Refused []Refused
	// Traces is how many traces that is taken from, of jobs that began since Since.
	Traces int
	Since  time.Time
	// Stable is how many of the latest traces in a row brought nothing that was not known.
	Stable int
	// Full: there were more destinations than are learnt. Notes say that and what else the
	// list cannot know, in sentences.
	Full  bool
	Notes []string
}

// Entry is one line of an allow list and what it allows.
type Entry struct {
	trace.EgressProposal
	// Jobs is how many traces reached it; Programs are some of those that did.
	Jobs     int
	Programs []string
}

// Refused is one destination that a policy refused, or, if not Denied, would have.
type Refused struct {
	Host     string
	Port     int
	Protocol string
	Denied   bool
	// Jobs is how many traces tried, Count how often, Last and Trace are of the last that did.
	Jobs  int
	Count int64
	Last  time.Time
	Trace muster.Trace
}

const (
	// maxEgressTraces is how many traces a proposal is made of, the newest.
	maxEgressTraces = 300
	maxRefused      = 200
	maxPrograms     = 4
)

// destination is what was connected to.
type destination struct {
	host    string // "" if only the address is known
	address netip.Addr
	port    int
}

// reach is who connected to a destination.
type reach struct {
	traces      []int // by their place in order, ascending
	count       int64
	first, last time.Time
	programs    []string
}

// Allowlist looks at what the jobs of a pool reached since a time. CodeNotFound for an
// unknown pool.
func (i *Inspector) Allowlist(ctx context.Context, ws, pool string, since time.Time) (Allowlist, error) {
	out := Allowlist{Since: since}
	var err error
	if out.Policy, err = i.Books.Egress(ctx, ws, pool); err != nil {
		return out, err
	}
	have, err := out.Policy.Rules()
	if err != nil {
		return out, &muster.Error{Code: muster.CodeInvalid, Message: fmt.Sprintf("the egress policy of pool %s cannot be read: %s", pool, err), Err: err}
	}
	all, err := i.Books.Traces(ctx, ws, TraceFilter{Pool: pool, States: []muster.TraceState{muster.TraceComplete, muster.TraceTruncated}, Since: since, Limit: maxEgressTraces + 1})
	if err != nil {
		return out, err
	}
	if len(all) > maxEgressTraces {
		all = all[:maxEgressTraces]
		out.Notes = append(out.Notes, fmt.Sprintf("Only the newest %d jobs were looked at.", maxEgressTraces))
	}
	slices.Reverse(all) // the first first, to see what was new when
	traces, networks, err := i.networks(ctx, ws, all)
	if err != nil {
		return out, err
	}
	if n := len(all) - len(traces); n > 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("Not looked at: %d of the jobs, whose events were deleted or are not analysed.", n))
	}
	l := learning{reached: map[destination]*reach{}, asked: map[string]*reach{}, refused: map[refusedKey]*Refused{}, suspect: map[int]bool{}}
	blind, why := 0, ""
	for n, t := range traces {
		if missing, ok := networks[n].Overview.Missing[string(trace.NetConnect)]; ok {
			blind, why = blind+1, missing // nothing follows from what it does not have
			continue
		}
		l.add(n, t, networks[n])
	}
	if blind > 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("Not looked at: %d of the jobs, whose connections were not recorded, because: %s.", blind, why))
	}
	out.Traces = len(traces) - blind
	out.Refused, out.Stable = l.refusals(), l.stable
	out.Proposed, out.Full = l.propose(have)
	out.Present = l.present(out.Policy)
	out.Notes = append(out.Notes, l.notes(out)...)
	return out, nil
}

// networks are what traces say of the network, of those that have views.
func (i *Inspector) networks(ctx context.Context, ws string, all []muster.Trace) (kept []muster.Trace, out []*view.Views, err error) {
	found := make([]*view.Views, len(all))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(cmp.Or(i.Workers, runtime.GOMAXPROCS(0)))
	for n, t := range all {
		if Readable(t) != nil {
			continue
		}
		group.Go(func() error {
			v, err := i.storedViews(ctx, ws, t)
			if v != nil {
				found[n] = &view.Views{Network: v.Network, Overview: view.Overview{Refusals: v.Overview.Refusals, Missing: v.Overview.Missing}} // not the rest
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	for n, v := range found {
		if v != nil {
			kept, out = append(kept, all[n]), append(out, v)
		}
	}
	return kept, out, nil
}

type refusedKey struct {
	host, protocol string
	port           int
	denied         bool
}

// learning gathers what traces reached, one after the other.
type learning struct {
	learner trace.EgressLearner
	reached map[destination]*reach
	// asked is who looked a name up: without its entry, that is refused too.
	asked   map[string]*reach
	refused map[refusedKey]*Refused
	// stable counts the traces since the last one that brought something new.
	stable int
	// hidden counts connections that views only counted.
	hidden int64
	// suspect are the traces in which the rules found something grave, by their place in order.
	suspect map[int]bool
}

func (l *learning) add(n int, t muster.Trace, v *view.Views) {
	l.stable++
	if t.Findings[muster.SeverityHigh]+t.Findings[muster.SeverityCritical] > 0 {
		l.suspect[n] = true
	}
	l.hidden += v.Network.HiddenConnections
	for _, c := range v.Network.Connections {
		l.connection(n, c)
	}
	for _, q := range v.Network.Queries {
		r := l.asked[q.Hostname]
		if r == nil {
			r = &reach{first: q.First}
			l.asked[q.Hostname] = r
		}
		r.by(n, q.Program)
		r.last = q.First
	}
	for _, r := range v.Overview.Refusals {
		k := refusedKey{cmp.Or(r.Host, r.Address), r.Protocol, r.Port, r.Verdict == trace.VerdictDenied}
		s := l.refused[k]
		if s == nil {
			s = &Refused{Host: k.host, Port: k.port, Protocol: k.protocol, Denied: k.denied}
			l.refused[k] = s
		}
		if s.Trace.ID != t.ID {
			s.Jobs++
		}
		s.Count += r.Count
		s.Last, s.Trace = r.First, t
	}
}

func (l *learning) connection(n int, c view.Connection) {
	if c.Protocol == "unix" || len(c.Addresses) == 0 {
		return
	}
	host := c.Host
	if host == c.Addresses[0] {
		host = ""
	}
	for _, text := range c.Addresses {
		address, err := netip.ParseAddr(text)
		if err != nil || address.Unmap().IsLoopback() || address.IsUnspecified() { // every entry would seem to allow it
			continue
		}
		l.learner.Add(trace.Event{Type: trace.NetConnect, Timestamp: c.First, Hostname: host, Address: text, Port: c.Port, Protocol: c.Protocol, Count: c.Count, Verdict: c.Verdict})
		d := destination{host, address.Unmap(), c.Port}
		if host != "" && !trace.IsMetadata(address) {
			d.address = netip.Addr{} // names move
		}
		r := l.reached[d]
		if r == nil {
			r = &reach{first: c.First}
			l.reached[d] = r
			if c.Port != 53 || c.Verdict != trace.VerdictAllowed { // a resolver, which each machine has its own of
				l.stable = 0
			}
		}
		r.by(n, c.Program)
		r.count += c.Count
		r.last = c.Last
		if host != "" {
			break // one entry allows all of its addresses
		}
	}
}

// by notes a trace and a program that did.
func (r *reach) by(n int, program string) {
	if len(r.traces) == 0 || r.traces[len(r.traces)-1] != n {
		r.traces = append(r.traces, n)
	}
	if len(r.programs) < maxPrograms && !slices.Contains(r.programs, program) {
		r.programs = append(r.programs, program)
	}
}

// propose makes entries of what was reached and is not allowed.
func (l *learning) propose(have *trace.EgressRules) (out []Entry, full bool) {
	for _, p := range l.learner.Propose(have) {
		p.Warning = strings.Join(slices.DeleteFunc([]string{p.Warning, l.suspicion(p.Entry)}, func(s string) bool { return s == "" }), "; ")
		out = append(out, l.entry(p))
	}
	byUse(out)
	return out, l.learner.Full
}

// suspicion is what speaks against an entry: that it would allow a destination of which
// nothing is known but from jobs that the rules found something grave in. A policy is not
// learnt from an attack.
func (l *learning) suspicion(entry string) string {
	rules, err := trace.Egress{Allow: []string{entry}}.Rules()
	if err != nil {
		return ""
	}
	worst := ""
	for d, r := range l.reached {
		if rules.Allows(d.host, d.address, d.port) && !slices.ContainsFunc(r.traces, func(n int) bool { return !l.suspect[n] }) {
			worst = max(worst, cmp.Or(d.host, d.address.String())) // any one, but always the same
		}
	}
	switch {
	case worst == "":
		return ""
	case strings.HasPrefix(entry, "*."):
		return worst + " was reached only by jobs in which the rules found something high or critical"
	}
	return "reached only by jobs in which the rules found something high or critical"
}

// present are the entries of a policy and what they allowed.
func (l *learning) present(p trace.Egress) (out []Entry) {
	for _, text := range p.Allow {
		out = append(out, l.entry(trace.EgressProposal{Entry: text}))
	}
	byUse(out)
	return out
}

func byUse(entries []Entry) {
	slices.SortStableFunc(entries, func(a, b Entry) int { return cmp.Or(cmp.Compare(b.Jobs, a.Jobs), cmp.Compare(a.Entry, b.Entry)) })
}

// entry is an entry with who needed it.
func (l *learning) entry(p trace.EgressProposal) Entry {
	out := Entry{EgressProposal: p}
	rules, err := trace.Egress{Allow: []string{p.Entry}}.Rules()
	if err != nil {
		return out
	}
	jobs := map[int]bool{}
	present := p.Count == 0 // it was not made of this
	use := func(r *reach) {
		for _, n := range r.traces {
			jobs[n] = true
		}
		out.Programs = append(out.Programs, r.programs...)
		if present {
			out.Count += r.count
			if out.First.IsZero() || r.first.Before(out.First) {
				out.First = r.first
			}
		}
		if r.last.After(out.Last) {
			out.Last = r.last
		}
	}
	for d, r := range l.reached {
		if rules.Allows(d.host, d.address, d.port) {
			use(r)
		}
	}
	for name, r := range l.asked {
		if present && rules.AllowsName(name) {
			use(r)
		}
	}
	out.Jobs = len(jobs)
	slices.Sort(out.Programs)
	out.Programs = slices.Compact(out.Programs)
	out.Programs = out.Programs[:min(len(out.Programs), maxPrograms)]
	return out
}

func (l *learning) refusals() []Refused {
	out := make([]Refused, 0, len(l.refused))
	for _, r := range l.refused {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Refused) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port))
	})
	return out[:min(len(out), maxRefused)]
}

// notes say what the list cannot know.
func (l *learning) notes(a Allowlist) (out []string) {
	if a.Full || l.hidden > 0 {
		out = append(out, fmt.Sprintf("There were more destinations than are kept: %d connections are only counted.", l.hidden))
	}
	if a.Traces == 0 {
		return append(out, "No connections of the pool's jobs were recorded in that time.")
	}
	if a.Stable < 5 {
		which := "the last job"
		if a.Stable > 0 {
			which = fmt.Sprintf("one of the last %d jobs", a.Stable+1)
		}
		out = append(out, fmt.Sprintf("The list is young: %s reached something that none before had. Let more run before you enforce it.", which))
	}
	return out
}

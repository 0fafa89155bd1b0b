package view

import (
	"cmp"
	"slices"
	"strings"

	"github.com/muster-ci/muster/internal/trace"
)

// network is Network while it is made.
type network struct {
	hosts       map[string]*Host
	connections map[connKey]*conn
	queries     map[queryKey]*Query
	refused     map[refusalKey]int // index in refusals
	refusals    []Refusal
	// names are what the job has learnt of addresses, the last answer of each.
	names map[string]string
	// below counts the different names of each domain, to tell a machine's inventions.
	below map[string]map[string]struct{}
	// latest is each process's last connection, for the name that TLS tells after it.
	latest map[trace.Process]recent

	hiddenHosts, hiddenConnections, hiddenQueries int64
}

type connKey struct {
	host, by, protocol, program, verdict string
	port, step                           int
}

type conn struct {
	Connection
	key trace.Process
}

type recent struct {
	to      connKey
	address string
}

type queryKey struct {
	hostname, kind, program, verdict string
	step                             int
}

type refusalKey struct {
	verdict, host, protocol, program string
	port, step                       int
}

func newNetwork() network {
	return network{
		hosts: make(map[string]*Host), connections: make(map[connKey]*conn), queries: make(map[queryKey]*Query),
		refused: make(map[refusalKey]int), names: make(map[string]string), below: make(map[string]map[string]struct{}),
		latest: make(map[trace.Process]recent),
	}
}

// network takes an event of the network.
func (b *Builder) network(s *step, p *proc, e *trace.Event) {
	switch e.Type {
	case trace.NetConnect:
		b.connect(s, p, e)
	case trace.DNSQuery:
		b.ask(s, p, e)
	case trace.TLSHello:
		b.hello(s, e)
	case trace.UnixConnect:
		b.connectUnix(s, p, e)
	}
}

func (b *Builder) connect(s *step, p *proc, e *trace.Event) {
	host, by := b.net.named(e)
	host = b.net.fold(host)
	n := times(e)
	b.connected(s, p, e, n)
	s.hosts.add(host)
	b.total.hosts.add(host)
	key := connKey{host: host, by: by, protocol: e.Protocol, program: programOf(p, e), verdict: e.Verdict, port: e.Port, step: s.number}
	h := b.net.host(host, e.Address, e)
	h.connected(e, key, n)
	b.net.connection(key, e, n, h.Category)
	if len(b.net.latest) >= 4*maxConnections {
		clear(b.net.latest) // a name for an old connection is lost, which its DNS answer makes up for
	}
	b.net.latest[e.Process()] = recent{key, e.Address}
	b.refusal(s, e, key.host, key.program, cmp.Or(e.Protocol, "tcp"), n)
}

// connected counts a connection for its process, its step and the job.
func (b *Builder) connected(s *step, p *proc, e *trace.Event, n int64) {
	if p != nil {
		p.Connections += n
	}
	for _, c := range []*Counts{&s.Counts, &b.total.Counts} {
		c.Connections += n
	}
	b.verdict(s, p, e, n)
}

func (b *Builder) verdict(s *step, p *proc, e *trace.Event, n int64) {
	for _, c := range []*Counts{&s.Counts, &b.total.Counts} {
		switch e.Verdict {
		case trace.VerdictDenied:
			c.Refused += n
		case trace.VerdictWouldDeny:
			c.WouldDeny += n
		}
	}
	if p != nil && e.Verdict == trace.VerdictDenied {
		p.Refused += n
	}
}

// named is the host of a connection, and how it is known.
func (w *network) named(e *trace.Event) (host, by string) {
	if e.Hostname != "" {
		return clean(e.Hostname), ByRecorder
	}
	if name, ok := w.names[e.Address]; ok {
		return name, ByDNS
	}
	return cmp.Or(e.Address, "unknown"), ""
}

func clean(host string) string { return strings.TrimSuffix(strings.ToLower(host), ".") }

// fold is the host, or "*.DOMAIN" once very many names below one domain were met: what
// carries data out in names makes a new one for every packet.
func (w *network) fold(host string) string {
	label, domain, ok := strings.Cut(host, ".")
	if !ok || !strings.Contains(domain, ".") || w.hosts[host] != nil || isAddress(host) {
		return host
	}
	names := w.below[domain]
	if names == nil {
		if len(w.below) >= maxHosts/4 {
			return host
		}
		names = make(map[string]struct{})
		w.below[domain] = names
	}
	if _, ok := names[label]; !ok {
		if len(names) >= maxBelow {
			return "*." + domain
		}
		names[label] = struct{}{}
	}
	return host
}

// isAddress tells an address from a name: names do not end with a figure, and have no colons.
func isAddress(host string) bool {
	return strings.Contains(host, ":") || host != "" && isFigure(host[len(host)-1])
}

// host finds or makes a host; beyond the limit it is one that is not listed.
func (w *network) host(name, address string, e *trace.Event) *Host {
	h := w.hosts[name]
	if h != nil {
		return h
	}
	h = &Host{Host: name, First: e.Timestamp}
	known := name
	if isAddress(name) {
		known = ""
	}
	h.Category, h.Service = Classify(known, address)
	if len(w.hosts) >= maxHosts && e.Verdict != trace.VerdictDenied || len(w.hosts) >= 2*maxHosts {
		w.hiddenHosts++
		return h
	}
	w.hosts[name] = h
	return h
}

func first(l []string) string {
	if len(l) == 0 {
		return ""
	}
	return l[0]
}

func (h *Host) connected(e *trace.Event, key connKey, n int64) {
	h.Connections += n
	switch e.Verdict {
	case trace.VerdictDenied:
		h.Refused += n
	case trace.VerdictWouldDeny:
		h.WouldDeny += n
	}
	if e.Address != "" {
		h.Addresses = appendNew(h.Addresses, e.Address, maxAddresses)
	}
	if e.Port > 0 {
		h.Ports = appendNew(h.Ports, e.Port, maxAddresses)
	}
	h.Programs = appendNew(h.Programs, key.program, maxAddresses)
	h.Steps = appendNew(h.Steps, key.step, maxAddresses)
}

func (w *network) connection(key connKey, e *trace.Event, n int64, category Category) {
	c := w.connections[key]
	if c == nil {
		if len(w.connections) >= maxConnections && e.Verdict != trace.VerdictDenied || len(w.connections) >= 2*maxConnections {
			w.hiddenConnections += n
			return
		}
		c = &conn{Connection{
			Host: key.host, By: key.by, Category: category, Port: key.port, Protocol: key.protocol, Program: key.program,
			PID: e.PID, Step: key.step, Verdict: key.verdict, First: e.Timestamp, Seq: e.Seq,
		}, e.Process()}
		w.connections[key] = c
	}
	c.Count += n
	c.Last = e.Timestamp
	if e.Address != "" {
		c.Addresses = appendNew(c.Addresses, e.Address, maxAddresses)
	}
}

// connectUnix is a socket of the file system: no host, but a connection to see.
func (b *Builder) connectUnix(s *step, p *proc, e *trace.Event) {
	n := times(e)
	b.connected(s, p, e, n)
	b.net.connection(connKey{host: cmp.Or(e.Path, "unnamed socket"), protocol: "unix", program: programOf(p, e), verdict: e.Verdict, step: s.number}, e, n, Runner)
	if what := Sensitive(e.Path); what != "" {
		b.sensitive(s, e, e.Path, what, "connect", programOf(p, e))
	}
}

func (b *Builder) ask(s *step, p *proc, e *trace.Event) {
	n, name := times(e), clean(e.Hostname)
	for _, c := range []*Counts{&s.Counts, &b.total.Counts} {
		c.Queries += n
	}
	b.verdict(s, p, e, n)
	for _, a := range e.Addresses {
		if _, ok := b.net.names[a]; ok || len(b.net.names) < 4*maxHosts {
			b.net.names[a] = name
		}
	}
	name = b.net.fold(cmp.Or(name, "unknown"))
	h := b.net.host(name, first(e.Addresses), e)
	h.Queries += n
	h.Programs = appendNew(h.Programs, programOf(p, e), maxAddresses)
	h.Steps = appendNew(h.Steps, s.number, maxAddresses)
	if e.Verdict == trace.VerdictDenied {
		h.Refused += n
	}
	b.net.query(queryKey{name, e.QueryType, programOf(p, e), e.Verdict, s.number}, e, n, h.Category)
	b.refusal(s, e, name, programOf(p, e), "dns", n)
}

func (w *network) query(key queryKey, e *trace.Event, n int64, category Category) {
	q := w.queries[key]
	if q == nil {
		if len(w.queries) >= maxQueries {
			w.hiddenQueries += n
			return
		}
		q = &Query{Hostname: key.hostname, Type: key.kind, Category: category, Program: key.program, PID: e.PID, Step: key.step, Verdict: key.verdict, First: e.Timestamp, Seq: e.Seq}
		w.queries[key] = q
	}
	q.Count += n
	for _, a := range e.Addresses {
		q.Addresses = appendNew(q.Addresses, a, maxAddresses)
	}
}

// hello gives the connection before it the name that the client asked for. An address
// answers to many names, so this one is better than what DNS said.
func (b *Builder) hello(s *step, e *trace.Event) {
	name := clean(e.Hostname)
	if name == "" {
		return
	}
	name = b.net.fold(name)
	last, ok := b.net.latest[e.Process()]
	if !ok || e.Address != "" && e.Address != last.address || last.to.by == ByRecorder {
		b.net.host(name, e.Address, e) // through a proxy, or the connection's event is missing
		return
	}
	delete(b.net.latest, e.Process())
	if last.to.host == name {
		return
	}
	b.net.rename(last, name, e)
	s.hosts.add(name)
	b.total.hosts.add(name)
}

// rename moves one connection to the host that TLS named.
func (w *network) rename(last recent, name string, e *trace.Event) {
	c, h := w.connections[last.to], w.hosts[last.to.host]
	if c == nil || h == nil {
		return
	}
	like := trace.Event{Timestamp: e.Timestamp, Seq: c.Seq, PID: c.PID, Start: c.key.Start, Address: last.address, Port: last.to.port, Verdict: last.to.verdict}
	to := last.to
	to.host, to.by = name, ByTLS
	better := w.host(name, last.address, &like)
	better.connected(&like, to, 1)
	w.connection(to, &like, 1, better.Category)
	if c.Count--; c.Count == 0 {
		delete(w.connections, last.to)
	}
	h.Connections--
	if last.to.verdict == trace.VerdictDenied {
		h.Refused--
	}
	if h.Connections <= 0 && h.Queries == 0 {
		delete(w.hosts, last.to.host)
	}
}

func (b *Builder) refusal(s *step, e *trace.Event, host, program, protocol string, n int64) {
	if e.Verdict != trace.VerdictDenied && e.Verdict != trace.VerdictWouldDeny {
		return
	}
	w := &b.net
	key := refusalKey{e.Verdict, host, protocol, program, e.Port, s.number}
	if i, ok := w.refused[key]; ok {
		w.refusals[i].Count += n
		return
	}
	if len(w.refusals) >= maxRefusals {
		return
	}
	w.refused[key] = len(w.refusals)
	w.refusals = append(w.refusals, Refusal{
		Verdict: e.Verdict, Host: host, Address: e.Address, Port: e.Port, Protocol: protocol, Program: program,
		PID: e.PID, Step: s.number, Count: n, First: e.Timestamp, Seq: e.Seq,
	})
}

func (b *Builder) listNetwork(v *Views, index map[trace.Process]int) {
	w, n := &b.net, &v.Network
	for _, h := range w.hosts {
		one := *h
		one.Addresses, one.Ports, one.Programs, one.Steps = slices.Clone(h.Addresses), slices.Sorted(slices.Values(h.Ports)), slices.Clone(h.Programs), slices.Clone(h.Steps)
		n.Hosts = append(n.Hosts, one)
	}
	slices.SortFunc(n.Hosts, func(a, b Host) int {
		return cmp.Or(compare(b.Refused, a.Refused), compare(b.Connections, a.Connections), cmp.Compare(a.Host, b.Host))
	})
	for _, c := range w.connections {
		one := c.Connection
		one.Addresses = slices.Clone(c.Addresses)
		one.Process = indexOf(index, c.key)
		n.Connections = append(n.Connections, one)
	}
	slices.SortFunc(n.Connections, func(a, b Connection) int {
		return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Host, b.Host), cmp.Compare(a.By, b.By), cmp.Compare(a.Program, b.Program),
			cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Verdict, b.Verdict), cmp.Compare(a.Step, b.Step))
	})
	for _, q := range w.queries {
		one := *q
		one.Addresses = slices.Clone(q.Addresses)
		n.Queries = append(n.Queries, one)
	}
	slices.SortFunc(n.Queries, func(a, b Query) int {
		return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Hostname, b.Hostname), cmp.Compare(a.Program, b.Program),
			cmp.Compare(a.Type, b.Type), cmp.Compare(a.Verdict, b.Verdict), cmp.Compare(a.Step, b.Step))
	})
	n.HiddenHosts, n.HiddenConnections, n.HiddenQueries = w.hiddenHosts, w.hiddenConnections, w.hiddenQueries
	n.categorise()
	n.Graph = graphOf(n.Connections)
}

// categorise makes the four sums.
func (n *Network) categorise() {
	n.Categories = make([]CategoryTotal, len(Categories))
	for i, c := range Categories {
		n.Categories[i].Category = c
	}
	at := func(c Category) *CategoryTotal { return &n.Categories[slices.Index(Categories, c)] }
	for _, h := range n.Hosts {
		at(h.Category).Hosts++
	}
	for _, c := range n.Connections {
		t := at(c.Category)
		t.Connections += c.Count
		if c.Verdict == trace.VerdictDenied {
			t.Refused += c.Count
		}
	}
}

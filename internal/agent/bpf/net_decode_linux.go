//go:build linux && (amd64 || arm64)

package bpf

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/muster-ci/muster/internal/trace"
)

// The types of events of net.c.
const (
	evConnect = 32 + iota
	evQuery
	evAnswer
	evHello
	evBind
)

func netType(n uint16) trace.Type {
	switch n {
	case evConnect:
		return trace.NetConnect
	case evHello:
		return trace.TLSHello
	case evBind:
		return trace.NetListen
	}
	return trace.DNSQuery
}

// peer follows the header, as net.c lays it out; wire is where the text of a packet begins.
const (
	peerSize = 24
	wireAt   = peerSize + 16
	selfAt   = 256 // in the wire of a hello: the job's own address
)

type peer struct {
	address  netip.Addr
	port     uint16
	protocol uint8
	verdict  uint8
	bytes    uint32
}

func parsePeer(data []byte) (peer, bool) {
	if len(data) < peerSize {
		return peer{}, false
	}
	return peer{
		address: netip.AddrFrom16([16]byte(data[:16])).Unmap(), port: binary.LittleEndian.Uint16(data[16:]),
		protocol: data[18], verdict: data[19], bytes: binary.LittleEndian.Uint32(data[20:]),
	}, true
}

// wire is the text of a packet, as much of it as was read.
func (p peer) wire(data []byte) []byte {
	if len(data) < wireAt {
		return nil
	}
	data = data[wireAt:]
	return data[:min(len(data), int(p.bytes))]
}

var verdicts = [4]string{"", trace.VerdictAllowed, trace.VerdictDenied, trace.VerdictWouldDeny}

func (p peer) event(h header) trace.Event {
	e := h.event(netType(h.Type))
	e.Truncated = false
	e.Address, e.Port, e.Protocol = p.address.String(), int(p.port), protocol(uint32(p.protocol))
	e.Verdict = verdicts[p.verdict&3]
	return e
}

// talk is what is remembered of one scope's network: names by address, and queries that
// are not answered yet. It is the reader's own.
type talk struct {
	names   map[netip.Addr]string
	queries map[queryKey]query
	connect map[connectKey]*repeat
	// torn are questions that could not be read, by the socket that sent them: over TCP
	// they may come in pieces. An answer repeats its question.
	torn map[uint64]trace.Event
}

type queryKey struct {
	cookie uint64
	id     uint16
	kind   dnsmessage.Type
	name   string
}

type query struct {
	e     trace.Event
	since time.Time
}

// connectKey is what makes connections alike.
type connectKey struct {
	pid               int
	start             uint64
	address, protocol string
	port              int
	verdict, host     string
}

// The most that is remembered of one scope, and how long an answer is waited for.
const (
	maxNames   = 16384
	maxQueries = 4096
	maxConnect = 16384
	answerTime = 2 * time.Second
)

func newTalk() *talk {
	return &talk{names: map[netip.Addr]string{}, queries: map[queryKey]query{}, connect: map[connectKey]*repeat{}, torn: map[uint64]trace.Event{}}
}

func (n *network) talk(s *Scope) *talk {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.talks[s.id]
	if t == nil {
		t = newTalk()
		n.talks[s.id] = t
	}
	return t
}

// decode turns an event of net.c into those of a trace: none if it is to be told later.
func (n *network) decode(s *Scope, h header, data []byte) []trace.Event {
	p, ok := parsePeer(data)
	if !ok {
		return nil
	}
	t := n.talk(s)
	e := s.dress(p.event(h), h)
	switch h.Type {
	case evConnect:
		return t.connected(e, p, time.Now())
	case evBind:
		return []trace.Event{e}
	case evQuery:
		return t.asked(e, h.Value, p.wire(data), time.Now())
	case evAnswer:
		return t.answered(h.Value, p.wire(data))
	case evHello:
		e.Hostname = trace.CleanName(string(p.wire(data)))
		e.Truncated = h.A&1 != 0
		if e.Verdict == trace.VerdictDenied {
			n.cut(h, p, data)
		}
		return []trace.Event{e}
	}
	return nil
}

// connected tells of a connection at once, and of others like it within a second in one.
func (t *talk) connected(e trace.Event, p peer, now time.Time) []trace.Event {
	e.Hostname = t.names[p.address]
	k := connectKey{e.PID, e.Start, e.Address, e.Protocol, e.Port, e.Verdict, e.Hostname}
	if again := t.connect[k]; again != nil {
		kept := e
		again.n, again.last = again.n+1, &kept
		return nil
	}
	if len(t.connect) < maxConnect {
		t.connect[k] = &repeat{since: now}
	}
	return []trace.Event{e}
}

// asked holds a query until it is answered, unless it was refused or cannot be read.
func (t *talk) asked(e trace.Event, cookie uint64, wire []byte, now time.Time) []trace.Event {
	id, q, ok := question(wire)
	if !ok {
		if e.Protocol == "tcp" && len(t.torn) < maxQueries {
			t.torn[cookie] = e
		}
		e.Truncated = true
		return []trace.Event{e}
	}
	e.Hostname, e.QueryType = trace.CleanName(q.Name.String()), typeName(q.Type)
	k := queryKey{cookie, id, q.Type, e.Hostname}
	if _, again := t.queries[k]; e.Verdict == trace.VerdictDenied || again || len(t.queries) >= maxQueries {
		return []trace.Event{e}
	}
	t.queries[k] = query{e, now}
	return nil
}

// question is the first question of a message. A query that is longer than was read has
// what is wrong behind it, which is no matter.
func question(wire []byte) (uint16, dnsmessage.Question, bool) {
	var p dnsmessage.Parser
	h, err := p.Start(wire)
	if err != nil {
		return 0, dnsmessage.Question{}, false
	}
	q, err := p.Question()
	return h.ID, q, err == nil
}

// answered tells of the query that an answer is for, and remembers its addresses.
func (t *talk) answered(cookie uint64, wire []byte) []trace.Event {
	id, q, ok := question(wire)
	if !ok {
		return nil
	}
	name := trace.CleanName(q.Name.String())
	addresses := addressesIn(wire)
	for _, a := range addresses {
		if len(t.names) < maxNames || t.names[a] != "" {
			t.names[a] = name
		}
	}
	k := queryKey{cookie, id, q.Type, name}
	held, found := t.queries[k]
	if torn, pieces := t.torn[cookie]; !found && pieces {
		held.e, found = torn, true
		held.e.Hostname, held.e.QueryType = name, typeName(q.Type)
	}
	if !found {
		return nil
	}
	delete(t.queries, k)
	for _, a := range addresses {
		held.e.Addresses = append(held.e.Addresses, a.String())
	}
	return []trace.Event{held.e}
}

// addressesIn are the addresses of an answer, as far as it can be read.
func addressesIn(wire []byte) []netip.Addr {
	var p dnsmessage.Parser
	if _, err := p.Start(wire); err != nil || p.SkipAllQuestions() != nil {
		return nil
	}
	var out []netip.Addr
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			return out
		}
		switch h.Type {
		case dnsmessage.TypeA:
			r, err := p.AResource()
			if err != nil {
				return out
			}
			out = append(out, netip.AddrFrom4(r.A))
		case dnsmessage.TypeAAAA:
			r, err := p.AAAAResource()
			if err != nil {
				return out
			}
			out = append(out, netip.AddrFrom16(r.AAAA).Unmap())
		default:
			if p.SkipAnswer() != nil {
				return out
			}
		}
	}
}

// typeName is "A", "AAAA", "TXT", …, or "TYPE65" for one that has no name here.
func typeName(t dnsmessage.Type) string {
	switch t {
	case dnsmessage.TypeA:
		return "A"
	case dnsmessage.TypeNS:
		return "NS"
	case dnsmessage.TypeCNAME:
		return "CNAME"
	case dnsmessage.TypeSOA:
		return "SOA"
	case dnsmessage.TypePTR:
		return "PTR"
	case dnsmessage.TypeMX:
		return "MX"
	case dnsmessage.TypeTXT:
		return "TXT"
	case dnsmessage.TypeAAAA:
		return "AAAA"
	case dnsmessage.TypeSRV:
		return "SRV"
	case 65:
		return "HTTPS"
	case dnsmessage.TypeALL:
		return "ANY"
	}
	return "TYPE" + strconv.Itoa(int(t))
}

// settle returns what is to be told by now: queries that nobody has answered, and
// connections that were made again and again. With all, it is everything.
func (n *network) settle(s *Scope, now time.Time, all bool) []trace.Event {
	n.mu.Lock()
	t := n.talks[s.id]
	if all {
		delete(n.talks, s.id)
	}
	n.mu.Unlock()
	if t == nil {
		return nil
	}
	var out []trace.Event
	for k, q := range t.queries {
		if all || now.Sub(q.since) >= answerTime {
			out = append(out, q.e)
			delete(t.queries, k)
		}
	}
	for k, again := range t.connect {
		if !all && now.Sub(again.since) < window {
			continue
		}
		if again.n == 0 {
			delete(t.connect, k)
			continue
		}
		e := *again.last
		e.Count = again.n
		out = append(out, e)
		*again = repeat{since: now}
	}
	return out
}

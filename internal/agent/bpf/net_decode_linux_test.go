//go:build linux && (amd64 || arm64)

package bpf

import (
	"net/netip"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/muster-ci/muster/internal/trace"
)

func packed(t testing.TB, id uint16, name string, kind dnsmessage.Type, answers ...string) []byte {
	t.Helper()
	n := dnsmessage.MustNewName(name)
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id, Response: answers != nil}, Questions: []dnsmessage.Question{{Name: n, Type: kind, Class: dnsmessage.ClassINET}}}
	for _, a := range answers {
		h := dnsmessage.ResourceHeader{Name: n, Class: dnsmessage.ClassINET, TTL: 1}
		if ip := netip.MustParseAddr(a); ip.Is4() {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: ip.As4()}})
		} else {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
		}
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A look-up is told with its answer, or without it when none comes.
func TestQueriesAreJoined(t *testing.T) {
	tk := newTalk()
	n := &network{talks: map[uint32]*talk{1: tk}}
	s := &Scope{id: 1}
	now := time.Unix(100, 0)
	e := trace.Event{Type: trace.DNSQuery, PID: 7}
	if got := tk.asked(e, 1, packed(t, 5, "A.Example.", dnsmessage.TypeA), now); got != nil {
		t.Errorf("told before its answer: %+v", got)
	}
	_ = tk.asked(e, 1, packed(t, 6, "a.example.", dnsmessage.TypeAAAA), now)
	if got := tk.answered(2, packed(t, 5, "a.example.", dnsmessage.TypeA, "192.0.2.1")); got != nil {
		t.Errorf("another socket's answer: %+v", got)
	}
	got := tk.answered(1, packed(t, 5, "a.example.", dnsmessage.TypeA, "192.0.2.1", "192.0.2.2"))
	if len(got) != 1 || got[0].Hostname != "a.example" || got[0].QueryType != "A" || !slices.Equal(got[0].Addresses, []string{"192.0.2.1", "192.0.2.2"}) || got[0].PID != 7 {
		t.Errorf("joined: %+v", got)
	}
	if got := tk.answered(1, packed(t, 5, "a.example.", dnsmessage.TypeA, "192.0.2.1")); got != nil {
		t.Errorf("a second answer: %+v", got)
	}
	if got := n.settle(s, now.Add(answerTime-1), false); got != nil {
		t.Errorf("told too soon: %+v", got)
	}
	if got := n.settle(s, now.Add(answerTime), false); len(got) != 1 || got[0].QueryType != "AAAA" || got[0].Addresses != nil {
		t.Errorf("nobody answered: %+v", got)
	}
	e.Verdict = trace.VerdictDenied
	if got := tk.asked(e, 1, packed(t, 7, "evil.example.", dnsmessage.TypeTXT), now); len(got) != 1 || got[0].QueryType != "TXT" {
		t.Errorf("refused: %+v", got)
	}
	if got := tk.asked(e, 1, []byte("no message"), now); len(got) != 1 || !got[0].Truncated {
		t.Errorf("unreadable: %+v", got)
	}
	if got := tk.answered(1, packed(t, 9, "late.example.", dnsmessage.TypeA)); got != nil {
		t.Errorf("the answer to what could not be read, by UDP: %+v", got)
	}
	pieces := trace.Event{Type: trace.DNSQuery, PID: 8, Protocol: "tcp"}
	if got := tk.asked(pieces, 3, []byte{0, 40}, now); len(got) != 1 || !got[0].Truncated {
		t.Errorf("a piece: %+v", got)
	}
	if got := tk.answered(3, packed(t, 9, "Pieces.example.", dnsmessage.TypeA, "192.0.2.3")); len(got) != 1 || got[0].Hostname != "pieces.example" || got[0].PID != 8 || got[0].Truncated || len(got[0].Addresses) != 1 {
		t.Errorf("a question in pieces: %+v", got)
	}
	c := tk.connected(trace.Event{Type: trace.NetConnect, Address: "192.0.2.2"}, peer{address: netip.MustParseAddr("192.0.2.2")}, now)
	if len(c) != 1 || c[0].Hostname != "a.example" {
		t.Errorf("connected: %+v", c)
	}
}

// What was made again within a second is told once more, with how often.
func TestConnectionsAreCounted(t *testing.T) {
	tk := newTalk()
	n := &network{talks: map[uint32]*talk{1: tk}}
	s := &Scope{id: 1}
	now := time.Unix(100, 0)
	p := peer{address: netip.MustParseAddr("192.0.2.2")}
	e := trace.Event{Type: trace.NetConnect, PID: 7, Address: "192.0.2.2", Port: 443}
	told := len(tk.connected(e, p, now))
	for range 9 {
		told += len(tk.connected(e, p, now))
	}
	e.Port = 80
	told += len(tk.connected(e, p, now))
	if told != 2 {
		t.Errorf("%d told at once", told)
	}
	if got := n.settle(s, now.Add(window), false); len(got) != 1 || got[0].Count != 9 || got[0].Port != 443 {
		t.Errorf("then: %+v", got)
	}
	e.Port = 443
	_ = tk.connected(e, p, now.Add(window))
	if got := n.settle(s, now.Add(window), true); len(got) != 1 || got[0].Count != 1 || n.talks[1] != nil {
		t.Errorf("in the end: %+v", got)
	}
}

func TestResolvConf(t *testing.T) {
	text := "# nameserver 192.0.2.9\nnameserver 127.0.0.53\nnameserver 2001:db8::53\nnameserver fe80::1%eth0\nnameserver broken\nsearch corp.example Svc.Cluster.Local.\ndomain corp.example\noptions ndots:5"
	var got []string
	for _, a := range nameservers(text) {
		got = append(got, a.String())
	}
	if !slices.Equal(got, []string{"127.0.0.53", "2001:db8::53", "fe80::1"}) {
		t.Error(got)
	}
	if got := searchDomains(text); !slices.Equal(got, []string{"corp.example", "svc.cluster.local"}) {
		t.Error(got)
	}
	if got := nameservers(""); len(got) != 2 || !got[0].IsLoopback() {
		t.Error(got)
	}
}

// The tables' keys have the layout that net.c gives them.
func TestLayout(t *testing.T) {
	spec, err := loadNetwork()
	if err != nil {
		t.Fatal(err)
	}
	for table, sizes := range map[string][2]uintptr{
		"networks": {unsafe.Sizeof(networkKey{}), unsafe.Sizeof(networkRule{})}, "names": {unsafe.Sizeof(nameKey{}), unsafe.Sizeof(nameRule{})},
		"resolvers": {unsafe.Sizeof(placeKey{}), 1}, "learnt": {unsafe.Sizeof(placeKey{}), 8},
	} {
		if m := spec.Maps[table]; uintptr(m.KeySize) != sizes[0] || uintptr(m.ValueSize) != sizes[1] {
			t.Errorf("%s: %v here, and %d and %d in C", table, sizes, m.KeySize, m.ValueSize)
		}
	}
	if unsafe.Sizeof(header{}) != 88 {
		t.Error("the header has another size than net.c counts on")
	}
	if k := keyOfName(1, "ab.c", true); string(k.Text[:6]) != "c.ba.\x00" || k.Bits != 32+40 {
		t.Errorf("%q %d", k.Text[:6], k.Bits)
	}
	if k := keyOfName(1, "ab.c", false); string(k.Text[:5]) != "c.ba\x00" || k.Bits != 32+40 {
		t.Errorf("%q %d", k.Text[:5], k.Bits)
	}
	if k, bits := keyOfNetwork(1, netip.MustParsePrefix("192.0.2.0/24"), 443); k.Bits != 64+120 || bits != 120 || k.Address[10] != 0xff || k.Address[12] != 192 {
		t.Errorf("%+v", k)
	}
}

// A job writes what it likes to port 53, and to the ring what net.c makes of it.
func FuzzNetDecode(f *testing.F) {
	f.Add(uint16(evConnect), []byte{}, uint32(0))
	f.Add(uint16(evAnswer), packed(f, 1, "a.example.", dnsmessage.TypeA, "192.0.2.1", "2001:db8::1"), uint32(90))
	f.Add(uint16(evQuery), packed(f, 1, "a.example.", dnsmessage.TypeTXT), uint32(1<<31))
	f.Add(uint16(evHello), []byte("Name.Example"), uint32(12))
	f.Fuzz(func(t *testing.T, kind uint16, wire []byte, n uint32) {
		r := &Recorder{log: logger(nil), paths: newCgroupPaths("")}
		r.net = &network{r: r, talks: map[uint32]*talk{}}
		s := &Scope{r: r, id: 1, names: map[string]string{}}
		data := make([]byte, wireAt, wireAt+len(wire))
		data[20], data[21], data[22], data[23] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
		data = append(data, wire...)
		h := header{Type: evConnect + kind%4, Scope: 1}
		for _, cut := range []int{len(data), peerSize, 3, 0} {
			for _, e := range append(r.net.decode(s, h, data[:min(cut, len(data))]), r.net.settle(s, time.Now(), true)...) {
				if e.Type != netType(h.Type) && e.Type != trace.DNSQuery {
					t.Errorf("%+v", e)
				}
			}
		}
	})
}

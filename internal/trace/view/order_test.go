package view

import (
	"reflect"
	"testing"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// A trace comes from where the job ran, and numbers in it may be there twice. The views
// of one trace are the same every time, as a signed export and a comparison need.
func TestOrderOfEqualNumbers(t *testing.T) {
	b := NewBuilder(trace.Job{})
	for step := range 3 {
		for _, e := range []trace.Event{
			{Type: trace.NetConnect, Address: "192.0.2.1", Port: 443, Protocol: "tcp"},
			{Type: trace.NetConnect, Address: "192.0.2.1", Port: 80, Protocol: "tcp"},
			{Type: trace.NetConnect, Address: "192.0.2.1", Port: 443, Protocol: "udp"},
			{Type: trace.NetConnect, Address: "192.0.2.1", Port: 443, Protocol: "tcp", Verdict: trace.VerdictDenied},
			{Type: trace.DNSQuery, Hostname: "a.example.com", QueryType: "A"},
			{Type: trace.DNSQuery, Hostname: "a.example.com", QueryType: "AAAA"},
			{Type: trace.DNSQuery, Hostname: "a.example.com", QueryType: "A", Verdict: trace.VerdictDenied},
			{Type: trace.FileOpen, Path: "/home/u/.ssh/id_rsa", Flags: "read"},
			{Type: trace.FileOpen, Path: "/home/u/.ssh/id_rsa", Flags: "read", Command: "tar", PID: 6},
		} {
			e.Timestamp, e.Seq, e.Step = time.Unix(1, 0), 7, step
			b.Add(e)
		}
	}
	first := b.Views()
	if n, q, s := len(first.Network.Connections), len(first.Network.Queries), len(first.FileTops.Sensitive); n != 12 || q != 9 || s != 6 {
		t.Fatalf("%d connections, %d questions, %d sensitive files", n, q, s)
	}
	for range 20 {
		again := b.Views()
		if !reflect.DeepEqual(again.Network, first.Network) {
			t.Fatalf("connections %+v\nwere %+v\nquestions %+v\nwere %+v", again.Network.Connections, first.Network.Connections, again.Network.Queries, first.Network.Queries)
		}
		if !reflect.DeepEqual(again.FileTops, first.FileTops) {
			t.Fatalf("sensitive %+v\nwere %+v", again.FileTops.Sensitive, first.FileTops.Sensitive)
		}
	}
}

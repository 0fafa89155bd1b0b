package qemu

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster/internal/wire"
)

// plane is the agent's side of a control plane. It remembers what every machine said.
type plane struct {
	*httptest.Server

	mu      sync.Mutex
	heard   map[string]*said // by host name, which the boot request carries
	byToken map[string]*said
	changed chan struct{}
	down    bool
	asked   []string
}

// said is what one machine said, and when it was heard.
type said struct {
	boot     wire.BootRequest
	bootAt   time.Time
	reports  []wire.Report
	reportAt []time.Time
	output   string
}

func newPlane(t testing.TB) *plane {
	p := &plane{heard: map[string]*said{}, byToken: map[string]*said{}, changed: make(chan struct{}, 1)}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *plane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() {
		select {
		case p.changed <- struct{}{}:
		default:
		}
	}()
	p.asked = append(p.asked, r.Method+" "+r.URL.Path)
	if p.down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	reply := any(wire.Answer{})
	switch r.URL.Path {
	case wire.BootPath:
		s := &said{bootAt: at}
		_ = json.NewDecoder(r.Body).Decode(&s.boot)
		session := "session-" + s.boot.Nonce
		p.heard[s.boot.Hostname], p.byToken[session] = s, s
		reply = wire.BootResponse{Runner: s.boot.Hostname, Name: s.boot.Hostname, SessionToken: session, JITConfig: "e30=", HeartbeatSeconds: 1}
	case wire.ReportPath:
		var report wire.Report
		_ = json.NewDecoder(r.Body).Decode(&report)
		if s := p.byToken[token]; s != nil {
			s.reports, s.reportAt = append(s.reports, report), append(s.reportAt, at)
		}
	case wire.LogPath:
		var chunk wire.LogChunk
		_ = json.NewDecoder(r.Body).Decode(&chunk)
		if s := p.byToken[token]; s != nil && int64(len(s.output)) == chunk.Offset {
			s.output += string(chunk.Data)
		}
	default:
		w.WriteHeader(http.StatusTeapot)
		return
	}
	_ = json.NewEncoder(w).Encode(reply)
}

// await waits until a machine has said what ok wants.
func (p *plane) await(t testing.TB, host string, what string, ok func(*said) bool) said {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		p.mu.Lock()
		s := p.heard[host]
		if s != nil && ok(s) {
			copied := *s
			p.mu.Unlock()
			return copied
		}
		p.mu.Unlock()
		select {
		case <-p.changed:
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			t.Fatalf("machine %s: %s; it said %+v", host, what, s)
		}
	}
}

func booted(*said) bool { return true }

// words returns what follows a word at the beginning of a line of the output.
func (s said) words(name string) string {
	for line := range strings.Lines(s.output) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func listening(s *said) bool { return strings.Contains(s.output, "Listening for Jobs") }

// secretServer is something on the host's loopback that no machine may reach.
func secretServer(t testing.TB) (address string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the-secret-of-the-host") }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).String()
}

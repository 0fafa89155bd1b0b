//go:build linux && (amd64 || arm64)

package bpf

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// Where a machine's programs ask a daemon for names and not a resolver, no answer passes by
// that net.c could read. There the recorder looks the names of a policy up itself, at
// first before the job begins. Names below a wildcard nobody can know.

const (
	namesEvery   = 2 * time.Minute  // how often they are looked up again
	namesKeep    = 10 * time.Minute // how long an address is allowed
	namesFirst   = 3 * time.Second  // how long a job waits for them
	namesAtATime = 16
)

// asksDaemon reports whether names are looked up through a daemon, by the text of
// nsswitch.conf and whether the daemon's socket is there.
func asksDaemon(nsswitch string, there func(string) bool) bool {
	if there("/run/nscd/socket") || there("/var/run/nscd/socket") {
		return true
	}
	for line := range strings.Lines(nsswitch) {
		sources, ok := strings.CutPrefix(strings.TrimSpace(line), "hosts:")
		for _, source := range strings.Fields(sources) {
			if ok && source == "resolve" && there("/run/systemd/resolve/io.systemd.Resolve") {
				return true
			}
		}
	}
	return false
}

// knowNames has the names of a policy known, if the machine needs it, until remove.
func (n *network) knowNames(p *installed, rules *trace.EgressRules) {
	text, _ := os.ReadFile(cmp.Or(n.r.options.NSSwitch, "/etc/nsswitch.conf"))
	there := func(path string) bool {
		_, err := os.Stat(n.r.options.root + path)
		return err == nil
	}
	if !asksDaemon(string(text), there) {
		return
	}
	var ctx context.Context
	ctx, p.stop = context.WithCancel(context.Background())
	first, done := context.WithTimeout(ctx, namesFirst)
	defer done()
	n.learnNames(first, p.id, rules)
	p.learning.Go(func() {
		t := time.NewTicker(namesEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				n.learnNames(ctx, p.id, rules)
			case <-ctx.Done():
				return
			}
		}
	})
}

// learnNames looks all names up and allows what they resolve to. One that does not
// resolve allows nothing.
func (n *network) learnNames(ctx context.Context, policy uint32, rules *trace.EgressRules) {
	lookup := net.DefaultResolver.LookupNetIP
	if n.r.options.lookup != nil {
		lookup = n.r.options.lookup
	}
	var all sync.WaitGroup
	room := make(chan struct{}, namesAtATime)
	for _, r := range rules.Names() {
		if r.Below {
			continue
		}
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			addresses, err := lookup(ctx, "ip", r.Name)
			if err != nil {
				n.r.log.Debug("look up a name of the policy", "name", r.Name, "error", err)
			}
			for _, a := range addresses {
				n.learn(policy, a.Unmap(), r.Ports)
			}
		})
	}
	all.Wait()
}

// learn allows an address, as net.c does for those that it reads in answers.
func (n *network) learn(policy uint32, a netip.Addr, ports []uint16) {
	if trace.IsMetadata(a) || a.IsLoopback() || a.IsUnspecified() {
		return
	}
	until := uint64(nanoseconds(clockBoot)) + uint64(namesKeep)
	if len(ports) == 0 {
		ports = []uint16{0}
	}
	for _, port := range ports {
		k := placeKey{Policy: policy, Port: port, Address: a.As16()}
		if err := n.tables["learnt"].Put(k, until); err != nil {
			n.r.log.Warn("allow an address", "address", a, "error", err)
		}
	}
}

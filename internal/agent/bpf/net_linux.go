//go:build linux && (amd64 || arm64)

package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/muster-ci/muster/internal/trace"
)

// network is the half of a Recorder that net.c is: its programs, the tables of its
// policies, and what it remembers of each scope. The zero value records nothing.
type network struct {
	r       *Recorder
	tables  map[string]*ebpf.Map // its own
	missing map[trace.Type]string

	mu       sync.Mutex
	policies map[uint32]*installed // by scope
	talks    map[uint32]*talk      // by scope
	next     uint32
}

// netHooks are the programs of net.c, and what is missing without them. A policy needs all.
var netHooks = []struct {
	program string
	attach  ebpf.AttachType
	event   trace.Type
}{
	{"net_socket", ebpf.AttachCGroupInetSockCreate, trace.NetConnect},
	{"net_connect4", ebpf.AttachCGroupInet4Connect, trace.NetConnect},
	{"net_connect6", ebpf.AttachCGroupInet6Connect, trace.NetConnect},
	{"net_sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, trace.NetConnect},
	{"net_sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, trace.NetConnect},
	{"net_bind4", ebpf.AttachCGroupInet4Bind, trace.NetListen},
	{"net_bind6", ebpf.AttachCGroupInet6Bind, trace.NetListen},
	{"net_ingress", ebpf.AttachCGroupInetIngress, trace.DNSQuery},
	{"net_egress", ebpf.AttachCGroupInetEgress, trace.DNSQuery},
}

// openNetwork attaches the programs of net.c to the root of the cgroups: a process is asked
// whose it is, so it gets away from none of them by going elsewhere.
func (r *Recorder) openNetwork() *network {
	n := &network{r: r, missing: map[trace.Type]string{}, policies: map[uint32]*installed{}, talks: map[uint32]*talk{}}
	if err := n.load(); err != nil {
		why := reason(err)
		for _, t := range []trace.Type{trace.NetConnect, trace.DNSQuery, trace.TLSHello} {
			if n.missing[t] == "" {
				n.missing[t] = why
			}
		}
	}
	// Who listens by TCP is seen by a program of its own.
	if why := cmp.Or(n.missing[trace.NetListen], n.missing[trace.NetConnect]); why != "" {
		n.missing[trace.NetListen] = "of UDP: " + why
	}
	if why := n.missing[trace.DNSQuery]; why != "" {
		n.missing[trace.TLSHello] = why
	}
	return n
}

func (n *network) load() error {
	if n.r.mount == "" {
		return errors.New("no cgroup hierarchy of version 2 is mounted, and connections are seen at its root")
	}
	spec, err := loadNetwork()
	if err != nil {
		return err
	}
	bare := spec.Copy()
	bare.Programs = nil
	kept, err := ebpf.NewCollectionWithOptions(bare, ebpf.CollectionOptions{MapReplacements: shared(spec, n.r.maps), Cache: n.r.cache})
	if err != nil {
		return fmt.Errorf("make tables of the network: %w", err)
	}
	n.tables = kept.Maps
	for _, m := range n.tables {
		if info, err := m.Info(); err == nil {
			if id, ok := info.ID(); ok {
				n.r.guard(guardMap, uint32(id))
			}
		}
	}
	for _, h := range netHooks {
		if err := n.hook(spec, h.program, h.attach); err != nil {
			n.r.log.Debug("hook refused", "program", h.program, "error", err)
			if n.missing[h.event] == "" {
				n.missing[h.event] = "the kernel refused " + h.program + ": " + reason(err)
			}
		}
	}
	return n.trustMachine()
}

// shared are those of a recorder's maps that net.c has too.
func shared(spec *ebpf.CollectionSpec, all map[string]*ebpf.Map) map[string]*ebpf.Map {
	out := maps.Clone(all)
	maps.DeleteFunc(out, func(name string, _ *ebpf.Map) bool { return spec.Maps[name] == nil })
	return out
}

func (n *network) hook(spec *ebpf.CollectionSpec, name string, attach ebpf.AttachType) error {
	one := spec.Copy()
	if one.Programs[name] == nil {
		return fmt.Errorf("no program %s", name)
	}
	one.Programs = map[string]*ebpf.ProgramSpec{name: one.Programs[name]}
	coll, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{MapReplacements: shared(spec, n.all()), Cache: n.r.cache})
	if err != nil {
		return err
	}
	p := coll.DetachProgram(name)
	coll.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: n.r.mount, Attach: attach, Program: p})
	if err != nil {
		return errors.Join(err, p.Close())
	}
	n.r.keep(p, l)
	return nil
}

// all are its own maps and those that it shares.
func (n *network) all() map[string]*ebpf.Map {
	out := maps.Clone(n.r.maps)
	maps.Copy(out, n.tables)
	return out
}

// describe adds what is not recorded.
func (n *network) describe(d *trace.Recorder) {
	for t, why := range n.missing {
		d.Missing[string(t)] = cmp.Or(d.Missing[string(t)], why)
	}
	if why := n.powerless(); why != "" {
		d.Missing["egress"] = why
	}
}

// powerless says why no policy can be enforced, "" if one can.
func (n *network) powerless() string {
	for _, t := range []trace.Type{trace.NetConnect, trace.DNSQuery} {
		if why := n.missing[t]; why != "" {
			return why
		}
	}
	return ""
}

func (n *network) close() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(n.tables)) {
		if _, theirs := n.r.maps[name]; !theirs {
			errs = append(errs, n.tables[name].Close())
		}
	}
	return errors.Join(errs...)
}

// ErrEgress is that of Follow where a policy is to be enforced and cannot be. Whoever
// gets it must not let the job run.
var ErrEgress = errors.New("egress cannot be enforced on this machine")

// follow puts the policy of a scope in force, before the scope begins.
func (n *network) follow(s *Scope) error {
	n.mu.Lock()
	n.talks[s.id] = newTalk()
	n.mu.Unlock()
	if s.egress.Mode == trace.EgressOff {
		return nil
	}
	if why := n.powerless(); why != "" {
		if s.egress.Mode == trace.EgressEnforce {
			return fmt.Errorf("%w: %s", ErrEgress, why)
		}
		return nil
	}
	rules, err := s.egress.Rules(n.r.options.Always...)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.next++
	p := &installed{id: n.next}
	n.policies[s.id] = p
	n.mu.Unlock()
	if err := n.install(p, rules); err != nil {
		return fmt.Errorf("write the policy of egress: %w", err)
	}
	value := struct {
		ID      uint32
		Enforce uint8
		_       [3]uint8
	}{ID: p.id}
	if s.egress.Mode == trace.EgressEnforce {
		value.Enforce = 1
	}
	if err := n.tables["policies"].Put(s.id, value); err != nil {
		return fmt.Errorf("put the policy of egress in force: %w", err)
	}
	return nil
}

// unfollow takes the policy of a scope back.
func (n *network) unfollow(s *Scope) error {
	n.mu.Lock()
	p := n.policies[s.id]
	delete(n.policies, s.id)
	n.mu.Unlock()
	if p == nil {
		return nil
	}
	err := n.tables["policies"].Delete(s.id)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil // it never came into force
	}
	return errors.Join(err, n.remove(p))
}

// tellNet adds what the network has held back.
func (s *Scope) tellNet(now time.Time, all bool) {
	for _, e := range s.r.net.settle(s, now, all) {
		s.add(e)
	}
}

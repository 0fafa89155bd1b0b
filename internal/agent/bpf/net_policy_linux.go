//go:build linux && (amd64 || arm64)

package bpf

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/muster-ci/muster/internal/trace"
)

// installed is what a policy has put into the tables, to be taken out again.
type installed struct {
	id        uint32
	networks  []networkKey
	names     []nameKey
	resolvers []placeKey

	stop     context.CancelFunc // of what learns its names, nil if nothing does
	learning sync.WaitGroup
}

// The keys and values of the tables, as net.c lays them out.
type (
	networkKey struct {
		Bits, Policy uint32
		Port, _      uint16
		Address      [16]byte
	}
	networkRule struct{ Allow, Bits uint8 }
	nameKey     struct {
		Bits, Policy uint32
		Text         [252]byte
	}
	nameRule struct {
		Learn, Count uint8
		Ports        [trace.MaxEgressPorts]uint16
	}
	placeKey struct {
		Policy  uint32
		Port, _ uint16
		Address [16]byte
	}
)

func keyOfNetwork(policy uint32, p netip.Prefix, port uint16) (networkKey, uint8) {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return networkKey{Bits: uint32(64 + bits), Policy: policy, Port: port, Address: p.Addr().As16()}, uint8(bits)
}

// keyOfName is a name backwards, with what tells it from all that is below it.
func keyOfName(policy uint32, name string, below bool) nameKey {
	k := nameKey{Policy: policy}
	b := []byte(name)
	slices.Reverse(b)
	n := copy(k.Text[:], b)
	if below {
		k.Text[n] = '.'
	}
	k.Bits = uint32(32 + 8*(n+1))
	return k
}

// install writes what a policy allows into the tables.
func (n *network) install(p *installed, rules *trace.EgressRules) error {
	for _, m := range trace.Metadata {
		k, bits := keyOfNetwork(p.id, m, 0)
		if err := n.putNetwork(p, k, networkRule{0, bits}); err != nil {
			return err
		}
	}
	for _, r := range rules.Networks() {
		k, bits := keyOfNetwork(p.id, r.Network, r.Port)
		if err := n.putNetwork(p, k, networkRule{1, bits}); err != nil {
			return err
		}
		if r.Port == 53 && r.Network.IsSingleIP() {
			// Who allows an address for port 53 has it for a resolver.
			k := placeKey{Policy: p.id, Address: r.Network.Addr().As16()}
			p.resolvers = append(p.resolvers, k)
			if err := n.tables["resolvers"].Put(k, uint8(1)); err != nil {
				return err
			}
		}
	}
	if err := n.installNames(p, rules); err != nil {
		return err
	}
	if err := n.installHosts(p, rules); err != nil {
		return err
	}
	n.knowNames(p, rules)
	return nil
}

func (n *network) putNetwork(p *installed, k networkKey, r networkRule) error {
	p.networks = append(p.networks, k)
	return n.tables["networks"].Put(k, r)
}

func (n *network) putName(p *installed, name string, below bool, r nameRule) error {
	if len(name) > trace.MaxEgressName {
		return nil // longer than any name on the wire that could match
	}
	k := keyOfName(p.id, name, below)
	p.names = append(p.names, k)
	return n.tables["names"].Put(k, r)
}

// installNames writes the rules of names, and what clients look up on their way to one:
// the same name in every search domain, which is refused by being unknown and must not
// be refused otherwise, for that would end the search.
func (n *network) installNames(p *installed, rules *trace.EgressRules) error {
	search := searchDomains(n.resolvConf())
	for _, domain := range search {
		if !rules.AllowsName("_."+domain) && !rules.AllowsName(domain) {
			if err := n.putName(p, domain, true, nameRule{}); err != nil {
				return err
			}
		}
	}
	host, _ := os.Hostname() // "" matches nothing
	for _, own := range []string{"localhost", trace.CleanName(host)} {
		if own != "" && !rules.AllowsName(own) {
			if err := n.putName(p, own, false, nameRule{}); err != nil {
				return err
			}
		}
	}
	for _, r := range rules.Names() {
		v := nameRule{Learn: 1, Count: uint8(len(r.Ports))}
		copy(v.Ports[:], r.Ports)
		if err := n.putName(p, r.Name, r.Below, v); err != nil {
			return err
		}
		for _, domain := range search {
			if full := r.Name + "." + domain; !r.Below && !rules.AllowsName(full) {
				if err := n.putName(p, full, false, v); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// installHosts allows the addresses that the machine's own file gives to names that are
// allowed: nobody asks a resolver for those.
func (n *network) installHosts(p *installed, rules *trace.EgressRules) error {
	for _, h := range readHosts(cmp.Or(n.r.options.Hosts, "/etc/hosts")) {
		if trace.IsMetadata(h.addr) {
			continue
		}
		for _, r := range rules.Names() {
			if r.Name != h.name && (!r.Below || !strings.HasSuffix(h.name, "."+r.Name)) {
				continue
			}
			ports := r.Ports
			if len(ports) == 0 {
				ports = []uint16{0}
			}
			for _, port := range ports {
				k, bits := keyOfNetwork(p.id, netip.PrefixFrom(h.addr, h.addr.BitLen()), port)
				if err := n.putNetwork(p, k, networkRule{1, bits}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// remove takes a policy out of the tables. What was learnt for it grows old by itself.
func (n *network) remove(p *installed) error {
	if p.stop != nil {
		p.stop()
		p.learning.Wait()
	}
	var errs []error
	gone := func(err error) {
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	for _, k := range p.networks {
		gone(n.tables["networks"].Delete(k))
	}
	for _, k := range p.names {
		gone(n.tables["names"].Delete(k))
	}
	for _, k := range p.resolvers {
		gone(n.tables["resolvers"].Delete(k))
	}
	return errors.Join(errs...)
}

// dockerResolver is where a container finds the resolver that its engine serves it by.
var dockerResolver = netip.MustParseAddr("127.0.0.11")

// trustMachine writes the machine's own resolvers into the table.
func (n *network) trustMachine() error {
	for _, a := range append(nameservers(n.resolvConf()), dockerResolver) {
		if err := n.tables["resolvers"].Put(placeKey{Address: a.As16()}, uint8(1)); err != nil {
			return err
		}
	}
	return nil
}

// resolvConf is the text of the machine's files. One that is not there says nothing.
func (n *network) resolvConf() string {
	files := n.r.options.ResolvConf
	if files == nil {
		files = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}
	}
	var all strings.Builder
	for _, name := range files {
		text, _ := os.ReadFile(name)
		all.Write(text)
		all.WriteByte('\n')
	}
	return all.String()
}

// nameservers are the addresses of a resolv.conf; without any it is loopback.
func nameservers(text string) []netip.Addr {
	var out []netip.Addr
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, a.WithZone("").Unmap())
		}
	}
	if out == nil {
		out = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	return out
}

// searchDomains are those of a resolv.conf.
func searchDomains(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "search" && f[0] != "domain" {
			continue
		}
		for _, domain := range f[1:] {
			if domain = trace.CleanName(domain); domain != "" && !slices.Contains(out, domain) {
				out = append(out, domain)
			}
		}
	}
	return out
}

type hostLine struct {
	addr netip.Addr
	name string
}

// readHosts reads a file of names. One that cannot be read has none.
func readHosts(file string) []hostLine {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []hostLine
	for lines := bufio.NewScanner(f); lines.Scan(); {
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) < 2 {
			continue
		}
		a, err := netip.ParseAddr(fields[0])
		if err != nil || a.IsLoopback() {
			continue
		}
		for _, name := range fields[1:] {
			out = append(out, hostLine{a.Unmap().WithZone(""), trace.CleanName(name)})
		}
	}
	return out
}

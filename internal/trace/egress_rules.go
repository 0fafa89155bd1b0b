package trace

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// The bounds of a policy, which are those of the kernel's tables.
const (
	// MaxEgressEntries is how many entries a policy may have, GitHub's included.
	MaxEgressEntries = 16384
	// MaxEgressPorts is how many ports one name may be allowed for.
	MaxEgressPorts = 8
	// MaxEgressName is how long a name may be.
	MaxEgressName = 250
)

// Destination is one entry of a policy: a name, every name below one, or a network.
type Destination struct {
	// Name is in lower case, in ASCII (IDNA), without the final dot; "" for a network.
	Name string
	// Below: every name below Name, at any depth, and not Name itself.
	Below bool
	// Network is masked, and an IPv4 network is one even if it was written as IPv6.
	Network netip.Prefix
	// Port is 0 for every port.
	Port uint16
}

// String is the entry as ParseDestination reads it.
func (d Destination) String() string {
	host := d.Name
	if d.Below {
		host = "*." + host
	}
	if d.Name == "" {
		host = d.Network.String()
		if d.Network.IsSingleIP() {
			host = d.Network.Addr().String()
		}
	}
	if d.Port == 0 {
		return host
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(int(d.Port))
}

// ParseDestination reads one entry of Egress.Allow. Its error quotes the entry and says
// what to write instead.
func ParseDestination(text string) (Destination, error) {
	d, err := parseDestination(strings.TrimSpace(text))
	if err != nil {
		return Destination{}, fmt.Errorf("egress: %q %w", text, err)
	}
	return d, nil
}

func parseDestination(text string) (Destination, error) {
	switch {
	case text == "":
		return Destination{}, errors.New("is empty; write a host, *.DOMAIN, an address or a network, with :PORT behind it for one port")
	case text == "*" || strings.HasPrefix(text, "*:"):
		return Destination{}, errors.New("allows everything; leave the policy in the mode audit instead, or write 0.0.0.0/0 and ::/0")
	case strings.Contains(text, "://"):
		return Destination{}, errors.New("is a URL; write only its host, with :PORT behind it for one port")
	case strings.ContainsAny(text, " \t\r\n,;"):
		return Destination{}, errors.New("is more than one entry; write each by itself")
	}
	host, port, err := splitPort(text)
	if err != nil {
		return Destination{}, err
	}
	d := Destination{Port: port}
	if strings.Contains(host, "/") {
		d.Network, err = parseNetwork(host)
		return d, err
	}
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return Destination{}, errors.New("has a zone; write the address without %ZONE")
		}
		a = a.Unmap()
		d.Network = netip.PrefixFrom(a, a.BitLen())
		return d, nil
	}
	host, d.Below = strings.CutPrefix(host, "*.")
	d.Name, err = cleanName(host)
	return d, err
}

// splitPort takes the port off an entry: behind a colon, and behind the bracket of an IPv6
// address. An IPv6 address without brackets has none.
func splitPort(text string) (host string, port uint16, err error) {
	rest, found := "", false
	switch inner, bracketed := strings.CutPrefix(text, "["); {
	case bracketed:
		if host, rest, found = strings.Cut(inner, "]"); !found {
			return "", 0, errors.New("has a [ without a ]; write [ADDRESS]:PORT")
		}
		if !strings.Contains(host, ":") {
			return "", 0, errors.New("has brackets around what is not an IPv6 address; leave them out")
		}
		if rest == "" {
			return host, 0, nil
		}
		if rest, found = strings.CutPrefix(rest, ":"); !found {
			return "", 0, errors.New("has something other than a port behind the ]; write [ADDRESS]:PORT, and a network's length within the brackets")
		}
	case strings.Count(text, ":") > 1:
		return text, 0, nil
	default:
		if host, rest, found = strings.Cut(text, ":"); !found {
			return host, 0, nil
		}
	}
	n, err := strconv.ParseUint(rest, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("has the port %q; write one between 1 and 65535, and an entry for each if there are several", rest)
	}
	return host, uint16(n), nil
}

func parseNetwork(host string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(host)
	if err != nil {
		name, _, _ := strings.Cut(host, "/")
		if _, bad := netip.ParseAddr(name); bad != nil {
			return netip.Prefix{}, errors.New("has a path; write only the host")
		}
		return netip.Prefix{}, errors.New("is not a network; write ADDRESS/BITS, such as 192.0.2.0/24 or 2001:db8::/32")
	}
	if a := p.Addr(); a.Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, errors.New("is an IPv4 network in IPv6's writing that reaches beyond IPv4; write it as IPv4")
		}
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	if m := p.Masked(); m != p {
		return netip.Prefix{}, fmt.Errorf("has bits beyond its length; write %s for the network or %s for the one address", m, p.Addr())
	}
	return p, nil
}

// lookup is how a browser would read a name: mapped to lower case, and to ASCII.
var lookup = idna.New(idna.MapForLookup(), idna.StrictDomainName(false), idna.Transitional(false), idna.BidiRule())

// cleanName is a name of an entry as names are compared.
func cleanName(host string) (string, error) {
	if strings.Contains(host, "*") {
		return "", errors.New("has a * elsewhere than at its beginning; write *.DOMAIN for every name below DOMAIN")
	}
	name := CleanName(host)
	if strings.ContainsFunc(host, func(r rune) bool { return r >= utf8.RuneSelf }) {
		// Only these need it; what is in ASCII may be what IDNA would not have, and be in use.
		var err error
		name, err = lookup.ToASCII(strings.TrimSuffix(host, "."))
		again, twice := lookup.ToASCII(name)
		if err != nil || twice != nil || again != name || !utf8.ValidString(host) {
			return "", errors.New("is not the name of a host; write it as in a URL")
		}
	}
	switch {
	case name == "":
		return "", errors.New("has no name; write *.DOMAIN or a host")
	case len(name) > MaxEgressName:
		return "", fmt.Errorf("is longer than %d characters", MaxEgressName)
	case strings.Trim(name[strings.LastIndexByte(name, '.')+1:], "0123456789") == "" && plain(name):
		return "", errors.New("is neither an address nor a name; an IPv4 address has four numbers up to 255")
	case !plain(name):
		return "", errors.New("is not the name of a host; write labels of letters, digits and -, with single dots between them")
	}
	return name, nil
}

// plain reports whether a name is made of labels that entries can have.
func plain(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// CleanName returns a name as entries are compared with: in lower case, without the final
// dot. It is for names as they are seen on the wire, which are in ASCII already.
func CleanName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// Validate returns everything that is wrong with a policy, joined, or nil.
func (e Egress) Validate() error {
	var errs []error
	switch e.Mode {
	case EgressOff, EgressAudit, EgressLearn, EgressEnforce:
	default:
		errs = append(errs, fmt.Errorf("egress: there is no mode %q; write audit, learn or enforce", e.Mode))
	}
	_, err := e.Rules()
	return errors.Join(append(errs, err)...)
}

// Rules compiles what a policy allows, and more entries that it allows always, such as the
// control plane. It returns everything that is wrong with them, joined.
func (e Egress) Rules(always ...string) (*EgressRules, error) {
	entries := slices.Concat(e.Allow, always)
	if !e.NoGitHub {
		entries = append(entries, e.GitHub...)
	}
	if len(entries) > MaxEgressEntries {
		return nil, fmt.Errorf("egress: %d entries are more than %d; allow networks or *.DOMAIN instead", len(entries), MaxEgressEntries)
	}
	r := &EgressRules{names: map[string]ports{}, below: map[string]ports{}, networks: map[netip.Prefix]ports{}}
	var errs []error
	for _, text := range entries {
		d, err := ParseDestination(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := r.add(d); err != nil {
			errs = append(errs, fmt.Errorf("egress: %q %w", text, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return r, nil
}

// ports is for what ports something is allowed: in order, and nil for all of them.
type ports []uint16

func (p ports) allow(port int) bool {
	return p == nil || port > 0 && port < 1<<16 && slices.Contains(p, uint16(port))
}

// union adds more ports to p; every port swallows the others.
func (p ports) union(more ports) ports {
	if p == nil || more == nil {
		return nil
	}
	all := slices.Concat(p, more)
	slices.Sort(all)
	return slices.Compact(all)
}

// EgressRules is a compiled policy. It does not change and may be used concurrently.
type EgressRules struct {
	names    map[string]ports
	below    map[string]ports
	networks map[netip.Prefix]ports
}

func (r *EgressRules) add(d Destination) error {
	var p ports
	if d.Port != 0 {
		p = ports{d.Port}
	}
	if d.Name == "" {
		r.networks[d.Network] = with(r.networks, d.Network, p)
		return nil
	}
	m := r.names
	if d.Below {
		m = r.below
	}
	m[d.Name] = with(m, d.Name, p)
	if len(m[d.Name]) > MaxEgressPorts {
		return fmt.Errorf("is allowed for more than %d ports; allow the name for all of them", MaxEgressPorts)
	}
	return nil
}

// with is what m would hold for key if p were allowed too.
func with[K comparable](m map[K]ports, key K, p ports) ports {
	if old, found := m[key]; found {
		return old.union(p)
	}
	return p
}

// Metadata are the addresses at which clouds hand out credentials to whoever asks from a
// machine, and all others that are meant for one link only. They are allowed only by an
// entry that lies within one of them: not by a wider network, and not because a name
// that is allowed resolves to one.
var Metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),         // AWS, Azure, Google, Oracle, …, and link-local
	netip.MustParsePrefix("100.100.100.200/32"),     // Alibaba
	netip.MustParsePrefix("192.0.0.192/32"),         // Oracle, of old
	netip.MustParsePrefix("168.63.129.16/32"),       // Azure's wire server
	netip.MustParsePrefix("fd00:ec2::254/128"),      // AWS
	netip.MustParsePrefix("fd20:ce::254/128"),       // Google
	netip.MustParsePrefix("fe80::a9fe:a9fe/128"),    // OpenStack
	netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), // Oracle
}

// IsMetadata reports whether an address is one of Metadata's.
func IsMetadata(a netip.Addr) bool {
	a = a.Unmap()
	return slices.ContainsFunc(Metadata, func(p netip.Prefix) bool { return p.Contains(a) })
}

// AllowsName reports whether a name is allowed for some port, so that it may be looked up.
func (r *EgressRules) AllowsName(name string) bool {
	_, found := r.namePorts(CleanName(name))
	return found
}

// namePorts is for what ports a name is allowed, by its own entry and by those above it.
func (r *EgressRules) namePorts(name string) (p ports, found bool) {
	p, found = r.names[name]
	for above := name; ; {
		var ok bool
		if _, above, ok = strings.Cut(above, "."); !ok {
			return p, found
		}
		if wide, ok := r.below[above]; ok {
			if found {
				wide = p.union(wide)
			}
			p, found = wide, true
		}
	}
}

// AllowsAddress reports whether an address is allowed by itself, whatever its name. Loopback
// always is. Port 0 stands for a protocol that has none, which only an entry for every port
// allows.
func (r *EgressRules) AllowsAddress(a netip.Addr, port int) bool {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return false
	}
	if a.IsLoopback() || a.IsUnspecified() { // the kernel takes an unspecified one for loopback
		return true
	}
	least := 0
	for _, m := range Metadata {
		if m.Contains(a) {
			least = m.Bits()
		}
	}
	for bits := least; bits <= a.BitLen(); bits++ {
		p, _ := a.Prefix(bits)
		if allowed, found := r.networks[p]; found && allowed.allow(port) {
			return true
		}
	}
	return false
}

// Allows reports whether a connection is allowed to an address that was learnt by a name,
// "" if by none.
func (r *EgressRules) Allows(name string, a netip.Addr, port int) bool {
	if r.AllowsAddress(a, port) {
		return true
	}
	if name == "" || IsMetadata(a) {
		return false
	}
	p, found := r.namePorts(CleanName(name))
	return found && p.allow(port)
}

// NameRule is a name and the ports that it is allowed for in all, nil for every port.
type NameRule struct {
	Name  string
	Below bool
	Ports []uint16
}

func (n NameRule) wild() string {
	if n.Below {
		return "*."
	}
	return ""
}

// Names returns the rules of names, so that the most specific that matches a name holds
// all the ports that the name is allowed for. In order, names before what is below them.
func (r *EgressRules) Names() []NameRule {
	var out []NameRule
	for name := range r.names {
		p, _ := r.namePorts(name)
		out = append(out, NameRule{name, false, p})
	}
	for name := range r.below {
		out = append(out, NameRule{name, true, r.belowPorts(name)})
	}
	slices.SortFunc(out, func(a, b NameRule) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(len(a.wild()), len(b.wild())))
	})
	return out
}

// belowPorts is what every name below a name that has such a rule is allowed for.
func (r *EgressRules) belowPorts(name string) ports {
	p := r.below[name]
	for above := name; ; {
		var ok bool
		if _, above, ok = strings.Cut(above, "."); !ok {
			return p
		}
		if wide, ok := r.below[above]; ok {
			p = p.union(wide)
		}
	}
}

// NetworkRule is a network and one port that it is allowed for, 0 for every port.
type NetworkRule struct {
	Network netip.Prefix
	Port    uint16
}

// Networks returns the rules of networks, in order.
func (r *EgressRules) Networks() []NetworkRule {
	var out []NetworkRule
	for n, p := range r.networks {
		if p == nil {
			out = append(out, NetworkRule{n, 0})
		}
		for _, port := range p {
			out = append(out, NetworkRule{n, port})
		}
	}
	slices.SortFunc(out, func(a, b NetworkRule) int {
		return cmp.Or(a.Network.Addr().Compare(b.Network.Addr()), cmp.Compare(a.Network.Bits(), b.Network.Bits()), cmp.Compare(a.Port, b.Port))
	})
	return out
}

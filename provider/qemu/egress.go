package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// proxyAddress is where a guest's HTTP proxy listens, on its own loopback.
const proxyAddress = "127.0.0.1:3128"

// egress is what machines may reach through the host. The zero value is nothing.
type egress []egressRule

// egressRule is one HOST:PORT of the configuration.
type egressRule struct {
	host string // a name, an address, "*.DOMAIN" or "*"
	port string // a number or "*"
}

// parseEgress reads HOST:PORT, where HOST may be "*" or begin with "*." and PORT be "*".
func parseEgress(text string) (egressRule, error) {
	bad := func(why string) (egressRule, error) {
		return egressRule{}, fmt.Errorf("egress: %q %s; write HOST:PORT, *.DOMAIN:PORT or *:PORT", text, why)
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return bad("has no host and port")
	}
	if n, err := strconv.Atoi(port); port != "*" && (err != nil || n < 1 || n > 65535) {
		return bad("has no port between 1 and 65535")
	}
	r := egressRule{strings.ToLower(host), port}
	if name := strings.TrimPrefix(r.host, "*."); r.host != "*" && (name == "" || strings.ContainsAny(name, "*/ \t@")) {
		return bad("has a * elsewhere than at its beginning, or no name")
	}
	if _, proxy, _ := net.SplitHostPort(proxyAddress); r.local() && (port == "*" || port == proxy) {
		return bad("cannot be listened for in the machine")
	}
	return r, nil
}

// local reports whether a rule names the loopback.
func (r egressRule) local() bool {
	ip, err := netip.ParseAddr(r.host)
	return r.host == "localhost" || err == nil && ip.IsLoopback()
}

func (r egressRule) match(host, port string) bool {
	if r.port != "*" && r.port != port {
		return false
	}
	if domain, ok := strings.CutPrefix(r.host, "*."); ok {
		return strings.HasSuffix(host, "."+domain)
	}
	return r.host == host || r.host == "*"
}

// listen are the addresses that a machine finds on its own loopback.
func (e egress) listen() (addresses []string) {
	for _, r := range e {
		if r.local() {
			addresses = append(addresses, net.JoinHostPort(strings.Replace(r.host, "localhost", "127.0.0.1", 1), r.port))
		}
	}
	return addresses
}

// proxy is where a machine's HTTP proxy listens, "" if there is nothing for it.
func (e egress) proxy() string {
	for _, r := range e {
		if !r.local() {
			return proxyAddress
		}
	}
	return ""
}

var errDenied = errors.New("the provider's egress does not allow it")

// dial connects to an address if the rules allow it. A rule by name or pattern never
// leads to an address that is not public, whatever the name resolves to: the host's
// loopback and its neighbours are reached only where their address is written down.
// What is connected to is what was looked at.
func (e egress) dial(ctx context.Context, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %q is no address", errDenied, address)
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	literal, err := netip.ParseAddr(host)
	if err == nil {
		literal = literal.WithZone("").Unmap()
		host = literal.String()
	}
	allowed, named := false, false
	for _, r := range e {
		rule := r
		if ip, err := netip.ParseAddr(r.host); err == nil {
			rule.host = ip.Unmap().String()
		} else if r.host == "localhost" {
			rule.host = "127.0.0.1"
		}
		if rule.match(host, port) {
			allowed = true
			named = named || rule.host == host && literal.IsValid()
		}
	}
	if !allowed {
		return nil, fmt.Errorf("%w: %s", errDenied, address)
	}
	addresses := []netip.Addr{literal}
	if !literal.IsValid() {
		if addresses, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
			return nil, fmt.Errorf("look up %s: %w", host, err)
		}
	}
	var failed error
	var d net.Dialer
	for _, ip := range addresses {
		ip = ip.Unmap()
		if !named && !public(ip) {
			failed = errors.Join(failed, fmt.Errorf("%w: %s is %s, which is not public and not listed by its address", errDenied, host, ip))
			continue
		}
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(ip.String(), port))
		if err == nil {
			return c, nil
		}
		failed = errors.Join(failed, err)
	}
	if failed == nil {
		failed = fmt.Errorf("look up %s: no address", host)
	}
	return nil, failed
}

// notPublic are networks that netip's own predicates do not cover: shared and
// reserved address space, protocol assignments, translation and tunnels, behind
// which any address can be.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("2002::/16"),
}

func public(ip netip.Addr) bool {
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(ip) {
			return false
		}
	}
	// The host's own public addresses are the host.
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok {
			if mine, ok := netip.AddrFromSlice(n.IP); ok && mine.Unmap() == ip {
				return false
			}
		}
	}
	return true
}

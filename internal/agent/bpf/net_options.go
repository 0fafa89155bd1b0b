package bpf

import (
	"context"
	"net/netip"
)

// netOptions are those of Options that are about the network.
type netOptions struct {
	// Always are entries, as in trace.Egress.Allow, that every policy allows: the control
	// plane, as "HOST:PORT".
	Always []string
	// ResolvConf are the files in which the machine's resolvers are named; nil for
	// /etc/resolv.conf and that of systemd-resolved. Their answers are believed.
	ResolvConf []string
	// Hosts is the machine's file of names; "" for /etc/hosts.
	Hosts string
	// NSSwitch is where it says how names are looked up; "" for /etc/nsswitch.conf.
	NSSwitch string

	// Tests have the sockets of daemons below root, and names of their own.
	root   string
	lookup func(ctx context.Context, network, name string) ([]netip.Addr, error)
}

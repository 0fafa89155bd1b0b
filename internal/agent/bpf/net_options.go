package bpf

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
}

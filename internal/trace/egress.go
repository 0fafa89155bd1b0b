package trace

// EgressMode says what a policy does about a connection that it does not allow.
type EgressMode string

// The modes, each stricter than the one before.
const (
	EgressOff     EgressMode = ""
	EgressAudit   EgressMode = "audit"   // marks it would_deny
	EgressLearn   EgressMode = "learn"   // the same, and the control plane proposes an allow list
	EgressEnforce EgressMode = "enforce" // refuses it in the kernel
)

// Egress is what a job may reach. Loopback, the machine's resolver and the control
// plane are always allowed.
type Egress struct {
	Mode EgressMode `json:"mode,omitempty"`
	// Allow are hosts ("proxy.golang.org"), wildcards ("*.example.com": any name below
	// it, at any depth, and not example.com itself), addresses and networks
	// ("192.0.2.0/24", "2001:db8::/32"), each with ":port" behind it if it is for one
	// port only ("[2001:db8::1]:443").
	Allow []string `json:"allow,omitempty"`
	// NoGitHub leaves out what GitHub's own services need, which is allowed otherwise.
	NoGitHub bool `json:"no_github,omitempty"`
	// GitHub is filled in by the control plane from GitHub's /meta and the address of
	// the server that the pool is registered at: hosts and networks as in Allow.
	GitHub []string `json:"github,omitempty"`
}

package muster

import "time"

// The states of a provider.
const (
	ProviderOK          = "ok"
	ProviderRefusing    = "refusing"    // it answers, and takes no machines for some pool
	ProviderUnreachable = "unreachable" // it does not even list its machines
)

// ProviderStatus is a configured provider and how it stands.
type ProviderStatus struct {
	Name string
	Kind string
	// Summary and Isolation are one sentence each, about the kind.
	Summary   string
	Isolation string
	// State is one of the Provider… constants, Detail says why it is not ok.
	State  string
	Detail string
	// Abilities are of console, price, keep, gpu and spot.
	Abilities []string
	// Instances counts what it lists, by state.
	Instances map[string]int
	// LookedAt is when it was asked, AnsweredIn how long it took.
	LookedAt       time.Time
	AnsweredIn     time.Duration
	ConnectTimeout time.Duration
	// Pools run on it, and Offerings are what they ask for.
	Pools     []string
	Offerings []Offering
	// Breakers are those that are not closed.
	Breakers []ProviderBreaker
	// Zones in the order in which they are tried.
	Zones []string
	// Check is the last test of it with its runner; nil if there was none.
	Check  *ProviderCheck
	Tester Runner
}

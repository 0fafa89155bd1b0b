//go:build linux && (amd64 || arm64)

package bpf

import "github.com/muster-ci/muster/internal/trace"

// network is the programs of net.c. The recorder opens it once it has its own maps, asks
// it for every event of its types, and closes it before them.
type network struct{}

func (r *Recorder) openNetwork() *network { return &network{} }

// describe adds what is missing of the network, or what is there besides.
func (n *network) describe(*trace.Recorder) {}

// follow begins the scope's policy, unfollow ends it.
func (n *network) follow(*Scope) error   { return nil }
func (n *network) unfollow(*Scope) error { return nil }

// decode turns an event with a type from evNetFirst on into those of a trace, begun by
// header.event; Timestamp and Container are put in by the caller.
func (n *network) decode(*Scope, header, []byte) []trace.Event { return nil }

// netType names the type of an event for what was lost of it.
func netType(uint16) trace.Type { return trace.NetConnect }

func (n *network) close() error { return nil }

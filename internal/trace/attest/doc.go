// Package attest makes signed statements about traces, and checks them without asking
// anybody.
//
// It owns the statement: an in-toto Statement v1 with a runtime-trace/v0.1 predicate, in
// a DSSE envelope signed with Ed25519. The subject's sha256 is the last link of the
// trace's chain, which is a SHA-256 over the link before it, the segment's number and the
// SHA-256 of the segment's bytes: it stands for every byte of the trace and for its
// order. Whoever has the segments computes it again; nothing of what the statement sums
// up has to be believed.
//
// It is pure: it reads no clock and no network and keeps no key. What it proves is that
// the control plane that holds the key took these segments under this seal, not that the
// machine told the truth: a job that is root can deceive a recorder before the seal.
// internal/inspect signs; `muster trace verify` checks.
package attest

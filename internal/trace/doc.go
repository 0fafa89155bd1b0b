// Package trace is the record of what one job did: its events and their text, the
// segments in which they travel, the chain of hashes that holds them together, the
// steps that they belong to, and the rules of egress.
//
// It owns shapes and pure functions, and never reads a clock, a file or a network.
// internal/agent and internal/agent/bpf make traces; internal/archive keeps them;
// trace/view, trace/query, trace/detect and trace/attest look at them. It imports
// little, because the agent carries it into every machine.
//
// A trace is JSON Lines: one independent object per line, each with type and
// timestamp. Lines are gathered into segments of zstd frames, numbered from 1. Each
// segment's link is a hash over the link before it and its own bytes, so that the
// last link, which the seal holds, stands for the whole trace and its order.
package trace

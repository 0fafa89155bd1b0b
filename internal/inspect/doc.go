// Package inspect is the use case of whoever wants to know what a job really did: it
// analyses traces once they are there, and answers questions about them.
//
// It owns what is made of a trace and when: its views, its index for queries, the findings
// of the rules, what is learnt from it, and its attestation. It owns searches over
// many traces, the comparison with earlier ones, and the proposal of an egress policy.
//
// It never takes a trace from an agent and never deletes one (internal/lifecycle does
// both), and it knows neither the archive nor the store, but as the ports Archive and
// Books. What is pure, the views, queries, rules and statements, is in the packages
// below internal/trace. internal/server builds an Inspector; lifecycle asks it to analyse,
// internal/api and internal/web ask it everything else, each through a port of its own.
package inspect

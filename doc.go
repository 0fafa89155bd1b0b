// Package muster is the domain of Muster, the control plane for self-hosted
// GitHub Actions runners: its nouns, their states, and the decisions about
// them.
//
// It owns what a job, a runner, a pool, an offering, a scope, a delivery and a
// receipt are; which changes of state are legal; which pool may serve which
// job; how many runners a pool should have (Plan); and why a job is still
// waiting (Explain). Every decision here is a pure function of a snapshot and a
// time that the caller passes in.
//
// It never does I/O, never reads the clock, never logs, and imports the
// standard library only. Everything else in the module may import it.
package muster

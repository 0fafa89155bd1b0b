// Package dryrun tells what other settings of a pool would have done: it runs
// recorded demand through muster.Plan in a simulation of discrete events, with
// boot times and durations as they were measured.
//
// It owns the simulation, its assumptions in words, and which settings may be
// tried. It is pure: it never does I/O, never reads a clock, never changes a
// pool, and gives the same answer for the same records. internal/api calls it.
package dryrun

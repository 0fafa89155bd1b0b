// Package demo runs the main job on one machine with nothing to install: the
// simulated GitHub, a control plane as one of its Apps, real runner processes,
// and a script of 40 jobs; and it holds the outcome against the promise.
//
// It writes a configuration file and loads it as `muster serve` does, so that
// what it shows is the product. It owns no logic of the control plane.
// internal/cli calls Run.
package demo

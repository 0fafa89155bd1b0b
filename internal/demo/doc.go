// Package demo runs the main job on one machine with nothing to install: the
// simulated GitHub, a control plane as one of its Apps, runners, and a script of 40
// jobs; and it holds the outcome against the promise. Runners are processes, or
// machines of a platform that is present: a stage makes what they need on it and
// removes it again.
//
// It writes a configuration file and loads it as `muster serve` does, so that
// what it shows is the product. It owns no logic of the control plane, and none of
// a provider. internal/cli calls Run.
package demo

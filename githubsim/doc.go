// Package githubsim is GitHub in a box: the parts of GitHub that a control plane
// for self-hosted Actions runners meets, as a server. It owns Apps and their
// tokens, installations, runner registrations and groups, workflow runs and jobs,
// the choice of a runner for a job, webhook deliveries with their log, rate
// limits, and the protocol that a runner program speaks. Everything lives in
// memory. Under one seed and one order of requests it makes the same choices.
//
// It imitates the protocol, not the product: where GitHub promises nothing, every
// number is a knob in Config and every misfortune a setting in Faults. The zero
// Config has no faults; Hostile has them all.
//
// It never imports the control plane it tests, and keeps its own books: Truth
// tells what really happened, whatever a client believes.
//
// The demo, the end-to-end tests, the benchmarks and the sim command call it; so
// may anyone who writes a client of GitHub's runner API.
package githubsim

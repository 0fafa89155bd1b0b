// Package cli is the command line of Muster: one file per noun.
//
// It owns the names of commands and flags, what they print for people and, with
// --json, for programs, and the exit status: 0 for done, 1 for failed, 2 for a
// mistake in the command line or the configuration. Everything that it shows or
// changes goes through the API of a control plane (gen/muster/v1); the commands
// that are one themselves (serve, demo) are injected by cmd/muster.
//
// It is the only package that reads flags, the environment and files for the
// control plane. It keeps no state, never opens a database and never talks to
// GitHub.
package cli

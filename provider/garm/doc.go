// Package garm is a host for GARM's external providers: programs that create and
// delete machines on one cloud each, called once per operation with their input in
// the environment and on standard input. Those that exist for AWS, Azure, GCP, OCI,
// OpenStack, LXD, Incus and others run unchanged.
//
// The package owns the calls and a directory of records, one small file per machine
// without a secret, written before a machine is asked for. The platform is what is
// believed: machines are found again by the pool id and the name that they were made
// with, both derived from the owner; a lost record costs a machine's time of creation
// and nothing else.
//
// It never talks to GitHub or to a machine. The machine's script fetches what it needs
// from the control plane (internal/garm) with the boot token, which this package hands
// to the executable on standard input and to nobody else.
package garm

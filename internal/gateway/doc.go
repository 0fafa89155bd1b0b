// Package gateway is the part of Muster that Slurm trusts: the role slurm-gateway. It
// turns a launch token of the control plane into a Slurm job, and holds what decides
// whom that job runs as.
//
// It trusts the control plane for nothing but what is in the token, whose signature it
// verifies by itself with a public key. The map from where a runner registers to a Slurm
// user lives here alone, so that whoever steals the secret of the control plane, or
// its database, can run no code as a user that the site did not map. Every route asks
// for the shared secret, compares it in constant time, and logs neither it nor a
// token.
//
// It never talks to GitHub, never sees a credential of GitHub, and keeps no state.
// internal/server builds it; behind its port Slurm is the cluster of provider/slurm.
package gateway

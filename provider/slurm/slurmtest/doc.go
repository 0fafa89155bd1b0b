// Package slurmtest starts a real Slurm cluster on one machine for tests: munge,
// slurmctld, slurmrestd with JSON web tokens, and several slurmd that pose as
// nodes. It needs the programs of Slurm and munge, neither systemd nor control
// groups nor root; as root, jobs run as their own users.
//
// Everything lives in a directory of the test's own and ends with the test. Only
// tests call it.
package slurmtest

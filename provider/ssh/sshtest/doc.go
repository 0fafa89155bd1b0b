// Package sshtest starts OpenSSH servers for tests: each on a port of the loopback
// address, with keys, settings and logs of its own in a directory of the test. It is
// imported by tests only, and ends what it has started.
package sshtest

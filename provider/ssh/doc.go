// Package ssh runs every runner on one of some machines that exist already and that
// the control plane reaches over SSH: in a session and a directory of its own, as the
// user that it logs in as, with no more than a POSIX shell, util-linux and sshd on
// the other side. It is for the small fleet of build machines that a team has.
//
// It owns one directory per owner below each host's root. What it knows, it knows from
// there: a runner's directory is made before anything is started in it, the agent
// carries the instance's name in its environment, and a process is identified by
// pid, start time and boot. A control plane that was killed, or cut off, therefore
// finds, lists and deletes what the one before it had started, and several may share
// the hosts. What runs on a host is program.sh, which arrives with every call over
// standard input; locks are flock(2) on the host. The muster-agent program is sent
// once, and kept by its checksum.
//
// A new runner goes to the host with the most free slots. A host that cannot be
// reached is passed over for a while, and the next one is tried; but what may have
// been started on it counts as there until it can be asked: an unknown machine is
// not a gone one.
//
// A host's key is always verified: against a fingerprint, a key, or known_hosts.
// Nothing that users choose becomes text of a shell, and the boot token is in no
// argument, environment or file.
//
// Isolation is that of a process and a user of the host. It never talks to GitHub or
// to the control plane; the agent does. Each connection has one goroutine that keeps
// it alive, and each call one; Close waits for them. internal/server builds it,
// internal/lifecycle and internal/fleet call it.
package ssh

// Package agent is what runs inside a machine: it trades the boot token for a
// just-in-time configuration, or for a registration token, at the moment at which
// the runner can listen, starts GitHub's runner, tells the control plane what it
// sees, and takes everything down when the runner has ended.
//
// It owns the runner's processes, its output and the reports. It never has a
// credential of the App, never talks to GitHub, and never decides what a job is
// worth: a job that runs is ended only by CommandStop, by the maximum age or by a
// signal to the agent. It imports the standard library, internal/wire,
// internal/proc and the domain's Secret, so that it stays small. cmd/muster-agent
// calls Main.
//
// The agent goes through these steps once:
//
//	prepare   find run.sh, unless it is to be downloaded
//	boot      POST /v1/agent/boot, again and again while the answer may be lost (same nonce)
//	download  if allowed, and run.sh is absent or of another version: fetch, verify, unpack
//	register  with a token: config.sh, the token in its environment
//	start     run.sh in a process group of its own, a JIT configuration in its environment
//	watch     the runner's output → reports; heartbeats, commands, deadlines → signals
//	end       kill every descendant, ship the output, report "finished", exit
package agent

// Package agent is what runs inside a machine: it trades the boot token for a
// just-in-time configuration, or for a registration token, at the moment at which
// the runner can listen, starts GitHub's runner, tells the control plane what it
// sees, and takes everything down when the runner has ended.
//
// It owns the runner's processes, its output and the reports. It never has a
// credential of the App, never talks to GitHub, and never decides what a job is
// worth: a job that runs is ended only by CommandStop, by the maximum age or by a
// signal to the agent. It imports little, so that it stays small: internal/wire,
// internal/proc, internal/guest, internal/trace, internal/agent/bpf and the domain's Secret.
// cmd/muster-agent calls Main.
//
// The agent goes through these steps once:
//
//	prepare   find run.sh, unless it is to be downloaded
//	boot      POST /v1/agent/boot, again and again while the answer may be lost (same nonce)
//	download  if allowed, and run.sh is absent or of another version: fetch, verify, unpack
//	register  with a token: config.sh, the token in its environment
//	record    if asked to: open the recorder, or find out why there is none
//	start     run.sh in a process group of its own, a JIT configuration in its environment;
//	          if it is recorded, behind a gate until its process is followed
//	watch     the runner's output → reports; heartbeats, commands, deadlines → signals
//	end       kill every descendant, seal the trace, ship the output, report "finished", exit
//
// Traces have a way of their own beside it: recorder → tracer, which holds events until the
// runner's log (worklog) has said which step they belong to, numbers them and closes
// segments → traceBox, which delivers them in order. A runner of one job makes one trace, a
// kept runner one per job; a runner without a job makes none. With "record" as its first
// argument the program is a node's recorder instead, which is lent to agents without the
// right to have one (record.go).
package agent

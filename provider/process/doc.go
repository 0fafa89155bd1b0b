// Package process runs every runner as processes of this machine: in a session,
// a directory and, where the machine has them, control groups of its own. It is
// the provider for trying Muster out, for small teams with one big machine, and
// for tests of everything above a provider.
//
// It owns one directory per owner below Config.Root (package instancedir). What it
// knows, it knows from the machine: a runner's directory, with state.json in it, is written before
// anything is started, the agent carries the instance's name in its environment
// and its control group, and a process is identified by pid and start time. A
// control plane that was killed therefore finds, lists and deletes the runners of
// the one before it, and they live through its end. Locks are flock(2) on the
// directories, so that several control planes may share a machine.
//
// Below Config.MachinesDir it keeps machines: runners that somebody has registered
// by hand, and that it starts and stops without ever removing one.
//
// Isolation is that of a process: runners share the kernel, the network and, unless
// Config.User says otherwise, the user of the control plane. A job that runs as a
// user who may write to Config.RunnerDir can change the runner of later jobs. Use
// it for code that you trust; other providers give every job a machine.
//
// It never talks to GitHub or to the control plane; the agent that it starts does.
// It starts no goroutines. internal/server builds it, internal/lifecycle calls it.
// It works on Linux; elsewhere New returns an error.
package process

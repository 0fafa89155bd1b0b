// Package runner is the runner program of the simulated GitHub: it has the
// command line, the files, the output and the exit codes of GitHub's own runner,
// speaks the protocol of githubsim, and executes the `run:` steps of jobs.
//
// It owns what a real runner does on its machine: the JIT files, the OAuth
// assertion, session and long poll, acquiring and renewing a job, steps in a
// shell with the environment files and workflow commands, actions/checkout from
// the simulator's repositories, hooks, cancellation, logs, and leaving. It never
// parses workflow files and never decides which job it gets. Other actions than
// actions/checkout are not executed: such a step is skipped, by name in the log.
// Unlike the real one it does not refuse to run as root.
//
// cmd-like programs call Main (githubsim/actions-runner does nothing else);
// WriteDir makes a directory with run.sh and config.sh as a provider expects it.
// Facts about the real runner are from actions/runner 2.336.0, see the
// descriptions at the places.
package runner

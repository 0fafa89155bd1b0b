// Package bpf records what jobs do, by programs in the kernel: processes, files,
// attempts on other processes and on the recorder itself (record.c), and connections
// and names (net.c).
//
// A Recorder holds the programs; it serves any number of jobs at once, each through a
// Scope. Container engines that work for one job alone are in its scope, with a mark that
// says what is still the engine and what a container (Follow.Engines, engines_linux.go). A Recorder
// owns what it has loaded, one cgroup for each scope that it made itself, and nothing that
// outlives it: nothing is pinned, and what a killed recorder has left is removed by the next.
// It never writes a trace, numbers an event or knows a step: internal/agent does.
//
// Every hook is optional. What a machine does not allow is left out and told, with the
// reason, in Recorder.Describe; on systems other than Linux that is everything.
package bpf

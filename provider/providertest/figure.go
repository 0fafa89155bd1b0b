package providertest

import (
	"fmt"
	"strings"
)

// FigurePrefix begins the line of a figure in a test's output.
const FigurePrefix = "muster-provider-figure"

// What the table of docs/providers/README.md has columns for, besides the checks of
// Run, which it counts by itself.
const (
	// FigureConnect is the median time from Create to the agent's connection, with
	// the number of runs: "41 ms (n=20)".
	FigureConnect = "create-to-connect-p50"
	// FigureMemory is what one idle runner keeps of this machine's memory: "38 MiB".
	FigureMemory = "memory-per-idle-runner"
	// FigureFault names one fault that the platform was really put through and that
	// the provider survived: "creation refused", "machine killed during the job". It is
	// printed once for each, at the end of the test that proves it.
	FigureFault = "fault-survived"
	// FigureChaos is what the chaos of e2e came to: "100 runners, 5 kills, 0 leaked".
	FigureChaos = "chaos"
)

// Figure logs one figure of a provider in the form that the table of providers is
// made from:
//
//	muster-provider-figure kind=process what=create-to-connect-p50 value="41 ms (n=20)"
//
// A test that failed prints figures too; who collects them leaves out those of tests
// that did not pass.
func Figure(t interface {
	Helper()
	Logf(format string, args ...any)
}, kind, what, value string) {
	t.Helper()
	t.Logf("%s kind=%s what=%s value=%q", FigurePrefix, kind, what, strings.Join(strings.Fields(value), " "))
}

// Checks are the names of the checks that Run runs, in their order.
func Checks() []string {
	out := make([]string, 0, len(checks))
	for _, c := range checks {
		out = append(out, c.name)
	}
	return out
}

// Survived is Figure for faults.
func Survived(t interface {
	Helper()
	Logf(format string, args ...any)
}, kind string, format string, args ...any) {
	t.Helper()
	Figure(t, kind, FigureFault, fmt.Sprintf(format, args...))
}

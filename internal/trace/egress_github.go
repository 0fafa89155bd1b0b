package trace

import "slices"

// Reachable returns the entries of GitHub's that Egress.GitHub is to hold: those that can be
// read, in their own writing, once each and in order.
// What cannot be read, and whole shared domains such as *.blob.core.windows.net, on which
// anybody can rent a name, is left out: one new kind of line must not stop every job.
func Reachable(entries []string) []string {
	var out []string
	for _, text := range entries {
		d, err := ParseDestination(text)
		if err != nil || d.Below && shared(d.Name) {
			continue
		}
		out = append(out, d.String())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

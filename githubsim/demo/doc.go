// Package demo is an organization "acme" with three repositories whose workflows
// give exactly 40 jobs, and the script that triggers, cancels and re-runs them.
//
// It owns the files, the order of events and the table of outcomes that they must
// have whoever runs the jobs; it never starts runners and knows nothing of a
// control plane. Muster's demo and its end-to-end tests call Setup, Script and
// Verify; a matrix, needs, dynamic and failing jobs, a cancelled queue entry, a
// cancelled running job, a job that nobody serves and a re-run of failed jobs are
// among the 40. None of them is skipped or copied, so each is a job of its own
// towards every observer. Steps need a shell and coreutils, and last 3 s at most.
package demo

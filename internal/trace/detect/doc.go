// Package detect finds in a trace what should not be there: it runs rules over the
// events of a job, compares the job with what earlier runs of it did, and looks for
// known indicators.
//
// It owns the language of rules (YAML around CEL expressions, with tests beside each),
// the rules that are shipped (rules/), the baseline of a job, and the indicators of a
// retroactive scan. It is pure: it reads no clock, no network, and no file but those of
// the folder of rules that it is given; it keeps nothing and tells nobody. Memory is
// bounded whatever the trace holds: each table has a limit, and the oldest goes first.
//
// internal/inspect runs it over finished traces; docs/detections.md is made from its
// rules and from the replays of published incidents under replays/.
package detect

// Package schedule turns the cron expressions of a pool's schedules into windows:
// from when until when which limits hold.
//
// It owns what a cron expression means here: five fields, in an IANA time zone,
// with days on which clocks change. It is pure: it reads no clock, and the time
// zones are built in, so that an answer does not depend on the machine. It decides
// nothing; muster.Plan does, from the windows that its callers (internal/lifecycle,
// internal/server and internal/api for past times) ask for. internal/config asks
// whether an expression can be read.
package schedule

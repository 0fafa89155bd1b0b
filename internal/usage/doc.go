// Package usage turns what happened into what it cost: price book, receipts of
// jobs, waste of runners that never ran one, percentiles.
//
// It owns how time is rounded and priced. It is pure: it never does I/O, never
// reads a clock, and never decides what is written or how often; the store keeps
// one receipt per attempt and one line of waste per runner. The lifecycle calls
// it when a job or a runner ends; whoever shows numbers calls Percentile.
package usage

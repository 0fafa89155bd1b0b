// Package bench measures what the documentation claims, as ratios and
// percentiles of one run on one machine, because absolute times of a shared
// machine say little. Run it with make bench; results are kept in bench/results.
package bench

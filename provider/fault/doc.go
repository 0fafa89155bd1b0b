// Package fault stands before a provider and makes some of its calls go wrong, by
// chance and repeatably: refused, failed for now, done with the answer lost, hanging,
// and answered with nonsense. It is for proving that nothing leaks, on real platforms
// and with real control planes: internal/server puts it before every provider when
// MUSTER_FAULTS is set, and says so loudly.
//
// It never says ErrNotFound of an instance that may be there. That answer is proof
// that a machine is gone, and a platform that lies with it cannot be trusted at all.
package fault

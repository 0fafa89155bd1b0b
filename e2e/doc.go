// Package e2e stands a whole Muster up for stories and benchmarks: the simulated
// GitHub in this process, the real programs beside it, everything on loopback and
// in a temporary folder. Its tests are stories of users; bench measures with the
// same stand.
//
// It holds no logic of the product. Only tests import it.
package e2e

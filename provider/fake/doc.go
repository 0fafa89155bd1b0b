// Package fake is the reference implementation of provider.Provider: a platform
// in memory (Cloud) and clients of it (Provider). It passes
// provider/providertest like every real provider, and it can do what real
// platforms do on bad days: be slow, be full, fail, hang, lose the answer to a
// call that succeeded, and answer nonsense.
//
// It owns its machines and waits for their goroutines in Cloud.Close. It never
// runs a process; a hook can run an agent inside the test instead. Tests, the
// bench and `muster sim` call it. All times pass through package time, so that it
// runs in a testing/synctest bubble.
package fake

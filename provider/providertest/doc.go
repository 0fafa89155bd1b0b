// Package providertest is the conformance suite of provider.Provider: one set of
// checks that every provider passes, the fake included. A provider's own test
// calls Run with a Harness that says how to open the provider, how to look at its
// platform without it, and what the platform cannot do.
//
// It knows no platform. Its own test runs every check against providers that are
// wrong on purpose and expects the check to say so.
package providertest

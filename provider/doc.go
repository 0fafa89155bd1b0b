// Package provider is the contract between Muster and the platforms on which
// machines run. Each platform is one package below this one; provider/fake is
// the reference implementation, and provider/providertest is the suite that
// every implementation passes, the fake included.
//
// It owns the words Spec, Instance and the classes of errors. It never talks to
// a platform itself, and a provider never talks to GitHub, to the store or to
// another provider. internal/lifecycle calls providers; internal/server builds
// them.
package provider

// Package github is Muster's client of GitHub's REST API: one Client per
// configured App (or token), for the routes that Muster needs and no others.
//
// It owns how Muster proves who it is (App JWT, installation tokens, a personal
// access token), how long it waits, what it repeats and what it never repeats,
// how much of the rate limit is left for whom, and the classes of errors that
// callers see. A scope is a value here too: repository, organization and
// enterprise share every code path. Scale sets are spoken to by GitHub's own
// client, actions/scaleset, above a transport of ours.
//
// It never stores or logs a credential, never decides about runners, and never
// repeats a request that may have made something. internal/server builds
// clients; the use cases see them through small ports of their own.
package github

// Package api is how programs talk to the control plane: the Connect services of
// gen/muster/v1 for operators, and the JSON routes of internal/wire for agents.
//
// Every call of a service goes through one funnel (funnel.go): authenticate,
// authorize, handle, count, and answer errors from one table. Reads go to the
// store; commands go to internal/lifecycle, never around it. What the API shows
// is converted from the domain in convert.go and nowhere else.
//
// It owns the shapes that operators' programs depend on and the rule that no
// internal error's text leaves the process. It never writes to the store, never
// calls GitHub or a provider, and imports neither the store nor the lifecycle:
// it declares the ports it needs (ports.go). internal/server builds it and mounts
// it; internal/cli is its first client.
package api

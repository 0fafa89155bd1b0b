// Package ingress is how GitHub tells Muster what happens: webhooks, and the
// repair of webhooks that were lost.
//
// It owns the road of a delivery. Webhook verifies it by the secret of the App
// that its URL names, saves it durably and answers; Dispatcher reads what was
// saved, turns it into the domain's events (Parse) and hands them to the Sink;
// Redeliverer asks GitHub again for what never arrived. A crash between any two
// of those steps loses nothing: the inbox remembers, and the Sink is idempotent.
//
// It never decides about pools or runners, never calls GitHub except through the
// Hooks port, and never trusts a payload for the workspace that it belongs to.
// internal/server builds its parts and runs them.
package ingress

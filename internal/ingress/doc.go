// Package ingress is how GitHub tells Muster what happens: webhooks, the repair of
// webhooks that were lost, polling, and scale sets.
//
// It owns the road of a delivery. Webhook verifies it by the secret of the App
// that its URL names, saves it durably and answers; Dispatcher reads what was
// saved, turns it into the domain's events (Parse) and hands them to the Sink;
// Redeliverer asks GitHub again for what never arrived. A crash between any two
// of those steps loses nothing: the inbox remembers, and the Sink is idempotent.
// Poller asks for runs and their jobs, for pools without a webhook and for what
// no webhook told, and hands the same events to the same Sink. ScaleSetListener
// holds the session of a pool's scale set: what GitHub says there lies in the
// ledger before it is acknowledged, and reaches the Sink from the ledger, once it
// is known which job it is about.
//
// It never decides about pools or runners, never calls GitHub except through the
// ports Hooks, PollSource and ScaleSets, and never trusts a payload for the workspace that it belongs to.
// internal/server builds its parts and runs them.
package ingress

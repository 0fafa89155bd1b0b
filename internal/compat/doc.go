// Package compat serves the HTTP endpoints of the runner manager for machines that
// exist already: POST /github/webhook, /runner/start and /runner/stop, GET /health
// and GET /, with the bodies, statuses and headers that its callers know.
//
// It owns those words, the shared secret and what is derived from it, and the tasks
// by which an outside queue wakes a control plane that may be asleep. It decides
// nothing: what becomes of a machine is asked of a port, and a webhook is handed to
// the handler that makes it durable. It never calls GitHub or a platform.
// internal/server builds it.
package compat

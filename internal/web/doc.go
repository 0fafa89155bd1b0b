// Package web is Muster's dashboard: pages rendered on the server from what the
// store knows, kept fresh in the browser by one small script.
//
// It owns the pages, their style and script, the live stream that tells a
// browser what has changed, the sign-in with the operator's token, and the forms
// by which an operator drains a runner, changes a pool or dispatches a delivery
// again. Every page and every form works without JavaScript; the script adds
// liveness and keys.
//
// The pages about traces show text that a hostile job may have chosen: tracetext.go
// says how. Their drawings are laid out here and are SVG in the page; trees are fetched
// piece by piece, and each piece is a page for whoever has no script.
//
// It never reads a database, calls GitHub or talks to a provider by itself: it
// asks the small ports in ports.go, which the server package fills. It loads
// nothing from any other host.
//
// The server package calls New and mounts the handler at the root.
package web

// Package secretbox keeps secrets unreadable at rest and mints the tokens that
// machines start with.
//
// It owns the key file, the sealing of bytes that have to lie in a database or
// in a workflow's history (Box), the boot tokens (Tokens) and the form of the
// agents' session tokens (NewSession).
//
// It never stores anything but the key file, never logs, and never reads the
// clock. The server builds a Box once and hands it to the store, the engine and
// the lifecycle; nobody else sees a key.
package secretbox

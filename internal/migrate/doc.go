// Package migrate writes the configuration of Muster that is equivalent to what
// another control plane is configured with: the database of GARM, the values of
// ARC's chart or the objects of its older version.
//
// It is pure: it is given what was read and returns text, with a comment for
// everything that has no equivalent and why. It never writes a secret: where one is
// needed, the text names a file or a variable to put it in. internal/cli calls it.
package migrate

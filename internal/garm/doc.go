// Package garm answers the machines that GARM's external providers make: the scripts
// that those providers put into their machines' user data fetch what a runner needs
// from GARM's own paths, and report to them. provider/garm makes the machines and
// names these paths to them; the life of a runner is internal/lifecycle's, which this
// package calls through the ports beside it.
//
// A script proves itself with its machine's boot token. The first call for credentials
// registers a runner; the three files of that registration are kept, sealed, until the
// runner listens, and then the token is good for nothing more.
//
// It never talks to GitHub or to a platform, and nothing that it answers is put
// together from text that a machine or a job can choose.
package garm

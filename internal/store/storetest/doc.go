// Package storetest proves that a store.Store keeps its promises, and gives
// tests of any package a real database to run on.
//
// It owns the one conformance suite that runs on SQLite and on PostgreSQL (Run),
// and the private PostgreSQL server of a test binary (Main, Postgres).
//
// It is for tests only and is never imported by the program.
package storetest

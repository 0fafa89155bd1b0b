// Package store keeps everything that Muster must not forget: deliveries, jobs,
// runners, decisions, receipts and the rest, in SQLite or PostgreSQL.
//
// It owns the schema, its migrations, and the rule that every method is one
// transaction. One SQL text serves both databases (docs/adr/0003-one-sql-text.md).
// A column exists only where SQL filters, sorts or joins; the rest of a row is
// one JSON document of the domain's type, so the exported field names of those
// types are a stored format: rename one only together with a migration.
//
// Every row that belongs to a tenant has its workspace, and every query of such
// rows names it: what another workspace owns is CodeNotFound or absent. Times
// are kept in UTC with microseconds. No credential is kept at all: boot tokens
// are known by their id, sessions by their hash.
//
// It never calls the network (but for the database), never decides anything
// about pools or runners, never reads the clock for a row, and never logs. The
// server opens one Store; ingress, lifecycle, api and web use it through ports
// of their own.
package store

// Package query answers questions about events: a language, and an index that makes it
// fast over many traces.
//
// A question is an expression of CEL (the Common Expression Language) over the fields of
// one event, under their JSON names: type == "dns_query" && hostname.endsWith(".xyz").
// Compile checks it, Match asks it of one event, Scan of an index: a Parquet file of one
// trace with a column for each field, which other tools read as well. Scan and Match
// agree on every event; the index only spares work.
//
// It is pure but for the io.Writer and io.ReaderAt that it is given, and never decides
// where an index is kept. internal/inspect asks users' questions with it, and
// trace/detect states its rules in it. docs/traces-query.md is the language for users.
package query

// Package view makes of a trace what people look at: an overview, the steps, the tree
// of processes, the network, the files, where the time went, and what is different
// from another run.
//
// It is pure: events come in, a value comes out. It never reads a clock, a file or a
// network, decides nothing about guilt (trace/detect does) and holds no more memory
// for a million events than for a hundred thousand: what is beyond a limit is folded
// into counts, the least interesting first, and every list says how much was folded.
//
// internal/inspect builds the views when a job ended (and while it runs), stores them
// with Encode, and hands them to the API, the pages and the command line.
package view

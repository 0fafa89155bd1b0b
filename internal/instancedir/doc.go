// Package instancedir keeps the instances that a provider runs as processes of this
// host: a directory for each below its owner's, with what is known of it in state.json,
// and a mark in the environment of its processes by which they are found again when the
// directory, or the record in it, is gone.
//
// It owns the names, the locks and the order of steps that let any number of control
// planes and calls work on the same directories and die at any moment: a directory
// appears whole and locked, or not at all; the stage is written before the step that it
// names; state.json is the last to go. It never starts, signals or ends a process, and it
// does not know what one is for: provider/process and provider/qemu say that.
//
// Everything but Elsewhere is Linux's only.
package instancedir

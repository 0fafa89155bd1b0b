// Package archive keeps the events of traces in a bucket: a folder, S3, Google Cloud
// Storage or Azure, whichever the URL names.
//
// It owns the layout of the bucket and the form of its objects:
//
//	WORKSPACE/RUNNER/NUMBER/segments/00000001.zst   a segment, as the agent made it
//	WORKSPACE/RUNNER/NUMBER/NAME                    what was derived from them
//
// A segment's object is a Zstandard file: first a skippable frame with what the agent
// said of the segment, as JSON, then the agent's own frame. So `cat segments/*.zst |
// zstd -d` gives the JSON Lines without Muster. A segment is never written twice;
// what is derived may be.
//
// What it reads of a whole trace it checks against the chain of hashes. It never decides
// how long anything is kept, never looks into events but to hand them on, and every name
// in it begins with the workspace, so that no call reaches into another one. The server
// opens one Archive; lifecycle, inspect and the housekeeping use it through ports of their
// own.
package archive

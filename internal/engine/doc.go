// Package engine is Temporal as Muster uses it: the whole server embedded in
// this process on a SQLite file, or an external cluster by address. Both give
// the same client, on which the same workflows run.
//
// It owns how the engine is started, stopped and reached, and that payloads and
// failure texts are encrypted before they leave the process. It knows nothing
// of jobs or runners; internal/lifecycle brings the workflows, internal/server
// opens the engine.
package engine

// Package replays holds what the rules of internal/trace/detect are tried with: harmless
// re-enactments of published attacks on builds (testdata/incidents), and ordinary builds
// (testdata/builds). Each is a job of a few steps that runs for real under the real
// recorder, in a network namespace in which every name and address is a stand-in on
// this machine, so that nothing leaves it. It owns no code but tests; docs/detections.md
// is made by them (go test ./internal/trace/detect/replays -update).
package replays

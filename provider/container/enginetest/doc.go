// Package enginetest runs container engines for tests: a Podman service, and a
// Docker daemon, each with its own storage in the test's directory, an image made of
// nothing but busybox, and gVisor's runtime, built from the Go module proxy once and kept.
//
// Everything runs in namespaces of its own (mounts, network, processes) that Main or
// Isolate make, so that nothing is left of engines, containers, bridges and chains
// when the test's process ends, however it ends. It needs Linux and root; a test that
// cannot have them is skipped with the reason, and fails where CI=true. A test of what is
// recorded of containers has to be among the machine's own processes: IsolateOnNode ends
// them one by one when the test does.
//
// Tests of provider/container, and the stories of e2e and bench that use it, call it.
package enginetest

// Package container runs every runner in a container of a Docker-compatible
// engine, over the engine's socket: Docker and Podman are tested.
//
// The engine is the only memory. A container is named after its runner and its
// owner, and carries both and all else that is to be known of it as labels, so that
// any control plane of the owner finds, lists and deletes what an earlier one made,
// also what was created and never started. The boot token goes to the agent's
// standard input, over a connection that is attached before the container starts:
// it is in no argument, environment, file or label, and an agent whose control plane
// dies before it has written the token reads the end of its input and leaves.
//
// What a job is isolated by is checked, not assumed: the engine is asked which
// runtime a container got before it starts, and one that got another than the
// configured class demands is removed, and the runner refused.
//
// An optional second container with an engine of its own ("sidecar") serves jobs that
// use Docker. It shares the runner's network and volumes, and is removed before the
// runner's container, so that whatever is left of a runner still carries its labels.
//
// It also starts and stops containers that somebody else has made and labelled as
// kept; it never removes one.
//
// It never talks to GitHub or to the control plane; the agent does. Its only
// goroutines pull images, outlive the call that began them, because an image may take
// longer than a call may, and end with Close or after Config.PullTimeout.
// internal/server builds it, internal/lifecycle calls it.
package container

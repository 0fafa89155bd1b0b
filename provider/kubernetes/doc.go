// Package kubernetes runs every runner as one bare pod that is never restarted, in
// a namespace of its workspace.
//
// A pod is named after its runner and its owner, carries both as labels, and holds
// no credential of the cluster. The boot token travels in a Secret that belongs to
// the pod: an init container moves it to memory, together with the agent, and the
// Secret is removed as soon as that has happened; the job never sees a mount of it.
//
// What is there is asked of the API server, so that a control plane that was killed
// finds everything again. Watches, one set for each namespace, add what a single
// look cannot tell: warnings about a pod that does not start, why one has gone,
// which sizes have no room. Their goroutines, and one that removes Secrets, belong
// to the Provider and end with Close.
//
// Where it may, it makes the namespace with everything that fences it: network
// policy, quota, limits, service account, disruption budget and the binding of the
// one role that it needs there. deploy/kubernetes and deploy/helm have that role.
//
// It never talks to GitHub or to the control plane; the agent that it starts does.
// internal/server builds it, internal/lifecycle calls it.
package kubernetes

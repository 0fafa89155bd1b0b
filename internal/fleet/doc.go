// Package fleet runs the pools of a fleets file without a control plane: a loop
// in one process that asks GitHub for the queue, decides, and makes and ends
// one-job runners. `muster github-runner run` is this package.
//
// It is four modules behind narrow interfaces (ports.go), none of which knows
// another: a Provisioner (GitHub's side of a runner), a QueueMonitor (which jobs
// wait), an Autoscaler (pure; muster.Plan), and a provider.Provider (machines).
// What joins them is the lifecycle of a runner, here:
//
//	check.go   every minute: queue → decision → runners made and drained
//	life.go    one runner: machine → agent → registration → job → gone
//	boot.go    what the runner's agent asks and tells
//	health.go  every two minutes: GitHub's list and the platform's, against ours
//	recover.go what an earlier run left is found again at the start
//
// It keeps nothing that would be missed: runners are found again by the names of
// their registrations and the tags of their machines, and agents by tokens that
// are computed, not stored. Jobs are not recorded and there are no receipts; who
// wants those runs the control plane, which takes the same file.
//
// It never holds a GitHub credential: the Provisioner does. internal/server joins
// it with the GitHub client, a provider and the routes of internal/api.
package fleet

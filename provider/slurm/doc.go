// Package slurm runs GitHub Actions runners as jobs of a Slurm cluster.
//
// A Provider speaks to the cluster in one of three ways. By default it asks a
// gateway, a small Muster process inside the cluster's own trust domain, and holds
// no credential of Slurm at all. It can also call slurmrestd, or run sbatch, squeue
// and scancel, where the control plane itself is trusted with a Slurm user. A Cluster
// is what stands behind the second and the third way, and behind the gateway.
//
// Everything that is known of a runner's job is in Slurm: the job's comment names
// the control plane, the runner, its workspace and its pool. Slurm has no idempotent
// submission, so Create looks for the runner's job, submits, and looks again; jobs of
// one runner have one name and the dependency "singleton", so that of two which were
// submitted at once the second cannot start before it is cancelled. What a Cluster
// keeps beside Slurm, in Config.StateDir, are notes that a job which has ended was
// deleted, because Slurm goes on showing it for some minutes; losing them is harmless.
//
// The boot token reaches the job by the job's environment, which Slurm shows to
// nobody; the job's first act is to move it out of there. It is in no argument, no
// script, no comment and no log.
//
// The package never talks to GitHub, never decides whose code may run as whom (the
// gateway does), and starts no goroutines. internal/server builds it, for a provider or
// for the gateway.
package slurm

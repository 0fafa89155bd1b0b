// Package lifecycle is what Muster does about jobs, pools and runners: the
// Temporal workflows, their activities, and the client through which the rest of
// the program reaches them.
//
// It owns
//
//   - client.go: the Sink of events. It maps an installation to a workspace,
//     records the job, picks its pool and wakes the workflows concerned.
//   - pool.go: one workflow per pool, the single writer of its size. It takes a
//     snapshot, asks muster.Plan, records the decision and starts runners.
//   - runner.go, step.go: one workflow per runner, from launch to proven gone. A
//     pure function decides the next step from the runner's row and the time;
//     signals only wake it.
//   - job.go: one workflow per attempt of a job, from first news to its receipt.
//   - sweep.go: the comparison of providers, GitHub and store.
//   - boot.go: what agents ask: a boot token for a JIT config, reports, logs.
//
// Workflows of installations, runs and kept machines will stand beside these.
//
// It never speaks SQL, HTTP or a platform's language: ports.go declares what it
// needs of the store, of GitHub and of the token mint, and provider.Provider is
// the contract for machines. internal/server builds it; internal/ingress,
// internal/api and internal/web call it through ports of their own.
package lifecycle

package lifecycle

import (
	"fmt"
	"time"

	"github.com/muster-ci/muster"
)

// act is what to do about a runner next.
type act string

const (
	actLaunch     act = "launch"     // ask the provider for a machine
	actWait       act = "wait"       // until a signal or Until
	actProbe      act = "probe"      // ask the provider whether the machine still lives
	actDeregister act = "deregister" // take it off GitHub; refused while busy
	actDestroy    act = "destroy"    // the machine may go now
	actDone       act = "done"       // nothing is left
)

// step is the next step of a runner and why.
type step struct {
	Act    act
	Until  time.Time
	Reason string
	// Failed is set when the runner goes because something went wrong.
	Failed bool
	// BusyKill is set when a runner is ended that may be running a job, which only
	// its maximum age allows.
	BusyKill bool
}

// limits are the times that bound one runner.
type limits struct {
	Connect time.Duration
	// Queues: Connect counts from when the machine was seen to run.
	Queues    bool
	Register  time.Duration
	NoJob     time.Duration
	MaxAge    time.Duration
	AgentLost time.Duration
	Sealed    time.Duration
	// ByName: the runner registers itself, and may have done so before its id is known.
	ByName bool
}

// registerWithin is how long an agent may take from connecting to listening: it
// may have to download the runner, and GitHub may make it wait.
const registerWithin = 10 * time.Minute

// noJobMargin is what the control plane waits beyond the agent's own no-job
// deadline before it steps in: the agent knows better.
const noJobMargin = time.Minute

// next decides the next step of a runner from its row and the time, and nothing
// else. jobDone is when GitHub reported the runner's job completed, zero before.
//
// The order of the cases is the order of certainty: what is proven gone, what
// has ended, what was asked for, what is overdue. A runner that is or may be
// busy is only ever waited for, probed, or ended by its maximum age (4-17, 4-18).
func next(r muster.Runner, jobDone time.Time, l limits, now time.Time) step {
	switch {
	case r.State == muster.RunnerDestroyed:
		return step{Act: actDone, Reason: r.Reason}
	case r.State == muster.RunnerDraining && (gone(r) || !mayBeRegistered(r, l.ByName) || !r.DeregisteredAt.IsZero()):
		return step{Act: actDestroy, Reason: r.Reason, Failed: r.Failed}
	case gone(r):
		return step{Act: actDestroy, Reason: ended(r), Failed: r.Failed}
	case r.State == muster.RunnerDraining:
		return step{Act: actDeregister, Reason: r.Reason, Failed: r.Failed}
	case l.MaxAge > 0 && !now.Before(born(r).Add(l.MaxAge)):
		return step{Act: actDestroy, Reason: fmt.Sprintf("maximum age of %s reached", l.MaxAge), Failed: true, BusyKill: r.Busy}
	case r.LaunchedAt.IsZero():
		return step{Act: actLaunch}
	}
	wait := step{Act: actWait, Until: now.Add(l.AgentLost)}
	if l.MaxAge > 0 {
		wait.Until = earlier(wait.Until, born(r).Add(l.MaxAge))
	}
	if r.Busy {
		// The agent's own word ends a job. GitHub's completed alone does not: it has
		// been sent for jobs that still ran (reference/github.md §5.9).
		if !jobDone.IsZero() {
			sealed := jobDone.Add(l.Sealed)
			if !now.Before(sealed) {
				return step{Act: actDeregister, Reason: fmt.Sprintf("job completed %s ago and the agent has not finished", now.Sub(jobDone).Round(time.Second))}
			}
			wait.Until = earlier(wait.Until, sealed)
		}
		return overdue(r, wait, l, now)
	}
	if r.Drain != "" {
		return step{Act: actDeregister, Reason: r.Drain}
	}
	switch {
	case ranJob(r) && !jobDone.IsZero():
		// It has had its one job and nobody says that the runner has ended: the agent
		// died, or the machine has none.
		sealed := jobDone.Add(l.Sealed)
		if !now.Before(sealed) {
			return step{Act: actDeregister, Reason: fmt.Sprintf("job completed %s ago and nothing was heard of the runner's end", now.Sub(jobDone).Round(time.Second))}
		}
		wait.Until = earlier(wait.Until, sealed)
	case r.ConnectedAt.IsZero():
		since := r.LaunchedAt
		if l.Queues {
			since = r.UpAt // zero while it waits its turn: that is no fault, however long (S2-11)
		}
		if due := since.Add(l.Connect); l.Connect > 0 && !since.IsZero() {
			if !now.Before(due) {
				return step{Act: actDestroy, Reason: fmt.Sprintf("agent did not connect within %s", l.Connect), Failed: true}
			}
			wait.Until = earlier(wait.Until, due)
		}
		if l.Queues && r.UpAt.IsZero() {
			return lookInQueue(r, wait, l, now)
		}
		return probeWhenLate(r.LaunchedAt, wait, l, now)
	case r.ListeningAt.IsZero():
		if !now.Before(r.ConnectedAt.Add(l.Register)) {
			return step{Act: actDeregister, Reason: fmt.Sprintf("runner did not listen within %s of connecting", l.Register), Failed: true}
		}
		wait.Until = earlier(wait.Until, r.ConnectedAt.Add(l.Register))
		return overdue(r, wait, l, now)
	case l.NoJob > 0:
		due := r.ListeningAt.Add(l.NoJob + noJobMargin)
		if !now.Before(due) {
			return step{Act: actDeregister, Reason: fmt.Sprintf("no job within %s", l.NoJob)}
		}
		wait.Until = earlier(wait.Until, due)
	}
	return overdue(r, wait, l, now)
}

// overdue turns a wait into a probe when the agent has been silent for too long.
func overdue(r muster.Runner, wait step, l limits, now time.Time) step {
	last := latest(r.HeartbeatAt, r.ConnectedAt, r.LaunchedAt)
	return probeWhenLate(last, wait, l, now)
}

func probeWhenLate(last time.Time, wait step, l limits, now time.Time) step {
	if late := last.Add(l.AgentLost); !now.Before(late) {
		wait.Act = actProbe
		wait.Until = now.Add(l.AgentLost)
		wait.Reason = fmt.Sprintf("no word from the agent for %s", now.Sub(last).Round(time.Second))
	} else {
		wait.Until = earlier(wait.Until, late)
	}
	return wait
}

// firstLook is when a platform with a queue is first asked what it does with a machine:
// long enough for one whose turn comes at once to have called.
const firstLook = 3 * time.Second

// lookInQueue asks a platform for what it says of a machine in its queue: soon, so that
// whoever asks why a job waits is told, and then ever more seldom, as the wait grows.
func lookInQueue(r muster.Runner, wait step, l limits, now time.Time) step {
	waited := now.Sub(r.LaunchedAt)
	if waited < firstLook {
		wait.Until = earlier(wait.Until, r.LaunchedAt.Add(firstLook))
		return wait
	}
	wait.Act, wait.Until = actProbe, earlier(wait.Until, now.Add(max(firstLook, waited/2)))
	wait.Reason = fmt.Sprintf("for %s in the platform's queue", waited.Round(time.Second))
	return wait
}

// born is from when a runner's age counts: what waited in a platform's queue has
// cost nothing yet.
func born(r muster.Runner) time.Time { return latest(r.CreatedAt, r.UpAt) }

// gone reports whether the runner process has ended for certain.
func gone(r muster.Runner) bool { return !r.FinishedAt.IsZero() }

func ended(r muster.Runner) string {
	if r.Reason != "" {
		return r.Reason
	}
	return "runner ended"
}

// mayBeRegistered reports whether GitHub may know the runner: it said so, or the
// runner was given what it takes to register itself.
func mayBeRegistered(r muster.Runner, byName bool) bool {
	return r.GitHubID != 0 || byName && r.Tries > 0
}

// ranJob reports whether the runner was ever given a job: then its one-job
// registration is consumed, and GitHub removes it by itself.
func ranJob(r muster.Runner) bool { return !r.ActiveAt.IsZero() || r.Job.ID != 0 }

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func latest(ts ...time.Time) (t time.Time) {
	for _, x := range ts {
		if x.After(t) {
			t = x
		}
	}
	return t
}

package fleet

import (
	"fmt"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// runner is one runner and what is known of it beyond its row. All fields are
// guarded by Fleet.mu.
type runner struct {
	muster.Runner
	// pool is the pool as it was when the runner was made or found; scope is where
	// it registers, whatever the file says later.
	pool  muster.Pool
	scope muster.Scope
	// adopted is when a later run found it; zero for one that this run made.
	adopted time.Time
	// nonce is that of the agent which traded the boot token.
	nonce string
	// taken is set while GitHub says that it has a job. The agent's word is Busy.
	taken bool
	// bad counts the health checks in a row that found it offline.
	bad int
	// jobs is how many it finished.
	jobs int
	// again is when deregistering may be tried next; tries counts what failed.
	again time.Time
	fails int
	// vanished is set when GitHub no longer knew the registration: that is no proof
	// that no job was given to it.
	vanished bool
	// forced ends it even if a job runs.
	forced bool

	notes  []muster.RunnerEvent
	log    []byte
	logEnd int64
	wake   chan struct{}
}

// look makes the runner's life look at it again.
func (r *runner) look() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// busy is true unless both sides say that there is no job (4-18).
func (r *runner) busy() bool { return r.Busy || r.taken }

// plan is the runner as a decision sees it.
func (r *runner) plan() muster.PlanRunner {
	p := muster.PlanRunner{ID: r.ID, State: r.State, Busy: r.busy(), Warm: r.Warm, CreatedAt: r.CreatedAt}
	switch {
	case !r.FinishedAt.IsZero() || r.Drain != "" && !r.busy():
		p.State = muster.RunnerDraining // it goes, and is no capacity any more
	case r.State == muster.RunnerRegistered && !r.busy():
		p.IdleSince = r.ListeningAt
	}
	return p
}

// to moves the runner; illegal moves are refused (S1-62).
func (r *runner) to(state muster.RunnerState) (err error) {
	r.State, err = r.State.To(state)
	return err
}

// note adds a line to the runner's history.
func (r *runner) note(at time.Time, format string, args ...any) {
	r.notes = append(r.notes, muster.RunnerEvent{At: at, State: r.State, Note: fmt.Sprintf(format, args...)})
	r.notes = r.notes[max(0, len(r.notes)-maxNotes):]
}

// act is what to do about a runner next.
type act string

const (
	actWait       act = "wait"       // until Until, or until something is heard
	actProbe      act = "probe"      // ask the platform whether the machine still lives
	actDeregister act = "deregister" // take it off GitHub, which refuses while it is busy
	actDestroy    act = "destroy"    // the machine may go
	actDone       act = "done"
)

// step is the next step and why.
type step struct {
	Act    act
	Until  time.Time
	Reason string
	Failed bool
}

// limits are the times that bound a runner.
type limits struct {
	Connect, Register, NoJob, MaxAge, AgentLost time.Duration
}

const (
	// registerWithin is how long an agent may take from connecting to listening.
	registerWithin = 10 * time.Minute
	// noJobMargin is how much longer than its own deadline an agent is trusted with.
	noJobMargin = time.Minute
	// deregisterAgain is when a deregistration that failed is tried again.
	deregisterAgain = 15 * time.Second
	// maxFails is after how many failed deregistrations the agent is asked to end an
	// idle runner without: it refuses while a job runs.
	maxFails = 3
)

// next decides what to do about a runner, from its row and the time alone. What is
// or may be busy is waited for, asked about, or ended by its maximum age or by
// force; nothing else ends it (4-17, 4-18).
func next(r *runner, l limits, now time.Time) step {
	switch {
	case r.State == muster.RunnerDestroyed:
		return step{Act: actDone}
	case !r.FinishedAt.IsZero():
		return step{Act: actDestroy, Reason: r.Reason, Failed: r.Failed}
	case r.forced:
		return step{Act: actDestroy, Reason: r.Drain}
	case l.MaxAge > 0 && !now.Before(r.CreatedAt.Add(l.MaxAge)):
		return step{Act: actDestroy, Reason: fmt.Sprintf("maximum age of %s reached", l.MaxAge), Failed: true}
	case r.State == muster.RunnerDraining && r.GitHubID == 0 && r.adopted.IsZero():
		return step{Act: actDestroy, Reason: r.Reason, Failed: r.Failed} // it never registered
	}
	wait := step{Act: actWait, Until: now.Add(l.AgentLost)}
	if l.MaxAge > 0 {
		wait.Until = earlier(wait.Until, r.CreatedAt.Add(l.MaxAge))
	}
	silent := latest(r.HeartbeatAt, r.ConnectedAt, r.LaunchedAt, r.adopted).Add(l.AgentLost)
	overdue := func() step {
		if !now.Before(silent) {
			wait.Act, wait.Until = actProbe, now.Add(l.AgentLost)
			wait.Reason = fmt.Sprintf("no word from the agent for %s", l.AgentLost)
		} else {
			wait.Until = earlier(wait.Until, silent)
		}
		return wait
	}
	switch {
	case r.State == muster.RunnerDraining:
		// GitHub gives it no job any more. The second proof is the agent's: no worker
		// runs (4-17). An agent that says nothing for long is believed to have ended,
		// if GitHub itself had called the runner idle.
		if !r.busy() && !r.vanished && !now.Before(latest(r.DeregisteredAt, r.HeartbeatAt).Add(l.AgentLost)) {
			return step{Act: actDestroy, Reason: r.Reason, Failed: r.Failed}
		}
		return overdue()
	case r.busy():
		return overdue()
	case r.LaunchedAt.IsZero() && r.Drain != "":
		return step{Act: actDestroy, Reason: r.Drain}
	case r.Drain != "" && r.State == muster.RunnerProvisioning && r.ConnectedAt.IsZero() && r.adopted.IsZero():
		return step{Act: actDestroy, Reason: r.Drain}
	case r.Drain != "":
		if now.Before(r.again) {
			wait.Until = earlier(wait.Until, r.again)
			return wait
		}
		return step{Act: actDeregister, Reason: r.Drain, Failed: r.Failed}
	case r.LaunchedAt.IsZero():
		return wait
	case r.ConnectedAt.IsZero():
		due := latest(r.LaunchedAt, r.adopted).Add(l.Connect)
		if l.Connect <= 0 {
			return overdue()
		}
		if !now.Before(due) {
			if !r.adopted.IsZero() { // what it did before is not known: GitHub is asked first
				return step{Act: actDeregister, Reason: "an earlier run left it, and its agent does not report", Failed: true}
			}
			return step{Act: actDestroy, Reason: fmt.Sprintf("agent did not connect within %s", l.Connect), Failed: true}
		}
		wait.Until = earlier(wait.Until, due)
		return wait
	case r.ListeningAt.IsZero():
		due := r.ConnectedAt.Add(l.Register)
		if !now.Before(due) && !now.Before(r.again) {
			return step{Act: actDeregister, Reason: fmt.Sprintf("runner did not listen within %s of connecting", l.Register), Failed: true}
		}
		wait.Until = earlier(wait.Until, latest(due, r.again))
		return overdue()
	case l.NoJob > 0:
		due := r.ListeningAt.Add(l.NoJob + noJobMargin)
		if !now.Before(due) && !now.Before(r.again) {
			return step{Act: actDeregister, Reason: fmt.Sprintf("no job within %s", l.NoJob)}
		}
		wait.Until = earlier(wait.Until, latest(due, r.again))
	}
	return overdue()
}

// defaultConnect is for a platform that does not say how long its machines take to
// start: a virtual machine's time (design §7).
const defaultConnect = 5 * time.Minute

// next is what to do about a runner now; the caller holds the lock.
func (f *Fleet) next(r *runner, now time.Time) step {
	p := r.pool.WithDefaults()
	l := limits{Connect: p.ConnectTimeout, Register: registerWithin, NoJob: p.NoJobTimeout, MaxAge: p.MaxAge, AgentLost: f.times.AgentLost}
	if l.Connect == 0 {
		l.Connect = defaultConnect
		if d, ok := provider.As[provider.Described](f.cfg.VMs); ok && d.Describe().ConnectTimeout > 0 {
			l.Connect = d.Describe().ConnectTimeout
		}
	}
	if !r.adopted.IsZero() {
		l.Connect = max(l.Connect, f.times.AgentLost) // its agent may wait long between two tries
	}
	if r.Warm || !r.adopted.IsZero() {
		l.NoJob = 0 // the floor's wait for work; of those that were found it is not known whose they are
	}
	return next(r, l, now)
}

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

package lifecycle

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/activity"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/usage"
	"github.com/muster-ci/muster/provider"
)

// defaultWorkspace is the only workspace until tenants come; every row and call
// carries it already.
const defaultWorkspace = "default"

// Activities are what workflows do. Each is idempotent: it looks at the row
// before it acts, and a repetition after a crash finds what the first try did.
type Activities struct {
	Deps
	Log    *slog.Logger
	wake   waker
	ledger ledger
}

// waker reaches workflows from activities.
type waker interface {
	pool(ctx context.Context, ref PoolRef) error
	runner(ctx context.Context, ref RunnerRef) error
	startRunner(ctx context.Context, ref RunnerRef) error
	runnerGone(ctx context.Context, ref JobRef) error
	machine(ctx context.Context, ref MachineRef) error
	sink(ctx context.Context, e muster.JobEvent) error
	closeTraces(ctx context.Context, r muster.Runner, below int, why string) error
	traceLife(ctx context.Context, t muster.Trace) error
}

// Decide takes one decision about a pool, records it with what it was taken
// from, and sets it in motion. It is one step so that the path from a delivery to
// a machine crosses the engine as seldom as can be.
func (a *Activities) Decide(ctx context.Context, ref PoolRef) (Decided, error) {
	now := a.Now()
	snap, err := a.snapshot(ctx, ref, now)
	if muster.CodeOf(err) == muster.CodeNotFound {
		return Decided{Gone: true}, nil
	}
	if err != nil {
		return Decided{}, fmt.Errorf("snapshot of pool %s: %w", ref.Pool, err)
	}
	if snap.Pool.Keeps() {
		return a.decideKept(ctx, snap.Pool)
	}
	d := a.holdRotation(ctx, snap, muster.Plan(snap, now), now)
	rows, err := a.newRunners(ctx, snap, d, now)
	if err != nil {
		return Decided{}, err
	}
	if _, err := a.Store.RecordDecision(ctx, muster.DecisionRecord{Workspace: ref.Workspace, Pool: ref.Pool, At: now, Snapshot: snap, Decision: d, Runners: rows}); err != nil {
		return Decided{}, fmt.Errorf("record decision of pool %s: %w", ref.Pool, err)
	}
	a.Observer.Decided(ref.Pool, d)
	if d.Action != muster.Maintain {
		a.Log.Info("pool decided", "pool", ref.Pool, "action", d.Action, "rule", d.Rule, "create", d.Create, "warm", d.Warm, "drain", len(d.Drain), "reason", d.Reason)
	}
	if err := a.startRunners(ctx, ref, snap, rows, now); err != nil {
		return Decided{}, err
	}
	for _, id := range d.Drain {
		if err := a.askToDrain(ctx, ref.Workspace, id, d.Rule+": "+d.Reason); err != nil {
			return Decided{}, err
		}
	}
	if err := a.handOver(ctx, snap, d); err != nil {
		return Decided{}, err
	}
	wait := a.Times.Poll
	if !d.WakeAt.IsZero() {
		wait = min(wait, max(time.Second, d.WakeAt.Sub(now)))
	}
	return Decided{Wait: wait}, nil
}

// unstartedAfter is the age from which a runner that no provider has accepted is
// taken to have lost its start in a crash between row and workflow (4-51).
const unstartedAfter = 5 * time.Second

func (a *Activities) startRunners(ctx context.Context, ref PoolRef, snap muster.Snapshot, rows []muster.Runner, now time.Time) error {
	ids := make([]muster.RunnerID, 0, len(rows))
	for _, r := range rows {
		ids = append(ids, r.ID)
	}
	for _, p := range snap.Runners { // as many as may provision at once, at most
		if p.State != muster.RunnerProvisioning || now.Sub(p.CreatedAt) < unstartedAfter {
			continue
		}
		r, err := a.Store.Runner(ctx, ref.Workspace, p.ID)
		if err != nil {
			return fmt.Errorf("read runner %s: %w", p.ID, err)
		}
		if r.LaunchedAt.IsZero() {
			ids = append(ids, r.ID)
		}
	}
	for _, id := range ids {
		if err := a.wake.startRunner(ctx, RunnerRef{ref.Workspace, id}); err != nil {
			return fmt.Errorf("start workflow of runner %s: %w", id, err)
		}
	}
	return nil
}

// newRunners makes the rows that a decision asks for. Each row for a queued job
// carries the trace id of the job that it is made for; GitHub may give the runner
// to another job, and then the row takes over that job's trace id.
func (a *Activities) newRunners(ctx context.Context, snap muster.Snapshot, d muster.Decision, now time.Time) ([]muster.Runner, error) {
	traces := a.traces(ctx, snap, d)
	rows := make([]muster.Runner, 0, d.Create+d.Warm)
	for i := range d.Create + d.Warm {
		var random [10]byte
		if _, err := rand.Read(random[:]); err != nil {
			return nil, err
		}
		id := muster.NewRunnerID(random)
		r := muster.Runner{
			ID: id, Workspace: snap.Pool.Workspace, Pool: snap.Pool.Name,
			Name:     muster.RegistrationName(snap.Pool.Name, id, 0),
			Provider: snap.Pool.Provider, Offering: snap.Pool.Offering,
			State: muster.RunnerProvisioning, Reason: d.Reason,
			Warm: i >= d.Create, TraceID: newTraceID(), CreatedAt: now,
		}
		if i < d.Canary {
			r.Offering = snap.Pool.Canary.Offering
		}
		if i < d.Create && i < len(d.For) {
			r.For = d.For[i]
		}
		if i < len(traces) {
			r.TraceID = traces[i]
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// traces returns the trace ids of the jobs that d.Create runners are made for.
func (a *Activities) traces(ctx context.Context, snap muster.Snapshot, d muster.Decision) []string {
	if d.Create == 0 {
		return nil
	}
	attempts := map[int64]int{}
	for _, j := range snap.Jobs {
		attempts[j.ID] = max(1, j.Attempt, attempts[j.ID])
	}
	var out []string
	for _, id := range d.For {
		job, err := a.Store.Job(ctx, snap.Pool.Workspace, muster.JobKey{ID: id, Attempt: attempts[id]})
		if err != nil {
			break // a trace id is a convenience, never a reason to stop
		}
		out = append(out, job.TraceID)
	}
	return out
}

func newTraceID() string {
	id := uuid.New()
	return fmt.Sprintf("%x", id[:])
}

// refusal is what is remembered of runners that could not be had for a pool.
type refusal struct {
	// Count is how often in a row; runners that were asked for together count once.
	Count int       `json:"count"`
	At    time.Time `json:"at"`
	Text  string    `json:"text"`
	// Full is set when the provider had no room: a machine that goes makes some.
	Full bool `json:"full,omitempty"`
	// Room is how many may be starting once the hold is over: one, to find out. The
	// room of a provider that was full is felt for: it doubles with each that it takes.
	Room int `json:"room,omitempty"`
	// Granted is set when a machine went and this pool may ask for its place.
	Granted bool `json:"granted,omitempty"`
	// Later is set when the machine was made and failed before it listened for
	// jobs: another machine that is made proves nothing, only one that listens.
	Later bool `json:"later,omitempty"`
}

func refusalKey(ref PoolRef) string { return "provider_refusal/" + ref.Workspace + "/" + ref.Pool }

// until is when the provider may be asked again: 2, 4, 8 … seconds, at most five
// minutes after the last refusal (4-52).
func (r refusal) until() time.Time {
	if r.Granted {
		return time.Time{}
	}
	return r.breaker().Until()
}

func (r refusal) breaker() muster.Breaker {
	return muster.Breaker{Failures: r.Count, At: r.At, Words: r.Text}
}

func (a *Activities) refusal(ctx context.Context, ref PoolRef) (r refusal) {
	text, err := a.Store.Watermark(ctx, refusalKey(ref))
	if err != nil || text == "" {
		return refusal{}
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return refusal{}
	}
	return r
}

func (a *Activities) setRefusal(ctx context.Context, ref PoolRef, r refusal) {
	text := ""
	if r != (refusal{}) {
		b, err := json.Marshal(r)
		if err != nil {
			return
		}
		text = string(b)
	}
	if err := a.Store.SetWatermark(ctx, refusalKey(ref), text); err != nil {
		a.Log.Error("remember provider refusal", "pool", ref.Pool, "error", err)
	}
}

// noteRefusal remembers one more runner that could not be had.
func (a *Activities) noteRefusal(ctx context.Context, ref PoolRef, r refusal) {
	was := a.refusal(ctx, ref)
	r.Count, r.At, r.Room = was.Count, was.At, 1 // one, to find out, once the hold is over (S4-71)
	if now := a.Now(); !was.Granted && !now.Before(was.until()) {
		r.Count, r.At = was.Count+1, now
	}
	a.setRefusal(ctx, ref, r)
}

// noteAccepted takes back what holds a pool off: its provider made a machine.
func (a *Activities) noteAccepted(ctx context.Context, ref PoolRef) error {
	was := a.refusal(ctx, ref)
	switch {
	case was == refusal{} || was.Later:
		return nil
	case was.Granted: // that place is taken, and nothing is known of others
		was.Granted = false
		a.setRefusal(ctx, ref, was)
		return nil
	case !was.Full || 2*was.Room > roomFelt:
		a.setRefusal(ctx, ref, refusal{})
	default:
		a.setRefusal(ctx, ref, refusal{Full: true, Room: 2 * max(1, was.Room)})
	}
	return a.wake.pool(ctx, ref)
}

// roomFelt is how many machines in a row a provider that was full has to take
// until it counts as one that has room.
const roomFelt = 16

// roomMade lets one pool of a provider that was full ask again, now that a
// machine is gone from it (4-53): the one whose jobs wait longest, and for one
// machine. If all asked at once, all but one would be refused, with a
// runner's whole life for each refusal (4-52).
func (a *Activities) roomMade(ctx context.Context, r muster.Runner) error {
	pools, err := a.Store.Pools(ctx, r.Workspace)
	if err != nil {
		return fmt.Errorf("list pools: %w", err)
	}
	var next PoolRef
	var state refusal
	var since time.Time
	for _, p := range pools {
		ref := PoolRef{p.Workspace, p.Name}
		was := a.refusal(ctx, ref)
		if p.Provider != r.Provider || !was.Full || was.Count == 0 || was.Granted {
			continue
		}
		oldest, ok, err := a.Store.OldestQueued(ctx, p.Workspace, p.Name)
		if err != nil {
			return fmt.Errorf("oldest job of pool %s: %w", p.Name, err)
		}
		if ok && (next.Pool == "" || oldest.Before(since)) {
			next, state, since = ref, was, oldest
		}
	}
	if next.Pool == "" {
		return nil
	}
	state.Granted, state.Room = true, 1
	a.setRefusal(ctx, next, state)
	return a.wake.pool(ctx, next)
}

// Launch asks the provider for the runner's machine. Whatever goes wrong for good
// is written to the row; only what may pass is returned as an error.
func (a *Activities) Launch(ctx context.Context, ref RunnerRef) error {
	r, err := a.Store.Runner(ctx, ref.Workspace, ref.ID)
	if err != nil {
		return notFoundIsFinal(err)
	}
	if !r.LaunchedAt.IsZero() || r.State != muster.RunnerProvisioning {
		return nil
	}
	pool, err := a.poolOf(ctx, r)
	if err != nil {
		return a.giveUp(ctx, r, fmt.Errorf("pool %s: %w", r.Pool, err))
	}
	offering, err := a.Store.Offering(ctx, ref.Workspace, r.Offering)
	if err != nil && muster.CodeOf(err) != muster.CodeNotFound {
		return fmt.Errorf("offering %s: %w", r.Offering, err)
	}
	backend, ok := a.Backends[r.Provider]
	if !ok {
		return a.giveUp(ctx, r, fmt.Errorf("provider %s is not configured: add it, or change the pool's provider", r.Provider))
	}
	token := muster.BootToken{JTI: uuid.NewString(), Runner: r.ID, Workspace: r.Workspace, ExpiresAt: a.Now().Add(a.Times.BootExpiry), Build: a.build(ctx, r, pool)}
	boot, err := a.Tokens.MintBoot(token, pool.Name)
	if err != nil {
		return fmt.Errorf("mint boot token: %w", err)
	}
	if err := a.Store.SaveBootToken(ctx, token); err != nil {
		return fmt.Errorf("save boot token: %w", err)
	}
	in, r, err := a.create(ctx, backend, r, provider.Spec{
		Runner: r.ID, Workspace: r.Workspace, Pool: pool.Name, Owner: a.Owner, Offering: offering,
		Boot: provider.Boot{URL: a.URL, Token: boot}, MaxAge: pool.MaxAge, TraceID: r.TraceID, Build: token.Build,
		Trace: !pool.Trace.Off && r.Purpose == "",
	})
	if err != nil {
		return a.refused(ctx, r, backend.Name, err)
	}
	if r.Purpose == "" {
		if err := a.noteAccepted(ctx, PoolRef{r.Workspace, r.Pool}); err != nil {
			a.Log.Warn("wake pool", "pool", r.Pool, "error", err) // it decides by itself soon
		}
	}
	r, err = a.Store.UpdateRunner(ctx, r.Workspace, r.ID, a.Now(), "machine accepted by "+backend.label(r.Zone()), func(r *muster.Runner) error {
		r.LaunchedAt, r.Instance = a.Now(), in.ID
		return nil
	})
	if err != nil {
		return fmt.Errorf("record launch: %w", err)
	}
	a.Log.Info("runner launched", "runner", r.ID, "pool", r.Pool, "provider", backend.Name, "instance", in.ID, "trace_id", r.TraceID)
	return nil
}

// createTimeout is how long one call to a provider's Create may take before it
// counts as hanging.
const createTimeout = time.Minute

// refused handles an error of Create: classes that will not change by asking
// again end the runner at once, others after launchAttempts. Either way the
// machine may exist; Destroy deletes it by the runner's id (4-51).
func (a *Activities) refused(ctx context.Context, r muster.Runner, backend string, err error) error {
	if !refusedForCertain(err) && attempt(ctx) < launchAttempts {
		return fmt.Errorf("create instance for %s: %w", r.ID, err)
	}
	err = fmt.Errorf("provider %s refused: %w", backend, err)
	if r.Purpose == "" {
		a.noteRefusal(ctx, PoolRef{r.Workspace, r.Pool}, refusal{Text: err.Error(), Full: errors.Is(err, provider.ErrCapacity)})
	}
	return a.giveUp(ctx, r, err)
}

// giveUp sends a runner that was never launched on its way out.
func (a *Activities) giveUp(ctx context.Context, r muster.Runner, cause error) error {
	a.Log.Warn("runner given up", "runner", r.ID, "pool", r.Pool, "cause", cause, "trace_id", r.TraceID)
	_, err := a.Store.UpdateRunner(ctx, r.Workspace, r.ID, a.Now(), "", func(r *muster.Runner) (err error) {
		r.State, err = r.State.To(muster.RunnerDraining)
		r.Failed, r.Reason = true, cause.Error()
		return err
	})
	return err
}

func attempt(ctx context.Context) int32 {
	if !activity.IsActivity(ctx) {
		return launchAttempts
	}
	return activity.GetInfo(ctx).Attempt
}

// LookAtRunner reads the runner's row and decides its next step.
func (a *Activities) LookAtRunner(ctx context.Context, ref RunnerRef) (step, error) {
	r, err := a.Store.Runner(ctx, ref.Workspace, ref.ID)
	if muster.CodeOf(err) == muster.CodeNotFound {
		return step{Act: actDone}, nil
	}
	if err != nil {
		return step{}, err
	}
	l := limits{
		Connect: a.Backends[r.Provider].ConnectTimeout, Queues: a.Backends[r.Provider].Queues, Register: registerWithin,
		NoJob: muster.DefaultNoJobTimeout, MaxAge: muster.DefaultMaxAge,
		AgentLost: a.Times.AgentLost, Sealed: a.Times.SealedAfter,
	}
	if p, err := a.poolOf(ctx, r); err == nil {
		l.NoJob, l.MaxAge, l.ByName = p.NoJobTimeout, p.MaxAge, p.Registration == muster.RegistrationToken
		if p.ConnectTimeout > 0 {
			l.Connect = p.ConnectTimeout
		}
	}
	if r.Warm {
		l.NoJob = 0 // the pool's floor keeps it; rotation and maximum age end it (C20, C23)
	}
	return next(r, a.jobDone(ctx, r), l, a.Now()), nil
}

func (a *Activities) jobDone(ctx context.Context, r muster.Runner) time.Time {
	if r.Job.ID == 0 {
		return time.Time{}
	}
	j, err := a.Store.Job(ctx, r.Workspace, r.Job)
	if err != nil || j.State != muster.JobCompleted {
		return time.Time{}
	}
	return j.CompletedAt
}

// Probe asks the provider whether the machine of a silent agent still lives. Only
// "gone" and "ended" are answers; anything else is unknown, and unknown is busy (4-18).
func (a *Activities) Probe(ctx context.Context, ref RunnerRef) (ended bool, err error) {
	r, err := a.Store.Runner(ctx, ref.Workspace, ref.ID)
	if err != nil {
		return false, notFoundIsFinal(err)
	}
	backend, ok := a.Backends[r.Provider]
	if !ok {
		return false, final(fmt.Errorf("provider %s is not configured", r.Provider))
	}
	zone, there := backend.place(r)
	if there == nil {
		return false, final(fmt.Errorf("zone %s of provider %s is not configured", zone, r.Provider))
	}
	in, err := there.Get(ctx, r.ID)
	why := "machine vanished"
	switch {
	case errors.Is(err, provider.ErrNotFound):
		if seen, ok := errors.AsType[*provider.GoneError](err); ok {
			why += ": " + seen.Detail
		}
	case err != nil:
		return false, fmt.Errorf("probe instance of %s: %w", r.ID, err)
	case in.State != provider.InstanceEnded:
		return false, a.noteQueue(ctx, r, in)
	default:
		why = "machine ended by itself"
		if in.Detail != "" {
			why += ": " + in.Detail
		}
	}
	_, err = a.Store.UpdateRunner(ctx, r.Workspace, r.ID, a.Now(), why, func(r *muster.Runner) error {
		if r.FinishedAt.IsZero() {
			r.FinishedAt, r.Reason, r.Failed, r.Busy = a.Now(), why, true, false
		}
		return nil
	})
	return err == nil, err
}

// Deregister takes an idle runner off GitHub, the first half of a two-phase end
// (4-17): GitHub itself refuses while a job runs. A refusal is retried with
// back-off, and each try looks at the row first.
func (a *Activities) Deregister(ctx context.Context, ref RunnerRef, s step) error {
	r, err := a.Store.Runner(ctx, ref.Workspace, ref.ID)
	if err != nil {
		return notFoundIsFinal(err)
	}
	if gone(r) || !r.DeregisteredAt.IsZero() || r.State == muster.RunnerDestroyed {
		return nil
	}
	if r.Busy && a.jobDone(ctx, r).IsZero() {
		return nil // a job came in between: the next look waits for it
	}
	registered, err := a.mayBeRegistered(ctx, r)
	if err != nil {
		return err
	}
	if registered {
		if err := a.removeRegistration(ctx, r); err != nil {
			return fmt.Errorf("deregister %s: %w", r.Name, err)
		}
	}
	_, err = a.Store.UpdateRunner(ctx, r.Workspace, r.ID, a.Now(), "deregistered: "+s.Reason, func(r *muster.Runner) (err error) {
		// Draining makes a boot that is under way give up its registration.
		r.State, err = r.State.To(muster.RunnerDraining)
		r.Reason, r.Failed = s.Reason, r.Failed || s.Failed
		if registered {
			r.DeregisteredAt = a.Now()
		}
		return err
	})
	return err
}

// mayBeRegistered asks the pool how its runners register; of a pool that is gone
// it is not known, and then only an id counts.
func (a *Activities) mayBeRegistered(ctx context.Context, r muster.Runner) (bool, error) {
	p, err := a.Store.Pool(ctx, r.Workspace, r.Pool)
	if err != nil && muster.CodeOf(err) != muster.CodeNotFound {
		return false, fmt.Errorf("pool of %s: %w", r.ID, err)
	}
	return mayBeRegistered(r, p.Registration == muster.RegistrationToken), nil
}

// removeRegistration deletes the runner's registration; gone is success. One whose
// id was never learnt is looked up by its name.
func (a *Activities) removeRegistration(ctx context.Context, r muster.Runner) error {
	pool, err := a.Store.Pool(ctx, r.Workspace, r.Pool)
	if err != nil {
		return err
	}
	gh, ok := a.GitHub[pool.App]
	if !ok {
		return fmt.Errorf("app %s is not configured", pool.App)
	}
	if r.GitHubID == 0 {
		remote, err := gh.RunnerByName(ctx, pool.Scope, r.Name)
		if muster.CodeOf(err) == muster.CodeNotFound {
			return nil
		}
		if err != nil {
			return err
		}
		r.GitHubID = remote.ID
	}
	if err := gh.RemoveRunner(ctx, pool.Scope, r.GitHubID); err != nil && muster.CodeOf(err) != muster.CodeNotFound {
		return err
	}
	return nil
}

// Destroy deletes the runner's machine until it is proven gone, removes a
// registration that no job consumed, and closes the runner's books.
func (a *Activities) Destroy(ctx context.Context, ref RunnerRef, s step) error {
	r, err := a.Store.Runner(ctx, ref.Workspace, ref.ID)
	if err != nil {
		return notFoundIsFinal(err)
	}
	if r.State == muster.RunnerDestroyed {
		if err := a.wake.closeTraces(ctx, r, math.MaxInt, ended(r)); err != nil {
			return err
		}
		return a.settle(ctx, r) // an earlier try died between the two
	}
	if r.State != muster.RunnerDraining {
		r, err = a.Store.UpdateRunner(ctx, r.Workspace, r.ID, a.Now(), "", func(r *muster.Runner) (err error) {
			r.State, err = r.State.To(muster.RunnerDraining)
			r.Reason, r.Failed = s.Reason, r.Failed || s.Failed
			return err
		})
		if err != nil {
			return fmt.Errorf("drain %s: %w", r.ID, err)
		}
	}
	if s.BusyKill {
		a.find(ctx, muster.Finding{Workspace: r.Workspace, Kind: "busy_killed", Subject: string(r.ID), Action: s.Reason})
	}
	if backend, ok := a.Backends[r.Provider]; ok {
		for _, z := range backend.asked(r) {
			if backend.Queues && gone(r) {
				letEnd(ctx, z, r.ID)
			}
			why, err := deleteUntilGone(ctx, z, r.ID)
			if err != nil {
				return fmt.Errorf("delete instance of %s: %w", r.ID, err)
			}
			if r, err = a.endedBy(ctx, r, why); err != nil {
				return err
			}
		}
	}
	registered, err := a.mayBeRegistered(ctx, r)
	if err != nil {
		return err
	}
	// A runner that registers itself may have done so after Deregister found nothing;
	// now it cannot any more.
	if registered && (r.DeregisteredAt.IsZero() || r.GitHubID == 0) && !ranJob(r) {
		// The machine is gone, so nothing is killed by this. A registration that
		// GitHub still holds for busy, or that cannot be reached now, is left to the
		// sweep: it costs nothing.
		if err := a.removeRegistration(ctx, r); err != nil {
			a.Log.Info("registration left to the sweep", "runner", r.ID, "name", r.Name, "error", err, "trace_id", r.TraceID)
		}
	}
	r, err = a.Store.UpdateRunner(ctx, r.Workspace, r.ID, a.Now(), "", func(r *muster.Runner) (err error) {
		r.State, err = r.State.To(muster.RunnerDestroyed)
		r.DestroyedAt, r.Busy = a.Now(), false
		return err
	})
	if err != nil {
		return fmt.Errorf("record the end of %s: %w", r.ID, err)
	}
	a.Observer.RunnerChanged(r)
	a.Log.Info("runner destroyed", "runner", r.ID, "pool", r.Pool, "reason", r.Reason, "failed", r.Failed, "lived", r.DestroyedAt.Sub(r.CreatedAt).Round(time.Millisecond).String(), "trace_id", r.TraceID)
	if err := a.wake.closeTraces(ctx, r, math.MaxInt, ended(r)); err != nil {
		return err
	}
	return a.settle(ctx, r)
}

// letEnd gives a machine whose agent has reported its end a moment to end by itself. A job of
// a platform's queue that is cancelled in that moment counts as cancelled there, whatever it
// had ended of.
func letEnd(ctx context.Context, b provider.Provider, id muster.RunnerID) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		if in, err := b.Get(ctx, id); err != nil || in.State == provider.InstanceEnded {
			return // what it is now is Delete's to find out
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// endedBy keeps why the platform ended a machine by itself. The agent knows only that it was
// told to stop, if it could still say anything. Only platforms with a queue are believed:
// on others a machine that Muster deletes looks no different from one that was ended.
func (a *Activities) endedBy(ctx context.Context, r muster.Runner, why string) (muster.Runner, error) {
	if why == "" || !a.Backends[r.Provider].Queues || strings.Contains(r.Reason, why) {
		return r, nil
	}
	r, err := a.Store.UpdateRunner(ctx, r.Workspace, r.ID, a.Now(), "machine was ended: "+why, func(r *muster.Runner) error {
		if r.Reason != "" {
			r.Reason += "; "
		}
		r.Reason += "machine was ended: " + why
		r.Failed = true
		return nil
	})
	if err != nil {
		return r, fmt.Errorf("record why the machine of %s was ended: %w", r.ID, err)
	}
	return r, nil
}

// settle does what follows from the end of a runner. It may be repeated.
func (a *Activities) settle(ctx context.Context, r muster.Runner) error {
	if r.Purpose == muster.PurposeCheck {
		return a.settleCheck(ctx, r)
	}
	if err := a.writeWaste(ctx, r); err != nil {
		return err
	}
	if err := a.tellJob(ctx, r); err != nil {
		return err
	}
	if !r.LaunchedAt.IsZero() {
		if err := a.roomMade(ctx, r); err != nil {
			return err
		}
	}
	if !r.LaunchedAt.IsZero() && r.ListeningAt.IsZero() && !ranJob(r) && r.Drain == "" {
		a.noteRefusal(ctx, PoolRef{r.Workspace, r.Pool}, refusal{Text: "a machine was made, but its runner did not come up: " + r.Reason, Later: true})
	}
	return a.wake.pool(ctx, PoolRef{r.Workspace, r.Pool})
}

// tellJob wakes the workflow of a job whose runner is gone and whose end GitHub
// has not reported.
func (a *Activities) tellJob(ctx context.Context, r muster.Runner) error {
	key := cmp.Or(r.Job, r.JobHint) // a wrong hint costs one question
	if key.ID == 0 {
		return nil
	}
	j, err := a.Store.Job(ctx, r.Workspace, key)
	if muster.CodeOf(err) == muster.CodeNotFound || err == nil && j.State == muster.JobCompleted {
		return nil
	}
	if err != nil {
		return err
	}
	return a.wake.runnerGone(ctx, JobRef{Workspace: r.Workspace, Key: key})
}

// deleteUntilGone repeats Delete until the provider proves that nothing is left,
// for at most a few seconds; the activity's own retry goes on from there. why is what
// the provider saw of an end that it did not make itself.
func deleteUntilGone(ctx context.Context, b provider.Provider, id muster.RunnerID) (why string, err error) {
	pause := 10 * time.Millisecond
	for deadline := time.Now().Add(10 * time.Second); ; pause = min(2*pause, 500*time.Millisecond) {
		err := b.Delete(ctx, id)
		if errors.Is(err, provider.ErrNotFound) {
			if gone, ok := errors.AsType[*provider.GoneError](err); ok {
				why = gone.Detail
			}
			return why, nil
		}
		if err != nil {
			return "", err
		}
		if time.Now().After(deadline) {
			return "", errors.New("accepted, but not gone yet")
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(pause):
		}
	}
}

func (a *Activities) writeWaste(ctx context.Context, r muster.Runner) error {
	if ranJob(r) {
		return nil
	}
	pool, offering := a.priceOf(ctx, r.Workspace, r.Pool, r.Offering)
	w, wasted := usage.Waste(r, pool, offering, a.Book, a.Now())
	if !wasted {
		return nil
	}
	fresh, err := a.Store.WriteWaste(ctx, w)
	if err != nil {
		return fmt.Errorf("write waste of %s: %w", r.ID, err)
	}
	if fresh {
		a.Observer.Waste(w)
	}
	if fresh && r.For != 0 && !r.ListeningAt.IsZero() {
		a.countTry(ctx, a.Log, r)
	}
	return nil
}

// countTry counts a runner that was made for a job and never got it, nor another
// one of its pool: it listened in vain, or somebody else's job took it (4-2).
func (d *Deps) countTry(ctx context.Context, log *slog.Logger, r muster.Runner) {
	if err := d.Store.TriedJob(ctx, r.Workspace, r.For, d.Now()); err != nil {
		log.Warn("count a try for a job", "runner", r.ID, "job", r.For, "error", err) // one more try at most
	}
}

// priceOf reads what a receipt needs; a pool or offering that is gone from the
// configuration yields a zero value, and the receipt is written all the same.
func (a *Activities) priceOf(ctx context.Context, workspace, pool, offering string) (muster.Pool, muster.Offering) {
	p, err := a.Store.Pool(ctx, workspace, pool)
	if err != nil {
		p = muster.Pool{Name: pool, Workspace: workspace, Project: "default"}
	}
	o, err := a.Store.Offering(ctx, workspace, offering)
	if err != nil {
		o = muster.Offering{Name: offering}
	}
	return p, o
}

// CloseJob writes the receipt of a completed job, once.
func (a *Activities) CloseJob(ctx context.Context, ref JobRef) error {
	j, err := a.Store.Job(ctx, ref.Workspace, ref.Key)
	if err != nil {
		return err
	}
	var runner *muster.Runner
	pool, offering := j.Pool, ""
	if j.Runner != "" {
		r, err := a.Store.Runner(ctx, ref.Workspace, j.Runner)
		if err != nil && muster.CodeOf(err) != muster.CodeNotFound {
			return err
		}
		if err == nil {
			runner, pool, offering = &r, r.Pool, r.Offering
		}
	}
	if waited, lost := expired(j); lost {
		// Before the receipt: a crash in between counts the job twice under one
		// subject, never not at all.
		a.find(ctx, muster.Finding{Workspace: j.Workspace, Kind: "job_expired", Subject: ref.Key.String(),
			Action: fmt.Sprintf("none: GitHub gave it up after %s without a runner of pool %s", waited.Round(time.Minute), j.Pool)})
	}
	p, o := a.priceOf(ctx, ref.Workspace, pool, offering)
	rec := a.billKept(ctx, j, p, usage.Receipt(j, runner, p, o, a.Book, a.Now()))
	fresh, err := a.Store.WriteReceipt(ctx, rec)
	if err != nil {
		return fmt.Errorf("write receipt of job %s: %w", ref.Key, err)
	}
	if fresh {
		a.Observer.Receipt(rec)
		a.Log.Info("receipt written", "job", ref.Key.String(), "conclusion", rec.Conclusion, "pool", rec.Pool, "runner", rec.Runner,
			"queue", rec.Queue.String(), "run", rec.Run.String(), "cost_micro_usd", rec.CostMicroUSD, "trace_id", j.TraceID)
	}
	return nil
}

// expiry is how long GitHub keeps a job that no runner takes, less a margin for
// clocks in whole seconds.
const expiry = 24*time.Hour - time.Minute

// expired reports whether a completed job of one of our pools was given up by
// GitHub because nobody took it, and how long it had waited: the first zero of
// the promise.
func expired(j muster.Job) (waited time.Duration, lost bool) {
	if j.State != muster.JobCompleted || j.Pool == "" || j.RanOnRunner() || j.QueuedAt().IsZero() {
		return 0, false
	}
	switch j.Conclusion {
	case "cancelled", "failure", "timed_out":
	default: // skipped and the like never waited for a runner
		return 0, false
	}
	waited = j.CompletedAt.Sub(j.QueuedAt())
	return waited, waited >= expiry
}

// ReportCheck writes the job's state as a check run and returns its id (S0-8).
func (a *Activities) ReportCheck(ctx context.Context, ref JobRef, check int64) (int64, error) {
	j, err := a.Store.Job(ctx, ref.Workspace, ref.Key)
	if err != nil {
		return check, notFoundIsFinal(err)
	}
	gh, ok := a.GitHub[j.App]
	if !ok || j.HeadSHA == "" {
		return check, nil
	}
	c, err := a.check(ctx, j)
	if err != nil {
		return check, err
	}
	if check == 0 {
		return gh.CreateCheck(ctx, j.Repository, c)
	}
	return check, gh.UpdateCheck(ctx, j.Repository, check, c)
}

// askToDrain writes the wish to the row and wakes the runner's workflow.
func (a *Activities) askToDrain(ctx context.Context, workspace string, id muster.RunnerID, reason string) error {
	_, err := a.Store.UpdateRunner(ctx, workspace, id, a.Now(), "asked to drain: "+reason, func(r *muster.Runner) error {
		if r.Drain == "" {
			r.Drain = reason
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("ask %s to drain: %w", id, err)
	}
	return a.wake.runner(ctx, RunnerRef{workspace, id})
}

func notFoundIsFinal(err error) error {
	if muster.CodeOf(err) == muster.CodeNotFound {
		return final(err)
	}
	return err
}

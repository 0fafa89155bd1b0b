package lifecycle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/usage"
	"github.com/muster-ci/muster/provider"
)

// KeptStore is what kept machines need of the database.
type KeptStore interface {
	Machine(ctx context.Context, workspace string, id muster.MachineID) (muster.Machine, error)
	Machines(ctx context.Context, workspace string) ([]muster.Machine, error)
	UpdateMachine(ctx context.Context, workspace string, id muster.MachineID, change func(*muster.Machine) error) (muster.Machine, error)
	MachineDemand(ctx context.Context, workspace string, id muster.MachineID) (muster.MachineDemand, error)
}

// Alarms tells a queue outside about a machine's deadline, so that a control plane
// that is asleep by then is woken (C32). It decides nothing: what it misses, the
// machine's own timer does, and what comes of it is decided from the state of then.
type Alarms interface {
	Set(ctx context.Context, a muster.MachineAlarm) error
}

const (
	// keptRecheck is when to look again at a busy machine (S3-37).
	keptRecheck = time.Minute
	// keptInactive is how long a machine stays up after its last job when its pool
	// does not say (C1).
	keptInactive = 3 * time.Minute
	// keptWish is how long a wish to start is kept for a machine that cannot be
	// started at the moment (4-20).
	keptWish = 10 * time.Minute
	// keptAlarm is how many times in a row GitHub may give no answer about a machine
	// before that is a finding (4-18).
	keptAlarm = 5
	// ruleKeptMachine is the rule of decisions to start or stop a kept machine.
	ruleKeptMachine = "kept_machine"
	// keptOperation stands for the operation of a start that waits for the machine to
	// have stopped.
	keptOperation = "operation-pending"
)

// keptReply is what a wish comes to, with errors as values: the engine would keep
// of an error its text only.
type keptReply struct {
	Answer muster.MachineAnswer
	Code   muster.Code
	Text   string
}

// keptLimitsOf are the limits of a machine that several pools may keep: the most
// patient of each.
func (a *Activities) keptLimitsOf(d muster.MachineDemand) keptLimits {
	l := keptLimits{Recheck: keptRecheck}
	for _, p := range d.Pools {
		l.Inactive = max(l.Inactive, cmp.Or(time.Duration(p.InactiveMinutes)*time.Minute, keptInactive))
		l.Boot = max(l.Boot, cmp.Or(p.ConnectTimeout, a.Backends[p.Provider].ConnectTimeout))
		l.Rotation = max(l.Rotation, p.RotationInterval)
		l.MaxAge = max(l.MaxAge, p.MaxAge)
	}
	return l
}

// situation reads what a decision about a machine is taken from.
func (a *Activities) situation(ctx context.Context, ref MachineRef) (muster.Machine, muster.MachineDemand, error) {
	m, err := a.Store.Machine(ctx, ref.Workspace, ref.ID)
	if err != nil && muster.CodeOf(err) != muster.CodeNotFound {
		return m, muster.MachineDemand{}, fmt.Errorf("read machine %s: %w", ref.ID, err)
	}
	d, err := a.Store.MachineDemand(ctx, ref.Workspace, ref.ID)
	if err != nil {
		return m, d, fmt.Errorf("read the demand for machine %s: %w", ref.ID, err)
	}
	return m, d, nil
}

// LookAtKept decides a machine's next step, and keeps its one deadline: a new one
// gets a new generation, and makes every task of the old ones stale (4-19).
func (a *Activities) LookAtKept(ctx context.Context, ref MachineRef) (keptStep, error) {
	m, d, err := a.situation(ctx, ref)
	if err != nil {
		return keptStep{}, err
	}
	now := a.Now()
	s := nextKept(m, d, a.keptLimitsOf(d), now)
	s.Wait = s.Until.Sub(now)
	if s.Deadline.Equal(m.Deadline) && s.Reason == m.Reason {
		return s, nil
	}
	moved := false
	m, err = a.Store.UpdateMachine(ctx, ref.Workspace, ref.ID, func(m *muster.Machine) error {
		if moved = !s.Deadline.Equal(m.Deadline); moved {
			m.Deadline = s.Deadline
			m.Generation++
		}
		m.Reason = s.Reason
		return nil
	})
	if err != nil {
		return s, fmt.Errorf("record the deadline of machine %s: %w", ref.ID, err)
	}
	if moved && !m.Deadline.IsZero() {
		a.setAlarm(ctx, m)
	}
	return s, nil
}

func (a *Activities) setAlarm(ctx context.Context, m muster.Machine) {
	a.Log.Info("machine's deadline set", "machine", m.ID.String(), "deadline", m.Deadline.UTC().Format(time.RFC3339), "generation", m.Generation, "reason", m.Reason)
	if a.Alarms == nil {
		return
	}
	if err := a.Alarms.Set(ctx, muster.MachineAlarm{Machine: m.ID, Generation: m.Generation, At: m.Deadline}); err != nil {
		a.Log.Warn("the outer queue did not take a machine's deadline; the own timer keeps it", "machine", m.ID.String(), "error", err)
	}
}

// control is what starts and stops a machine.
func (a *Activities) control(id muster.MachineID) (provider.StartStopper, error) {
	b, ok := a.Backends[id.Provider]
	if !ok {
		return nil, muster.Errorf(muster.CodeInvalid, "provider %s of machine %s is not configured: add it", id.Provider, id.Name)
	}
	k, ok := provider.As[provider.StartStopper](b.Provider)
	if !ok {
		return nil, muster.Errorf(muster.CodeInvalid, "provider %s cannot start and stop machines that exist: use another for machine %s", id.Provider, id.Name)
	}
	return k, nil
}

func platformName(id muster.MachineID) provider.Machine {
	return provider.Machine{Name: id.Name, Zone: id.Zone}
}

// ObserveKept asks the platform how the machine stands.
func (a *Activities) ObserveKept(ctx context.Context, ref MachineRef, _ keptStep) error {
	_, err := a.observe(ctx, ref)
	return err
}

func (a *Activities) observe(ctx context.Context, ref MachineRef) (muster.Machine, error) {
	k, err := a.control(ref.ID)
	if err != nil {
		return muster.Machine{}, err
	}
	now := a.Now()
	st, err := k.Status(ctx, platformName(ref.ID))
	if err != nil {
		_, kept := a.Store.UpdateMachine(context.WithoutCancel(ctx), ref.Workspace, ref.ID, func(m *muster.Machine) error {
			if m.StatusError != err.Error() {
				m.StatusError, m.StatusErrorAt = err.Error(), now
			}
			return nil
		})
		if kept != nil {
			a.Log.Warn("why a machine's platform does not answer could not be kept", "machine", ref.ID.String(), "error", kept)
		}
		return muster.Machine{}, fmt.Errorf("status of machine %s: %w", ref.ID, err)
	}
	was := muster.MachineStatus("")
	m, err := a.Store.UpdateMachine(ctx, ref.Workspace, ref.ID, func(m *muster.Machine) error {
		was = m.Status
		if st.Status == muster.MachineRunning {
			m.StartBy = time.Time{} // it is up, whoever did it
			switch {
			case !st.UpAt.IsZero():
				m.UpAt = st.UpAt
			case m.Status != muster.MachineRunning || m.UpAt.IsZero():
				m.UpAt = now
			}
		}
		if st.Status == muster.MachineTerminated || st.Status == muster.MachineSuspended {
			m.StopAsked = time.Time{}
		}
		if st.Status != muster.MachineRunning && !st.Status.Starting() {
			m.Work, m.WorkAt, m.MissingAt = "", time.Time{}, time.Time{} // said of a life that is over
		}
		m.Status, m.StatusAt = st.Status, now
		m.StatusError, m.StatusErrorAt = "", time.Time{}
		return nil
	})
	if err != nil {
		return m, fmt.Errorf("record the status of machine %s: %w", ref.ID, err)
	}
	if was != m.Status {
		a.Log.Info("machine is "+string(m.Status), "machine", ref.ID.String(), "was", string(was), "detail", st.Detail)
	}
	return m, nil
}

// AskKept asks GitHub about every registration of the machine.
func (a *Activities) AskKept(ctx context.Context, ref MachineRef, _ keptStep) error {
	d, err := a.Store.MachineDemand(ctx, ref.Workspace, ref.ID)
	if err != nil {
		return fmt.Errorf("read the demand for machine %s: %w", ref.ID, err)
	}
	_, err = a.ask(ctx, ref, d)
	return err
}

// ask asks GitHub about every registration of the machine: with several, it is
// idle only if all of them are (S3-15, 4-21). What could not be learned is unknown,
// and unknown is busy (4-18).
func (a *Activities) ask(ctx context.Context, ref MachineRef, d muster.MachineDemand) (muster.Machine, error) {
	work := muster.WorkIdle
	worse := func(w muster.MachineWork) {
		order := []muster.MachineWork{muster.WorkIdle, muster.WorkMissing, muster.WorkUnknown, muster.WorkBusy}
		if slices.Index(order, w) > slices.Index(order, work) {
			work = w
		}
	}
	labels := map[string]muster.Labels{}
	asked := map[string]muster.RemoteRunner{}
	for _, p := range d.Pools {
		key := p.App + " " + p.Scope.String()
		r, known := asked[key]
		if !known {
			var err error
			r, err = a.registration(ctx, p)
			switch {
			case muster.CodeOf(err) == muster.CodeNotFound:
				worse(muster.WorkMissing)
			case err != nil:
				a.Log.Warn("machine's runner could not be looked up, which counts as busy", "machine", ref.ID.String(), "scope", p.Scope.String(), "error", err)
				worse(muster.WorkUnknown)
			case r.Busy:
				worse(muster.WorkBusy)
			}
			if err != nil {
				r = muster.RemoteRunner{}
			}
			asked[key] = r
		}
		if r.ID != 0 {
			labels[p.Name] = r.Labels
		}
	}
	now := a.Now()
	m, err := a.Store.UpdateMachine(ctx, ref.Workspace, ref.ID, func(m *muster.Machine) error {
		m.Work, m.WorkAt, m.AskedAt = work, now, now
		if work != muster.WorkMissing {
			m.MissingAt = time.Time{}
		} else if m.MissingAt.IsZero() || m.MissingAt.Before(cameUp(*m)) {
			m.MissingAt = now
		}
		if work != muster.WorkUnknown {
			m.Unknowns, m.UnknownAt = 0, time.Time{}
		} else {
			m.Unknowns++
			if m.UnknownAt.IsZero() {
				m.UnknownAt = now
			}
		}
		if m.Labels == nil {
			m.Labels = map[string]muster.Labels{}
		}
		for pool, l := range labels {
			m.Labels[pool] = l
		}
		return nil
	})
	if err != nil {
		return m, fmt.Errorf("record what GitHub says of machine %s: %w", ref.ID, err)
	}
	if m.Unknowns == keptAlarm {
		a.find(ctx, muster.Finding{Workspace: ref.Workspace, Kind: "machine_unknown", Subject: ref.ID.String(),
			Action: fmt.Sprintf("none: it stays up, because GitHub has not said for %s whether its runner is busy", now.Sub(m.UnknownAt).Round(time.Second))})
	}
	return m, nil
}

// registration finds the runner of a pool's machine. CodeNotFound says for certain
// that GitHub knows none, which an App that is not installed does not.
func (a *Activities) registration(ctx context.Context, p muster.Pool) (muster.RemoteRunner, error) {
	gh, ok := a.GitHub[p.App]
	if !ok {
		return muster.RemoteRunner{}, muster.Errorf(muster.CodeInvalid, "app %s is not configured", p.App)
	}
	r, err := gh.RunnerByName(ctx, p.Scope, p.Machine)
	if muster.CodeOf(err) != muster.CodeNotFound {
		return r, err
	}
	all, err := gh.Runners(ctx, p.Scope)
	if err != nil {
		return r, &muster.Error{Code: muster.CodeUnavailable, Message: "the runners of " + p.Scope.String() + " cannot be listed", Err: err}
	}
	for _, r := range all {
		if strings.EqualFold(r.Name, p.Machine) {
			return r, nil
		}
	}
	return r, muster.Errorf(muster.CodeNotFound, "no runner %s is registered at %s", p.Machine, p.Scope)
}

// StartKept asks the platform to start the machine.
func (a *Activities) StartKept(ctx context.Context, ref MachineRef, s keptStep) error {
	m, d, err := a.situation(ctx, ref)
	if err != nil {
		return err
	}
	if m.Status != muster.MachineTerminated || nextKept(m, d, a.keptLimitsOf(d), a.Now()).Act != keptStart {
		return nil // a repetition, or the jobs have gone meanwhile
	}
	_, err = a.start(ctx, ref, s.Reason)
	if err == nil {
		a.recordKept(ctx, d, muster.ScaleUp, s.Reason)
	}
	return err
}

func (a *Activities) start(ctx context.Context, ref MachineRef, reason string) (muster.Machine, error) {
	k, err := a.control(ref.ID)
	if err != nil {
		return muster.Machine{}, err
	}
	op, err := k.Start(ctx, platformName(ref.ID))
	if err != nil {
		return a.platformRefused(ctx, ref, "start", err)
	}
	now := a.Now()
	m, err := a.Store.UpdateMachine(ctx, ref.Workspace, ref.ID, func(m *muster.Machine) error {
		m.Status, m.StatusAt, m.StartedAt = muster.MachineProvisioning, now, now
		m.Operation = cmp.Or(op, m.Operation)
		m.StartBy, m.StopAsked, m.UpAt = time.Time{}, time.Time{}, time.Time{}
		m.Work, m.WorkAt, m.MissingAt = "", time.Time{}, time.Time{}
		m.Refusal, m.RefusedAt, m.Refusals = "", time.Time{}, 0
		m.Reason = reason
		return nil
	})
	if err != nil {
		return m, fmt.Errorf("record the start of machine %s: %w", ref.ID, err)
	}
	a.Log.Info("machine started", "machine", ref.ID.String(), "operation", op, "reason", reason)
	return m, nil
}

// platformRefused writes a refusal down, so that the next try waits for longer each
// time and the reason can be shown, and returns it.
func (a *Activities) platformRefused(ctx context.Context, ref MachineRef, verb string, cause error) (muster.Machine, error) {
	a.Log.Warn("platform refused", "machine", ref.ID.String(), "call", verb, "error", cause)
	m, err := a.Store.UpdateMachine(ctx, ref.Workspace, ref.ID, func(m *muster.Machine) error {
		m.Refusal, m.RefusedAt = cause.Error(), a.Now()
		m.Refusals++
		m.StatusAt = time.Time{} // it is not as we thought
		return nil
	})
	if err != nil {
		return m, fmt.Errorf("record that the platform refused to %s machine %s: %w", verb, ref.ID, err)
	}
	return m, final(fmt.Errorf("%s machine %s: %w", verb, ref.ID, cause))
}

// StopKept stops the machine. Right before, it looks once more whether a job has
// come and asks GitHub again: minutes may lie between decision and deed (4-17).
func (a *Activities) StopKept(ctx context.Context, ref MachineRef, s keptStep) error {
	m, d, err := a.situation(ctx, ref)
	if err != nil {
		return err
	}
	if !s.Forced {
		if _, err = a.ask(ctx, ref, d); err != nil {
			return err
		}
		if m, d, err = a.situation(ctx, ref); err != nil {
			return err
		}
	}
	if n := nextKept(m, d, a.keptLimitsOf(d), a.Now()); n.Act != keptStop || n.Forced != s.Forced {
		return nil // a job came, or a runner turned busy: the next look says what then
	}
	if s.Forced && m.Work != muster.WorkIdle && m.Work != muster.WorkMissing {
		a.find(ctx, muster.Finding{Workspace: ref.Workspace, Kind: "busy_killed", Subject: ref.ID.String(), Action: "stopped: " + s.Reason})
	}
	if _, err := a.stop(ctx, ref, s.Reason); err != nil {
		return err
	}
	a.recordKept(ctx, d, muster.ScaleDown, s.Reason)
	return nil
}

func (a *Activities) stop(ctx context.Context, ref MachineRef, reason string) (muster.Machine, error) {
	k, err := a.control(ref.ID)
	if err != nil {
		return muster.Machine{}, err
	}
	op, err := k.Stop(ctx, platformName(ref.ID))
	if err != nil {
		return a.platformRefused(ctx, ref, "stop", err)
	}
	now := a.Now()
	m, err := a.Store.UpdateMachine(ctx, ref.Workspace, ref.ID, func(m *muster.Machine) error {
		m.Status, m.StatusAt, m.StoppedAt = muster.MachineStopping, now, now
		m.Operation = cmp.Or(op, m.Operation)
		m.StopAsked = time.Time{}
		m.Work, m.WorkAt, m.MissingAt = "", time.Time{}, time.Time{}
		m.Refusal, m.RefusedAt, m.Refusals = "", time.Time{}, 0
		m.Deadline, m.Reason = time.Time{}, reason
		m.Generation++
		return nil
	})
	if err != nil {
		return m, fmt.Errorf("record the stop of machine %s: %w", ref.ID, err)
	}
	a.Log.Info("machine stopped", "machine", ref.ID.String(), "operation", op, "reason", reason)
	return m, nil
}

// recordKept writes a start or a stop into the decision logs of the pools that it
// is about, with the jobs that it was taken from.
func (a *Activities) recordKept(ctx context.Context, d muster.MachineDemand, action muster.ScalingAction, reason string) {
	now := a.Now()
	for _, p := range d.Pools {
		snap := muster.Snapshot{Pool: p, Suspended: slices.Contains(d.Held, p.Name)}
		for _, j := range slices.Concat(d.Running, d.Queued) {
			if j.Pool == p.Name {
				snap.Jobs = append(snap.Jobs, muster.PlanJob{ID: j.Key.ID, Attempt: j.Key.Attempt, State: j.State, QueuedAt: j.QueuedAt(), Repository: j.Repository})
			}
		}
		dec := muster.Decision{Rule: ruleKeptMachine, ScalingDecision: muster.ScalingDecision{Action: action, Reason: "machine " + p.Machine + ": " + reason}}
		if action == muster.ScaleUp {
			dec.Target = 1
		} else {
			dec.Current = 1
		}
		if _, err := a.Store.RecordDecision(ctx, muster.DecisionRecord{Workspace: p.Workspace, Pool: p.Name, At: now, Snapshot: snap, Decision: dec}); err != nil {
			a.Log.Error("record decision about machine", "machine", p.MachineID().String(), "pool", p.Name, "error", err)
		}
		a.Observer.Decided(p.Name, dec)
	}
}

// StartKeptByHand answers a wish to have the machine started now (S3-41). One that
// cannot be started at the moment is started as soon as it can (4-20).
func (a *Activities) StartKeptByHand(ctx context.Context, ref MachineRef, _ int64) (keptReply, error) {
	m, err := a.observe(ctx, ref)
	if err != nil {
		return replyOf(err)
	}
	switch {
	case m.Status == muster.MachineRunning:
		return keptReply{Answer: muster.MachineAnswer{Status: muster.MachineAnswerRunning}}, nil
	case m.Status.Starting():
		return keptReply{Answer: muster.MachineAnswer{Status: muster.MachineAnswerStarting, Operation: cmp.Or(m.Operation, keptOperation)}}, nil
	case m.Status == muster.MachineTerminated:
		if m, err = a.start(ctx, ref, "started by hand"); err != nil {
			return replyOf(err)
		}
		return keptReply{Answer: muster.MachineAnswer{Status: muster.MachineAnswerStarting, Operation: m.Operation}}, nil
	}
	until := a.Now().Add(keptWish)
	if _, err := a.Store.UpdateMachine(ctx, ref.Workspace, ref.ID, func(m *muster.Machine) error { m.StartBy = until; return nil }); err != nil {
		return replyOf(err)
	}
	return keptReply{Answer: muster.MachineAnswer{Status: muster.MachineAnswerStarting, Operation: keptOperation,
		Message: fmt.Sprintf("the machine is %s and is started as soon as it has stopped, until %s", m.Status, until.UTC().Format(time.TimeOnly))}}, nil
}

// StopKeptByHand answers a wish to have the machine stopped as soon as it is idle
// (S3-35…S3-40), or the task of a deadline, which has its generation: that one does
// what the machine's own timer would do, and nothing if it is not the current one.
func (a *Activities) StopKeptByHand(ctx context.Context, ref MachineRef, generation int64) (keptReply, error) {
	m, d, err := a.situation(ctx, ref)
	if err != nil {
		return replyOf(err)
	}
	if generation != 0 && (generation != m.Generation || m.Deadline.IsZero() || a.Now().Before(m.Deadline)) {
		return keptReply{Answer: muster.MachineAnswer{Status: muster.MachineAnswerSkipped, Message: "this task's deadline is not the machine's current one"}}, nil
	}
	if m, err = a.observe(ctx, ref); err != nil {
		return replyOf(err)
	}
	status := m.Status
	if m, err = a.ask(ctx, ref, d); err != nil { // S3-36
		return replyOf(err)
	}
	m.Status = status
	// A job may have come while the platform and GitHub were asked.
	if d, err = a.Store.MachineDemand(ctx, ref.Workspace, ref.ID); err != nil {
		return replyOf(fmt.Errorf("read the demand for machine %s: %w", ref.ID, err))
	}
	up := m.Status == muster.MachineRunning || m.Status.Starting()
	why := ""
	switch waiting := runnable(m, d); {
	case m.Work == muster.WorkBusy:
		why = "Runner is busy"
	case !up:
	case m.Work == muster.WorkUnknown:
		why = "GitHub did not say whether the runner is busy"
	case len(d.Running) > 0:
		why = "Job " + d.Running[0].Key.String() + " runs on it"
	case len(waiting) > 0:
		why = jobs(len(waiting), "waits", "wait") + " for it"
	case m.Work == muster.WorkMissing && !away(m, a.keptLimitsOf(d), cameUp(m)):
		why = "GitHub knows no runner of its name, which is believed at the second look"
	case m.Status.Starting():
		why = "It is on its way up"
	}
	switch {
	case why != "":
		if generation == 0 {
			if _, err := a.Store.UpdateMachine(ctx, ref.Workspace, ref.ID, func(m *muster.Machine) error {
				m.StopAsked = cmp.Or(m.StopAsked, m.AskedAt)
				return nil
			}); err != nil {
				return replyOf(err)
			}
		}
		return keptReply{Answer: muster.MachineAnswer{Status: muster.MachineAnswerBusy, Message: why + ", scheduled another stop task in 1 minute"}}, nil
	case m.Status == muster.MachineTerminated, m.Status == muster.MachineSuspended:
		return keptReply{Answer: muster.MachineAnswer{Status: muster.MachineAnswerStopped}}, nil
	case m.Status.Stopping():
		return keptReply{Answer: muster.MachineAnswer{Status: muster.MachineAnswerStopping, Operation: cmp.Or(m.Operation, keptOperation)}}, nil
	}
	reason := "stopped by hand"
	if generation != 0 {
		reason = cmp.Or(m.Reason, "its deadline has come")
	}
	if m, err = a.stop(ctx, ref, reason); err != nil {
		return replyOf(err)
	}
	a.recordKept(ctx, d, muster.ScaleDown, reason)
	return keptReply{Answer: muster.MachineAnswer{Status: muster.MachineAnswerStopping, Operation: m.Operation}}, nil
}

// replyOf turns an error into a reply. The platform's words stay in the log.
func replyOf(err error) (keptReply, error) {
	e, ours := errors.AsType[*muster.Error](err)
	switch {
	case ours:
		return keptReply{Code: e.Code, Text: e.Message}, nil
	case errors.Is(err, provider.ErrNotFound):
		return keptReply{Code: muster.CodeNotFound, Text: "the platform knows no such machine"}, nil
	case errors.Is(err, provider.ErrCapacity), errors.Is(err, provider.ErrQuota):
		return keptReply{Code: muster.CodeUnavailable, Text: "the platform has no room for the machine now"}, nil
	}
	return keptReply{Code: muster.CodeUnavailable, Text: "the platform did not do it; it is tried again while jobs wait"}, nil
}

// StartMachine asks for a kept machine to be started now, and says what comes of it.
// CodeNotFound for a machine that no pool keeps (4-33).
func (c *Client) StartMachine(ctx context.Context, workspace string, id muster.MachineID) (muster.MachineAnswer, error) {
	return c.askMachine(ctx, workspace, id, updateStart, 0)
}

// StopMachine asks for a kept machine to be stopped as soon as it is idle, and says
// what comes of it. With a generation it is the task of that deadline (4-19), and
// stale ones do nothing. CodeNotFound for a machine that no pool keeps (4-33).
func (c *Client) StopMachine(ctx context.Context, workspace string, id muster.MachineID, generation int64) (muster.MachineAnswer, error) {
	return c.askMachine(ctx, workspace, id, updateStop, generation)
}

func (c *Client) askMachine(ctx context.Context, workspace string, id muster.MachineID, update string, generation int64) (muster.MachineAnswer, error) {
	none := muster.MachineAnswer{}
	d, err := c.Store.MachineDemand(ctx, workspace, id)
	if err != nil {
		return none, fmt.Errorf("look up machine %s: %w", id, err)
	}
	if len(d.Pools) == 0 {
		return none, muster.Errorf(muster.CodeNotFound, "no pool keeps a machine %s", id)
	}
	ref := MachineRef{Workspace: workspace, ID: id}
	h, err := c.temporal.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: c.temporal.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
			ID: machineWorkflowID(ref), TaskQueue: TaskQueue, WorkflowTaskTimeout: taskTimeout,
			WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		}, KeptMachine, ref),
		UpdateOptions: client.UpdateWorkflowOptions{
			WorkflowID: machineWorkflowID(ref), UpdateName: update, Args: []any{generation}, WaitForStage: client.WorkflowUpdateStageCompleted,
		},
	})
	var reply keptReply
	if err == nil {
		err = h.Get(ctx, &reply)
	}
	if err != nil {
		return none, &muster.Error{Code: muster.CodeUnavailable, Message: "the machine's workflow did not answer in time: ask again", Err: fmt.Errorf("%s machine %s: %w", update, id, err)}
	}
	if reply.Code != "" {
		return none, &muster.Error{Code: reply.Code, Message: reply.Text}
	}
	return reply.Answer, nil
}

// The parts of the Sink that are about kept machines.

// keeping returns the pools as a job is to be routed: the labels of a kept pool's
// runner are those that it is registered with at GitHub, where they are known. Where
// they are not, any label of the job is taken to be among them, so that no job is
// lost for want of knowledge: the trigger rule alone decides then (C8, S3-12).
func (c *Client) keeping(ctx context.Context, workspace string, pools []muster.Pool) (func(muster.Job) []muster.Pool, error) {
	if !slices.ContainsFunc(pools, muster.Pool.Keeps) {
		return func(muster.Job) []muster.Pool { return pools }, nil
	}
	machines, err := c.Store.Machines(ctx, workspace)
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	known := map[string]muster.Labels{}
	for _, m := range machines {
		for pool, labels := range m.Labels {
			known[pool] = labels
		}
	}
	return func(j muster.Job) []muster.Pool {
		out := slices.Clone(pools)
		for i, p := range out {
			if !p.Keeps() {
				continue
			}
			labels, seen := known[p.Name]
			if !seen {
				labels = append(slices.Clone(p.RunnerLabels), j.Labels...)
			}
			out[i].RunnerLabels = labels
		}
		return out
	}, nil
}

// keptNews tells kept machines about a job's news: the one that it was counted for,
// and the one that it ran on. Completions of jobs that ran elsewhere change nothing
// (4-22). It may be repeated.
func (c *Client) keptNews(ctx context.Context, applied muster.Applied, e muster.JobEvent, pools []muster.Pool) error {
	j := applied.Job
	var told []muster.MachineID
	for _, p := range pools {
		ran := p.RunsOn(j)
		id := p.MachineID()
		if !p.Keeps() || p.Removed || slices.Contains(told, id) || !ran && p.Name != j.Pool {
			continue
		}
		told = append(told, id)
		if ran && j.State == muster.JobCompleted {
			// The first word of it counts, by our own clock (S3-33). A repetition after a
			// crash, or of a delivery, goes by GitHub's clock where there is one.
			done := e.ReceivedAt
			if applied.Change != muster.JobAdvanced {
				done = cmp.Or(j.CompletedAt, done)
			}
			_, err := c.Store.UpdateMachine(ctx, j.Workspace, id, func(m *muster.Machine) error {
				m.DoneAt = latest(m.DoneAt, done)
				return nil
			})
			if err != nil {
				return fmt.Errorf("record the end of job %s for machine %s: %w", j.Key, id, err)
			}
		}
		if err := c.machine(ctx, MachineRef{j.Workspace, id}); err != nil {
			return err
		}
	}
	return nil
}

// machine wakes a kept machine's workflow.
func (c *Client) machine(ctx context.Context, ref MachineRef) error {
	ctx, cancel := context.WithTimeout(ctx, signalTimeout)
	defer cancel()
	_, err := c.temporal.SignalWithStartWorkflow(ctx, machineWorkflowID(ref), signalLook, nil,
		client.StartWorkflowOptions{TaskQueue: TaskQueue, WorkflowTaskTimeout: taskTimeout}, KeptMachine, ref)
	if err != nil {
		return fmt.Errorf("signal workflow of machine %s: %w", ref.ID, err)
	}
	return nil
}

// keptPoolWait is how long the decision of a kept pool holds: the pool has no size,
// its machine's workflow decides.
const keptPoolWait = time.Hour

// billKept completes the receipt of a job that ran on a kept machine: it has no
// runner's row, and its price is that of its pool's offering (C2).
func (a *Activities) billKept(ctx context.Context, j muster.Job, p muster.Pool, r muster.Receipt) muster.Receipt {
	if j.Runner != "" || !p.RunsOn(j) {
		return r
	}
	o, err := a.Store.Offering(ctx, j.Workspace, p.Offering)
	if err != nil {
		o = muster.Offering{Name: p.Offering} // gone from the configuration, or never there: it costs nothing
	}
	r.Offering, r.PriceMicroUSD = o.Name, a.Book.Price(o)
	r.Billed = a.Book.Bill(r.Run)
	r.CostMicroUSD = usage.Cost(r.Billed, r.PriceMicroUSD)
	return r
}

// decideKept hands a nudge of a kept pool on to its machine.
func (a *Activities) decideKept(ctx context.Context, p muster.Pool) (Decided, error) {
	if err := a.wake.machine(ctx, MachineRef{p.Workspace, p.MachineID()}); err != nil {
		return Decided{}, err
	}
	return Decided{Wait: keptPoolWait, Gone: p.Removed}, nil
}

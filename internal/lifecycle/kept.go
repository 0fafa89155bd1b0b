package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/muster-ci/muster"
)

// MachineRef names a kept machine in workflow inputs.
type MachineRef struct {
	Workspace string
	ID        muster.MachineID
}

func machineWorkflowID(m MachineRef) string { return "machine/" + m.Workspace + "/" + m.ID.String() }

// The updates by which a machine's workflow is asked to start or stop it now, and
// answers what came of it.
const (
	updateStart = "start"
	updateStop  = "stop"
)

// KeptMachine is the single writer of a kept machine: started while jobs wait for
// it, stopped when none has run for a while. Each turn looks at the machine's row
// and its jobs, and a pure function says what to do; signals, updates and the one
// deadline only wake it. It ends when no pool keeps the machine any more.
func KeptMachine(ctx workflow.Context, ref MachineRef) error {
	looks := workflow.GetSignalChannel(ctx, signalLook)
	poked := workflow.NewBufferedChannel(ctx, 1)
	turn := workflow.NewMutex(ctx) // a wish waits for the step that is under way
	var a *Activities
	byHand := func(act any) func(workflow.Context, int64) (keptReply, error) {
		return func(ctx workflow.Context, generation int64) (reply keptReply, err error) {
			if err := turn.Lock(ctx); err != nil {
				return reply, err
			}
			defer turn.Unlock()
			err = workflow.ExecuteActivity(keptDoor(ctx), act, ref, generation).Get(ctx, &reply)
			poked.SendAsync(true)
			return reply, err
		}
	}
	if err := workflow.SetUpdateHandler(ctx, updateStart, byHand(a.StartKeptByHand)); err != nil {
		return err
	}
	if err := workflow.SetUpdateHandler(ctx, updateStop, byHand(a.StopKeptByHand)); err != nil {
		return err
	}
	gone := false
	for n := 0; n < stepsPerRun && !gone && !workflow.GetInfo(ctx).GetContinueAsNewSuggested(); n++ {
		s, err := keptTurn(ctx, turn, looks, poked, ref)
		if err != nil {
			return err
		}
		switch s.Act {
		case keptGone:
			gone = true
		case keptWait:
			awaitNews(ctx, looks, poked, s.Wait)
		}
	}
	// An update under way belongs to this run and would fail with it.
	if err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }); err != nil {
		return err
	}
	drainSignals(looks) // answered by the next run, which looks first thing
	if gone {
		return nil
	}
	return workflow.NewContinueAsNewError(ctx, KeptMachine, ref)
}

// keptTurn looks once and does what the look says. A step that failed becomes a wait.
func keptTurn(ctx workflow.Context, turn workflow.Mutex, looks workflow.ReceiveChannel, poked workflow.Channel, ref MachineRef) (s keptStep, err error) {
	if err := turn.Lock(ctx); err != nil {
		return s, err
	}
	defer turn.Unlock()
	drainSignals(looks)
	drainSignals(poked)
	var a *Activities
	if err := workflow.ExecuteLocalActivity(local(ctx), a.LookAtKept, ref).Get(ctx, &s); err != nil {
		return s, err
	}
	var act any
	switch s.Act {
	case keptObserve:
		act = a.ObserveKept
	case keptAsk:
		act = a.AskKept
	case keptStart:
		act = a.StartKept
	case keptStop:
		act = a.StopKept
	default:
		return s, nil
	}
	if err := workflow.ExecuteActivity(keptCall(ctx), act, ref, s).Get(ctx, nil); err != nil {
		// Platform or database failed for now. Nothing is decided without their word.
		s.Act, s.Wait = keptWait, keptAgain
	}
	return s, nil
}

// awaitNews returns at a signal, at a poke or after a while, whichever is first.
func awaitNews(ctx workflow.Context, looks, poked workflow.ReceiveChannel, wait time.Duration) {
	timerCtx, cancel := workflow.WithCancel(ctx)
	defer cancel()
	received := func(c workflow.ReceiveChannel, _ bool) { c.Receive(ctx, nil) }
	sel := workflow.NewSelector(ctx).AddReceive(looks, received).AddReceive(poked, received)
	sel.AddFuture(workflow.NewTimer(timerCtx, max(time.Second, wait)), func(workflow.Future) {})
	sel.Select(ctx)
}

// keptCall is the context of a step about a kept machine: tried a few times, then
// looked at anew.
func keptCall(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: time.Minute,
		HeartbeatTimeout:    heartbeatTimeout,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: time.Second, BackoffCoefficient: 2, MaximumAttempts: 3, NonRetryableErrorTypes: []string{finalError},
		},
	})
}

// keptDoor is the context of a step that somebody waits for at the door.
func keptDoor(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 20 * time.Second,
		HeartbeatTimeout:    heartbeatTimeout,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: 200 * time.Millisecond, MaximumAttempts: 2, NonRetryableErrorTypes: []string{finalError}},
	})
}

// keptAct is what to do about a kept machine next.
type keptAct string

const (
	keptWait    keptAct = "wait"    // until news or Until
	keptObserve keptAct = "observe" // ask the platform how the machine stands
	keptAsk     keptAct = "ask"     // ask GitHub whether its runners are busy
	keptStart   keptAct = "start"
	keptStop    keptAct = "stop"
	keptGone    keptAct = "gone" // no pool keeps it: hands off
)

// keptStep is the next step about a kept machine and why.
type keptStep struct {
	Act   keptAct
	Until time.Time
	// Wait is how long it is until Until, by the clock that Until was decided by.
	Wait time.Duration
	// Deadline is when the machine may be stopped if nothing speaks against it then;
	// zero while it may not, or is not up.
	Deadline time.Time
	Reason   string
	// Forced stops a machine that may be busy, which only its maximum age allows.
	Forced bool
}

// keptLimits are the times that bound one kept machine.
type keptLimits struct {
	// Inactive is how long it stays up after its last job (C1, C23).
	Inactive time.Duration
	// Boot is how long after coming up it may have no runner yet (C33).
	Boot time.Duration
	// Recheck is when to look again at one that was busy (S3-37).
	Recheck time.Duration
	// Rotation is the age from which it is stopped at its first idle moment (C20); 0 is never.
	Rotation time.Duration
	// MaxAge is how long it may be up without any news of a job, whatever GitHub says
	// of it (4-18, 4-24); 0 is for ever.
	MaxAge time.Duration
}

const (
	// keptFresh is how old an observation may be that something is done upon.
	keptFresh = 5 * time.Second
	// keptSettle is how often a machine is looked at that is on its way up or down.
	keptSettle = 5 * time.Second
	// keptWatch is how often a machine is looked at that should be up: the platform
	// may end it, as it ends spot machines.
	keptWatch = time.Minute
	// keptIdleLook is how often a machine is looked at that should be down: somebody
	// may start it by the platform's own console.
	keptIdleLook = 5 * time.Minute
	// keptIdleAsk and keptWantedAsk are how often GitHub is asked with what labels the
	// machine's runner is registered, while it is stopped and while jobs wait for it.
	keptIdleAsk   = time.Hour
	keptWantedAsk = 10 * time.Minute
	// keptAgain is the pause after a step that failed.
	keptAgain = 15 * time.Second
)

// nextKept decides the next step about a kept machine from what is known of it, the
// jobs that want it, and the time, and nothing else.
//
// It is started from the stopped state only (4-20), for jobs that its runner can
// run. It is stopped when no job waits for it or runs on it, it has been up and
// inactive for long enough (4-19), and GitHub has said, since then, that all of its
// runners are idle (4-21). Unknown is busy (4-18); a runner that is not found is
// believed to be away only at the second look (C33).
func nextKept(m muster.Machine, d muster.MachineDemand, l keptLimits, now time.Time) keptStep {
	if len(d.Pools) == 0 {
		return keptStep{Act: keptGone, Reason: "no pool keeps it"}
	}
	wanting := runnable(m, d)
	wanted := len(wanting) > 0 || now.Before(m.StartBy)
	look := func(every time.Duration, reason string, args ...any) keptStep {
		s := keptStep{Act: keptWait, Until: m.StatusAt.Add(every), Reason: fmt.Sprintf(reason, args...)}
		if !now.Before(s.Until) {
			s.Act = keptObserve
		}
		return s
	}
	refusedUntil := refusal{Count: m.Refusals, At: m.RefusedAt}.until()
	refused := func() (keptStep, bool) {
		return keptStep{Act: keptWait, Until: refusedUntil, Deadline: m.Deadline,
			Reason: fmt.Sprintf("the platform refused %d times in a row, last: %s", m.Refusals, m.Refusal)}, now.Before(refusedUntil)
	}
	switch {
	case m.Status == "":
		return keptStep{Act: keptObserve, Reason: "never looked at"}
	case m.Status.Starting():
		return look(keptSettle, "it is %s", m.Status)
	case m.Status.Stopping():
		return look(keptSettle, "it is %s and can be started once it has stopped", m.Status)
	case m.Status == muster.MachineTerminated && wanted:
		if s, wait := refused(); wait {
			return s
		}
		if s := look(keptFresh, "jobs wait"); s.Act == keptObserve {
			return s
		}
		if len(wanting) == 0 {
			return keptStep{Act: keptStart, Reason: "started by hand"}
		}
		return keptStep{Act: keptStart, Reason: fmt.Sprintf("%s for it, the first is job %s of %s", jobs(len(wanting), "waits", "wait"), wanting[0].Key, wanting[0].Repository)}
	case m.Status == muster.MachineTerminated && !now.Before(m.AskedAt.Add(keptIdleAsk)):
		return keptStep{Act: keptAsk, Reason: "stopped; GitHub is asked for the labels of its runner"}
	case m.Status == muster.MachineTerminated:
		return look(keptIdleLook, "stopped; %s", idleReason(d))
	case m.Status == muster.MachineSuspended:
		return look(keptWatch, "it is suspended by its platform: resume it there")
	case m.Status != muster.MachineRunning:
		return look(keptWatch, "its platform says %q, which is no status that can be acted upon", m.Status)
	}
	return nextUp(m, d, wanting, l, now, look, refused)
}

// nextUp is nextKept for a machine that is up.
func nextUp(m muster.Machine, d muster.MachineDemand, wanting []muster.Job, l keptLimits, now time.Time,
	look func(time.Duration, string, ...any) keptStep, refused func() (keptStep, bool)) keptStep {
	up := cameUp(m)
	news := latest(up, m.DoneAt)
	for _, j := range slices.Concat(d.Running, wanting) {
		news = latest(news, j.SeenAt, j.StartedAt)
	}
	if l.MaxAge > 0 && !now.Before(news.Add(l.MaxAge)) {
		if s, wait := refused(); wait {
			return s
		}
		return keptStep{Act: keptStop, Forced: true, Deadline: m.Deadline,
			Reason: fmt.Sprintf("no news of a job for %s, and no job can be that long; GitHub says %s", now.Sub(news).Round(time.Minute), orNothing(m.Work))}
	}
	if len(d.Running) > 0 {
		return asked(m, l, now, look(keptWatch, "job %s of %s runs on it", d.Running[0].Key, d.Running[0].Repository))
	}
	if len(wanting) > 0 {
		s := look(keptWatch, "%s for it", jobs(len(wanting), "waits", "wait"))
		if booted := up.Add(l.Boot); !now.Before(booted) && (m.AskedAt.Before(booted) || !now.Before(m.AskedAt.Add(keptWantedAsk))) {
			// They may wait for a runner with other labels, and then hold it up for nothing.
			s.Act = keptAsk
		}
		return asked(m, l, now, s)
	}

	due := up.Add(max(l.Boot, l.Inactive))
	why := fmt.Sprintf("no job since it came up at %s", up.UTC().Format(time.TimeOnly))
	if m.DoneAt.After(up) { // it has proven that it boots
		due = m.DoneAt.Add(l.Inactive)
		why = fmt.Sprintf("inactive since its last job ended at %s", m.DoneAt.UTC().Format(time.TimeOnly))
	}
	if l.Rotation > 0 && up.Add(max(l.Boot, l.Rotation)).Before(due) {
		due = up.Add(max(l.Boot, l.Rotation))
		why = fmt.Sprintf("up for %s, and idle", l.Rotation)
	}
	if !m.StopAsked.IsZero() && m.StopAsked.Before(due) {
		due, why = m.StopAsked, "asked to stop"
	}
	if !m.WorkAt.Before(due) { // GitHub was asked since then
		again := m.WorkAt.Add(l.Recheck)
		switch fresh := now.Before(m.WorkAt.Add(keptFresh)); {
		case m.Work == muster.WorkIdle && fresh, away(m, l, up) && fresh:
			if s, wait := refused(); wait {
				return s
			}
			return keptStep{Act: keptStop, Deadline: due, Reason: why}
		case m.Work == muster.WorkIdle: // too long ago to act upon
		case m.Work == muster.WorkMissing:
			due, why = latest(again, up.Add(l.Boot)), "GitHub knows no runner of its name: looked at again before it is believed"
		case m.Work == muster.WorkBusy:
			due, why = again, "GitHub says that its runner is busy"
		default:
			due, why = again, fmt.Sprintf("GitHub did not say whether its runner is busy, %d times in a row", m.Unknowns)
		}
	}
	s := keptStep{Act: keptWait, Until: due, Deadline: due, Reason: why}
	if !now.Before(due) {
		s.Act = keptAsk
	}
	return s
}

// asked makes a machine that somebody wants stopped, and that a job holds up, be
// looked at every Recheck (S3-37).
func asked(m muster.Machine, l keptLimits, now time.Time, s keptStep) keptStep {
	if m.StopAsked.IsZero() {
		return s
	}
	s.Deadline = latest(m.StopAsked, m.WorkAt.Add(l.Recheck))
	if now.Before(s.Deadline) {
		s.Until = earlier(s.Until, s.Deadline)
	} else {
		s.Act = keptAsk
	}
	return s
}

// away reports whether a runner that GitHub does not know may be believed to be
// away: seen missing twice since the machine came up, which had the time to boot (C33).
func away(m muster.Machine, l keptLimits, up time.Time) bool {
	return m.Work == muster.WorkMissing && !m.MissingAt.IsZero() && !m.MissingAt.Before(up) &&
		!m.WorkAt.Before(m.MissingAt.Add(l.Recheck)) && !m.WorkAt.Before(up.Add(l.Boot))
}

// runnable are the queued jobs that would run on the machine were it up: their pool
// may start it, and the labels that its runner is registered with have all of
// theirs (C8). While those are unknown, the trigger rule alone decides.
func runnable(m muster.Machine, d muster.MachineDemand) (out []muster.Job) {
	for _, j := range d.Queued {
		if slices.Contains(d.Held, j.Pool) {
			continue
		}
		if registered, known := m.Labels[j.Pool]; known && !j.Labels.SubsetOf(registered) {
			continue
		}
		out = append(out, j)
	}
	return out
}

// idleReason says why nothing is to be done for a stopped machine.
func idleReason(d muster.MachineDemand) string {
	if len(d.Queued) == 0 {
		return "no job waits"
	}
	if len(d.Held) > 0 {
		return fmt.Sprintf("%s, and pool %s may not start it now", jobs(len(d.Queued), "waits", "wait"), strings.Join(d.Held, ", "))
	}
	return fmt.Sprintf("%s, and its runner is not registered with their labels", jobs(len(d.Queued), "waits", "wait"))
}

func jobs(n int, one, many string) string {
	if n == 1 {
		return "1 job " + one
	}
	return fmt.Sprintf("%d jobs %s", n, many)
}

func orNothing(w muster.MachineWork) string {
	if w == "" {
		return "nothing"
	}
	return string(w)
}

// cameUp is when the machine came up, or is to.
func cameUp(m muster.Machine) time.Time { return latest(m.UpAt, m.StartedAt) }

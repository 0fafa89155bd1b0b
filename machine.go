package muster

import (
	"strings"
	"time"
)

// MachineID names a machine that is kept: it exists before Muster and after it,
// and Muster only starts and stops it. Its runner is registered at GitHub by hand,
// under the machine's name (S3-1).
type MachineID struct {
	Provider string `json:"provider"`
	// Zone is the platform's own word for where the machine is; it may be empty.
	Zone string `json:"zone,omitempty"`
	Name string `json:"name"`
}

// String is PROVIDER/ZONE/NAME, or PROVIDER/NAME without a zone.
func (m MachineID) String() string {
	if m.Zone == "" {
		return m.Provider + "/" + m.Name
	}
	return m.Provider + "/" + m.Zone + "/" + m.Name
}

// MachineStatus is what a platform says of a kept machine. The words are Compute
// Engine's, which has the most of them; other platforms map theirs to these.
type MachineStatus string

// The statuses of a kept machine. "" is unknown.
const (
	MachineProvisioning MachineStatus = "PROVISIONING"
	MachineStaging      MachineStatus = "STAGING"
	MachineRunning      MachineStatus = "RUNNING"
	MachineStopping     MachineStatus = "STOPPING"
	MachineTerminated   MachineStatus = "TERMINATED"
	MachineSuspending   MachineStatus = "SUSPENDING"
	MachineSuspended    MachineStatus = "SUSPENDED"
	MachineRepairing    MachineStatus = "REPAIRING"
)

// Starting reports whether the machine is on its way up.
func (s MachineStatus) Starting() bool {
	return s == MachineProvisioning || s == MachineStaging || s == MachineRepairing
}

// Stopping reports whether the machine is on its way down: a start would be refused (4-20).
func (s MachineStatus) Stopping() bool { return s == MachineStopping || s == MachineSuspending }

// MachineWork is what GitHub says of the runners of a kept machine, all of its
// registrations together: the worst of them (4-21).
type MachineWork string

// What GitHub may say. Unknown counts as busy (4-18).
const (
	WorkIdle    MachineWork = "idle"
	WorkBusy    MachineWork = "busy"
	WorkMissing MachineWork = "missing" // no registration under the machine's name
	WorkUnknown MachineWork = "unknown"
)

// Machine is what is known of a kept machine: facts only. What to do about it is
// decided from them and from its jobs, each time anew.
type Machine struct {
	Workspace string
	ID        MachineID

	// Status is the platform's word, as of StatusAt.
	Status   MachineStatus
	StatusAt time.Time
	// StatusError is why the platform did not say how the machine stands when it was
	// asked last, in its own words, since StatusErrorAt; "" if it did.
	StatusError   string
	StatusErrorAt time.Time
	// UpAt is when it came up last, by the platform or by when it was first seen up.
	UpAt time.Time
	// StartedAt and StoppedAt are when the platform last accepted a start or a stop
	// of ours; Operation is its name for the later of the two.
	StartedAt time.Time
	StoppedAt time.Time
	Operation string
	// StartBy is until when somebody's wish to have it started holds, zero for none;
	// the wish ends when the machine is up.
	StartBy time.Time
	// StopAsked is when somebody asked to have it stopped as soon as it is idle, zero
	// for nobody; a start, or its end, answers it.
	StopAsked time.Time
	// DoneAt is when Muster last heard of the end of a job that ran on it.
	DoneAt time.Time

	// Work is what GitHub said at WorkAt; a start or a stop makes it void. AskedAt is
	// when GitHub was last asked.
	Work    MachineWork
	WorkAt  time.Time
	AskedAt time.Time
	// MissingAt is since when no registration was found, zero while there is one;
	// UnknownAt since when GitHub gave no answer, Unknowns how many in a row.
	MissingAt time.Time
	UnknownAt time.Time
	Unknowns  int
	// Labels are those that the runner is registered with, by pool; a pool whose
	// registration was never seen is absent.
	Labels map[string]Labels

	// Deadline is when the machine may be stopped if nothing speaks against it then:
	// one per machine, zero for none. Generation names it: it rises with every new
	// deadline, and a task that carries another one is stale (4-19).
	Deadline   time.Time
	Generation int64

	// Refusal is the platform's last error to a start or a stop, and Refusals how
	// many there were in a row.
	Refusal   string
	RefusedAt time.Time
	Refusals  int

	// Reason says in words why it is as it is.
	Reason string
}

// Since is when the machine's status began, as far as that is known: a platform
// that starts or stops a machine on its own does not say when.
func (m Machine) Since() time.Time {
	switch {
	case m.Status == MachineRunning:
		return m.UpAt
	case m.Status.Starting() && m.StartedAt.After(m.StoppedAt):
		return m.StartedAt
	case (m.Status.Stopping() || m.Status == MachineTerminated) && m.StoppedAt.After(m.StartedAt) && m.StoppedAt.After(m.UpAt):
		return m.StoppedAt
	}
	return time.Time{}
}

// Occupation is whether a job runs on the machine, by the jobs that are known to
// and by GitHub's last word; "" while it is not up and when nobody was asked yet.
func (m Machine) Occupation(running []Job) MachineWork {
	switch {
	case len(running) > 0:
		return WorkBusy
	case m.Status != MachineRunning && !m.Status.Starting():
		return ""
	}
	return m.Work
}

// Next says what happens at the machine's deadline; "" if it has none.
func (m Machine) Next() string {
	if m.Deadline.IsZero() {
		return ""
	}
	return "GitHub is asked whether its runner is idle, and it is stopped if so"
}

// Trouble is the platform's last error about the machine in its own words and when
// it was, "" if its last answers were none.
func (m Machine) Trouble() (words string, at time.Time) {
	if m.StatusErrorAt.After(m.RefusedAt) {
		return m.StatusError, m.StatusErrorAt
	}
	return m.Refusal, m.RefusedAt
}

// MachineDemand is what a decision about a kept machine is taken from besides its
// own facts, all of one moment.
type MachineDemand struct {
	// Pools are those that start and stop the machine, in routing order. None means
	// that it is not Muster's any more.
	Pools []Pool
	// Held are the names of pools that may not start it now: disabled, or suspended
	// by an operator or by GitHub (C34).
	Held []string
	// Queued are the jobs of those pools that wait for a runner.
	Queued []Job
	// Running are the jobs that GitHub reported on this machine's runner and that
	// have not ended.
	Running []Job
}

// Keeps reports whether the pool is one that starts and stops machines.
func (p Pool) Keeps() bool { return p.Lifecycle == LifecycleKept }

// MachineID names the machine of a pool that keeps one.
func (p Pool) MachineID() MachineID {
	return MachineID{Provider: p.Provider, Zone: p.Zone, Name: p.Machine}
}

// RunsOn reports whether a job was taken by the runner of the pool's machine: the
// runner has the machine's name and belongs to the pool's scope (4-22).
func (p Pool) RunsOn(j Job) bool {
	return p.Keeps() && p.Machine != "" && strings.EqualFold(j.RunnerName, p.Machine) && p.Scope.Covers(j.Repository)
}

// The words of MachineAnswer.Status; the bodies of S3's endpoints carry them as they are.
const (
	MachineAnswerStarting = "starting"
	MachineAnswerRunning  = "already_running"
	MachineAnswerStopping = "stopping"
	MachineAnswerStopped  = "already_stopped"
	MachineAnswerBusy     = "busy"
	// MachineAnswerSkipped answers a task whose deadline is not the machine's current one.
	MachineAnswerSkipped = "skipped"
)

// MachineAnswer is what a wish to start or stop a machine comes to.
type MachineAnswer struct {
	Status string `json:"status"`
	// Operation is the platform's name of what was set in motion.
	Operation string `json:"operation,omitempty"`
	// Message says why, in words.
	Message string `json:"message,omitempty"`
}

// MachineAlarm is a machine's deadline, to be told to a queue outside that wakes
// a control plane which may be asleep by then (C32).
type MachineAlarm struct {
	Machine    MachineID
	Generation int64
	At         time.Time
}

package provider

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/muster-ci/muster"
)

// Classes of errors that every provider reports in the same way; test with
// errors.Is. The text around them is the platform's own and is shown to
// operators, so it never holds a secret.
var (
	// ErrNotFound is final: the instance is proven gone.
	ErrNotFound = errors.New("instance not found")
	// ErrCapacity: the platform has no room for this now; try another zone or size, or later.
	ErrCapacity = errors.New("no capacity")
	// ErrQuota: a limit is reached that an operator has to raise.
	ErrQuota = errors.New("quota exceeded")
	// ErrInvalid: the parameters can never work; never retried.
	ErrInvalid = errors.New("invalid instance parameters")
	// ErrTransient: the platform failed in a way that may pass; retried with back-off.
	ErrTransient = errors.New("provider failed for now")
)

// GoneError is ErrNotFound of a platform that saw why the instance went: it was
// preempted, its node is gone, somebody deleted it.
type GoneError struct{ Detail string }

func (e *GoneError) Error() string { return ErrNotFound.Error() + ": " + e.Detail }

// Unwrap makes it ErrNotFound.
func (e *GoneError) Unwrap() error { return ErrNotFound }

// Spec is what to start. Boot is secret: it is neither logged nor stored, and it
// reaches the machine by file, pipe or channel, never by argument (4-14).
type Spec struct {
	// Runner is the tag of the instance and the idempotency key of Create.
	Runner muster.RunnerID
	// Workspace and Pool are written as tags, for operators.
	Workspace string
	Pool      string
	// Owner tags every instance of one control plane, so that two of them can
	// share a platform without sweeping each other's machines.
	Owner    string
	Offering muster.Offering
	// Build is what the instance is asked for; platforms that decide by repository
	// look at it.
	Build muster.BuildRequest
	// Boot is what the agent needs to start.
	Boot Boot
	// MaxAge is the longest that the instance may live; a provider whose
	// platform can enforce it does. Zero means no limit.
	MaxAge time.Duration
	// TraceID follows the job through logs.
	TraceID string
	// Trace tells that the agent is to record its jobs. A provider whose instances share
	// a kernel may see to a recorder that they share.
	Trace bool
}

// Boot is what a machine is born with: where the control plane is and a token
// that works once.
type Boot struct {
	// URL is the base URL of the control plane as the machine can reach it.
	URL string
	// Token is the single-use boot token.
	Token muster.Secret
}

// InstanceState is a platform's view of an instance in three words.
type InstanceState string

// The states of an instance. An instance that has ended by itself but still
// costs something, or still has to be cleaned up, is InstanceEnded.
const (
	InstanceStarting InstanceState = "starting"
	InstanceRunning  InstanceState = "running"
	InstanceEnded    InstanceState = "ended"
)

// Instance is one machine, VM, pod, process or batch job, running one runner.
type Instance struct {
	// ID is the platform's own name for it.
	ID string
	// Runner is the runner that it was created for, from its tag.
	Runner muster.RunnerID
	State  InstanceState
	// Detail is the platform's own words about the state, e.g. why it ended. May be empty.
	Detail    string
	CreatedAt time.Time
}

// Provider starts and destroys instances on one platform. All methods are safe
// for concurrent use, respect the context's deadline, and return errors of the
// classes above, wrapped. An error of no class counts as ErrTransient.
type Provider interface {
	// Create asks the platform for an instance and returns once the platform has
	// accepted, not once it has booted. Create with a known spec.Runner returns
	// the instance that is there and starts nothing. When it returns an error,
	// an instance may still come to exist; the caller deletes by runner.
	Create(ctx context.Context, spec Spec) (Instance, error)
	// Delete asks for the end of a runner's instance: nil says that the request
	// was accepted, ErrNotFound that the instance is gone with all its parts
	// (disk, directory, address). Callers repeat until ErrNotFound.
	Delete(ctx context.Context, runner muster.RunnerID) error
	// Get finds the instance of a runner; ErrNotFound if the platform knows of none.
	Get(ctx context.Context, runner muster.RunnerID) (Instance, error)
	// List yields every instance of this owner that still costs something or
	// still has to be cleaned up, whatever its state. The sweep trusts it to
	// find leaks: it must not depend on anything that Create kept in memory.
	List(ctx context.Context) iter.Seq2[Instance, error]
}

// Machine names a machine that exists already and is kept: the platform's own
// name and, where the platform has zones, the zone.
type Machine struct {
	Name string
	Zone string
}

// MachineState is how a kept machine stands.
type MachineState struct {
	Status muster.MachineStatus
	// UpAt is when it was last started, zero if the platform does not say.
	UpAt time.Time
	// Detail is the platform's own words. May be empty.
	Detail string
}

// StartStopper is implemented by providers whose machines can be kept: stopped
// without being destroyed, and started again. The machines are the operator's;
// List and Get know nothing of them, and nothing deletes one. All methods are
// safe for concurrent use and return errors of the classes above; ErrNotFound
// means that the platform has no such machine.
type StartStopper interface {
	// Start asks for a stopped machine and returns the platform's name of the
	// operation once the request is accepted. A machine that is up or on its way up
	// needs nothing and gets "". One that is stopping or suspended is refused with
	// ErrTransient: callers look at Status and ask again (4-20).
	Start(ctx context.Context, m Machine) (operation string, err error)
	// Stop asks for the end of a running machine and returns once the request is
	// accepted. A machine that is stopped or stopping needs nothing and gets "".
	Stop(ctx context.Context, m Machine) (operation string, err error)
	// Status looks at a machine.
	Status(ctx context.Context, m Machine) (MachineState, error)
}

// Pricer is implemented by providers that know what an instance costs.
type Pricer interface {
	// PriceMicroUSD is the price of one minute, in millionths of a US dollar.
	PriceMicroUSD(ctx context.Context, offering muster.Offering) (int64, error)
}

// Consoler is implemented by providers that can show what a machine printed.
type Consoler interface {
	// Console returns the last bytes of the machine's own output, at most limit.
	Console(ctx context.Context, runner muster.RunnerID, limit int) ([]byte, error)
}

// Described is implemented by providers that say more about themselves.
type Described interface {
	Describe() Description
}

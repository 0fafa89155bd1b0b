package githubsim

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// FaultSettings are the misfortunes that a server can inflict. Rates are between 0
// (never) and 1 (always); durations of 0 are off. The zero value has none. Each
// is drawn from a stream of its own under Config.Seed.
type FaultSettings struct {
	// Deliveries. A dropped one is logged as failed and can be sent again; a lost
	// one leaves no trace at all. A duplicate has the same GUID or another one.
	DropDeliveries      float64  `json:"drop_deliveries"`
	LoseDeliveries      float64  `json:"lose_deliveries"`
	LoseCompleted       float64  `json:"lose_completed"` // only workflow_job completed
	DuplicateDeliveries float64  `json:"duplicate_deliveries"`
	DuplicateOtherGUID  float64  `json:"duplicate_other_guid"`
	ReorderDeliveries   float64  `json:"reorder_deliveries"` // held back so that later ones overtake
	ReorderWindow       Duration `json:"reorder_window"`
	DelayDeliveries     Duration `json:"delay_deliveries"` // each by a random time up to this
	ThrottleDeliveries  int      `json:"throttle_deliveries"`
	CheckRunNoise       float64  `json:"check_run_noise"` // extra completed events without a runner

	// QueuedWhileWaiting sends, for a job behind a gate, a queued event whose status
	// is waiting, beside the waiting event.
	QueuedWhileWaiting float64 `json:"queued_while_waiting"`
	// BadSignatures signs deliveries with another secret; sent again they are right.
	// UnknownInstallations sends each event a second time, of an installation that
	// never was.
	BadSignatures        float64 `json:"bad_signatures"`
	UnknownInstallations float64 `json:"unknown_installations"`

	// REST. Routes are part of "METHOD /path/{with}/names", empty for all.
	ServerErrors     float64  `json:"server_errors"`
	ServerErrorRoute string   `json:"server_error_route"`
	LoseAnswers      float64  `json:"lose_answers"` // 502 after the work was done
	LoseAnswerRoute  string   `json:"lose_answer_route"`
	LoseJITAnswers   float64  `json:"lose_jit_answers"` // the same for generate-jitconfig
	SlowAnswers      float64  `json:"slow_answers"`
	SlowFor          Duration `json:"slow_for"` // 10 s if 0
	EmptyAnswers     float64  `json:"empty_answers"`
	PrimaryLimit     int      `json:"primary_limit"`     // requests per hour and caller
	SecondaryLimit   float64  `json:"secondary_limit"`   // refused for no visible reason
	PrimaryRefusals  float64  `json:"primary_refusals"`  // refused as if the hour were used up, until RetryAfter is over
	RetryAfter       Duration `json:"retry_after"`       // of secondary limits, 60 s if 0
	NoRetryAfter     float64  `json:"no_retry_after"`    // share of secondary limits that do not say how long
	TooManyRequests  float64  `json:"too_many_requests"` // share of limits that answer 429 and not 403
	TokenReplication Duration `json:"token_replication"`
	ClockSkew        Duration `json:"clock_skew"` // GitHub's clock minus the clients'
	UnlistedRunners  float64  `json:"unlisted_runners"`
	// ServerErrors, SecondaryLimit and PrimaryRefusals strike only in the first
	// BurstFor of each BurstEvery of the server's clock; 0 is all the time.
	BurstEvery Duration `json:"burst_every"`
	BurstFor   Duration `json:"burst_for"`

	BusyGlitches     float64  `json:"busy_glitches"` // a look at a busy runner that reads false
	LyingBusy        Duration `json:"lying_busy"`    // busy reads false for so long after an assignment
	StatusLag        Duration `json:"status_lag"`    // a fresh runner reads offline for so long
	StuckRecords     float64  `json:"stuck_records"` // finished runners stay offline and busy …
	StuckFor         Duration `json:"stuck_for"`     // … for so long, 10 min if 0
	IdleReaper       Duration `json:"idle_reaper"`
	StealRunners     float64  `json:"steal_runners"`
	GhostRunners     float64  `json:"ghost_runners"`
	FalseLost        float64  `json:"false_lost"` // a good job is reported as lost communication
	SessionConflicts float64  `json:"session_conflicts"`

	// Scale sets. A message is what a listener is told of one job.
	RedeliverMessages   float64  `json:"redeliver_messages"`    // what is not acknowledged comes again though the poll names a later one
	ZeroCapacityTrap    float64  `json:"zero_capacity_trap"`    // a job queued at capacity 0 never reaches the set
	AcquireFlow         float64  `json:"acquire_flow"`          // jobs that are offered and must be acquired
	SessionLinger       Duration `json:"session_linger"`        // replaces Config.SetSessionLinger
	QueueUnauthorized   float64  `json:"queue_unauthorized"`    // 401 for a good token of the queue
	AdminUnauthorized   float64  `json:"admin_unauthorized"`    // 401 for a good token of the actions service
	LateMessages        Duration `json:"late_messages"`         // JobStarted and JobCompleted, each by a random time up to this
	DuplicateMessages   float64  `json:"duplicate_messages"`    // of these
	LoseMessages        float64  `json:"lose_messages"`         // of these
	NamelessMessages    float64  `json:"nameless_messages"`     // of these, without the runner
	EarlyCompleted      float64  `json:"early_completed"`       // JobCompleted while the job runs, and none when it ends
	LapseAssignments    Duration `json:"lapse_assignments"`     // a job that no runner took for so long is canceled and given away anew
	ZeroStatistics      float64  `json:"zero_statistics"`       // messages whose statistics are all 0
	StatisticsOnly      float64  `json:"statistics_only"`       // polls that end with a message without a body
	Crossover           float64  `json:"crossover"`             // a runner takes the set's newest job and not the oldest
	ArbitrarySets       float64  `json:"arbitrary_sets"`        // any set that fits gets the job, not the closest
	EmptyQueueURLs      float64  `json:"empty_queue_urls"`      // sessions without messageQueueUrl
	IgnoreDisableUpdate float64  `json:"ignore_disable_update"` // sets that do not keep disableUpdate
}

// Duration is a time.Duration that reads and writes as text in JSON ("1m30s").
type Duration time.Duration

// MarshalText is Duration.String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText parses what time.ParseDuration does.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// Hostile is GitHub on a bad day: everything that production reports, at rates
// that a control plane must survive without losing a job, a machine or a running
// job. Times are short enough for a test of minutes.
// Forged signatures are not GitHub's doing and stay off.
func Hostile() FaultSettings {
	return FaultSettings{
		DropDeliveries: 0.10, LoseDeliveries: 0.05, DuplicateDeliveries: 0.20, DuplicateOtherGUID: 0.05,
		ReorderDeliveries: 0.30, ReorderWindow: Duration(2 * time.Second), DelayDeliveries: Duration(200 * time.Millisecond),
		CheckRunNoise: 0.05, QueuedWhileWaiting: 0.5, ServerErrors: 0.02, LoseJITAnswers: 0.05, SlowAnswers: 0.01, SlowFor: Duration(2 * time.Second),
		SecondaryLimit: 0.01, RetryAfter: Duration(time.Second), TooManyRequests: 0.5, TokenReplication: Duration(200 * time.Millisecond),
		UnlistedRunners: 0.02, LyingBusy: Duration(time.Second), StatusLag: Duration(time.Second),
		StealRunners: 0.05, StuckRecords: 0.02, StuckFor: Duration(30 * time.Second), BusyGlitches: 0.02, NoRetryAfter: 0.2,
		UnknownInstallations: 0.02,
		RedeliverMessages:    0.1, AcquireFlow: 0.2, QueueUnauthorized: 0.02, LateMessages: Duration(500 * time.Millisecond), DuplicateMessages: 0.1,
		LoseMessages: 0.05, NamelessMessages: 0.05, ZeroStatistics: 0.1, StatisticsOnly: 0.1, Crossover: 0.2, ArbitrarySets: 0.5,
	}
}

// Faults switches misfortunes on and off while the server runs. Safe for
// concurrent use.
type Faults struct {
	s   *Server
	mu  sync.Mutex // serializes writers
	set atomic.Pointer[FaultSettings]
}

func newFaults(s *Server) *Faults {
	f := &Faults{s: s}
	f.set.Store(&FaultSettings{})
	return f
}

func (f *Faults) now() *FaultSettings { return f.set.Load() }

// Get returns the settings in force.
func (f *Faults) Get() FaultSettings { return *f.now() }

// Set replaces all settings, for example by Hostile().
func (f *Faults) Set(settings FaultSettings) {
	f.change(func(now *FaultSettings) { *now = settings })
}

// Off switches all faults off. What they did stays done.
func (f *Faults) Off() { f.Set(FaultSettings{}) }

func (f *Faults) change(edit func(*FaultSettings)) {
	f.mu.Lock()
	next := *f.now()
	edit(&next)
	before := f.set.Swap(&next)
	f.mu.Unlock()
	f.s.mu.Lock()
	f.s.act(Act{Faults: &next})
	f.s.mu.Unlock()
	if before.IdleReaper != next.IdleReaper {
		f.s.watchAllIdle()
	}
}

// DropDeliveries makes deliveries fail; they are logged and can be sent again.
func (f *Faults) DropDeliveries(rate float64) {
	f.change(func(n *FaultSettings) { n.DropDeliveries = rate })
}

// LoseDeliveries makes deliveries vanish without a trace in the log.
func (f *Faults) LoseDeliveries(rate float64) {
	f.change(func(n *FaultSettings) { n.LoseDeliveries = rate })
}

// LoseCompleted makes workflow_job completed events vanish.
func (f *Faults) LoseCompleted(rate float64) {
	f.change(func(n *FaultSettings) { n.LoseCompleted = rate })
}

// DuplicateDeliveries sends deliveries twice, under one GUID.
func (f *Faults) DuplicateDeliveries(rate float64) {
	f.change(func(n *FaultSettings) { n.DuplicateDeliveries = rate })
}

// DuplicateOtherGUID sends deliveries twice, the second under a GUID of its own.
func (f *Faults) DuplicateOtherGUID(rate float64) {
	f.change(func(n *FaultSettings) { n.DuplicateOtherGUID = rate })
}

// ReorderDeliveries holds deliveries back by up to window, so that later ones overtake.
func (f *Faults) ReorderDeliveries(rate float64, window time.Duration) {
	f.change(func(n *FaultSettings) { n.ReorderDeliveries, n.ReorderWindow = rate, Duration(window) })
}

// DelayDeliveries delays each delivery by a random time below most.
func (f *Faults) DelayDeliveries(most time.Duration) {
	f.change(func(n *FaultSettings) { n.DelayDeliveries = Duration(most) })
}

// ThrottleDeliveries lets through so many deliveries per second and App.
func (f *Faults) ThrottleDeliveries(perSecond int) {
	f.change(func(n *FaultSettings) { n.ThrottleDeliveries = perSecond })
}

// BadSignatures signs deliveries with another secret than the receiver's.
func (f *Faults) BadSignatures(rate float64) {
	f.change(func(n *FaultSettings) { n.BadSignatures = rate })
}

// UnknownInstallations sends events a second time, of an installation that never was.
func (f *Faults) UnknownInstallations(rate float64) {
	f.change(func(n *FaultSettings) { n.UnknownInstallations = rate })
}

// CheckRunNoise emits completed events of things that are no jobs.
func (f *Faults) CheckRunNoise(rate float64) {
	f.change(func(n *FaultSettings) { n.CheckRunNoise = rate })
}

// QueuedWhileWaiting announces jobs behind a gate as queued, too.
func (f *Faults) QueuedWhileWaiting(rate float64) {
	f.change(func(n *FaultSettings) { n.QueuedWhileWaiting = rate })
}

// ServerErrors answers 500, 502 or 503 without doing anything, on routes that
// contain the text ("POST /orgs", "generate-jitconfig", "" for all).
func (f *Faults) ServerErrors(rate float64, route string) {
	f.change(func(n *FaultSettings) { n.ServerErrors, n.ServerErrorRoute = rate, route })
}

// LoseAnswers does what was asked and answers 502, on routes that contain the text.
func (f *Faults) LoseAnswers(rate float64, route string) {
	f.change(func(n *FaultSettings) { n.LoseAnswers, n.LoseAnswerRoute = rate, route })
}

// LoseJITAnswers registers the runner of a generate-jitconfig and answers 502.
func (f *Faults) LoseJITAnswers(rate float64) {
	f.change(func(n *FaultSettings) { n.LoseJITAnswers = rate })
}

// SlowAnswers makes answers take d.
func (f *Faults) SlowAnswers(rate float64, d time.Duration) {
	f.change(func(n *FaultSettings) { n.SlowAnswers, n.SlowFor = rate, Duration(d) })
}

// EmptyAnswers makes successful reads answer without a body.
func (f *Faults) EmptyAnswers(rate float64) {
	f.change(func(n *FaultSettings) { n.EmptyAnswers = rate })
}

// PrimaryLimit gives every caller n requests per hour; 0 restores GitHub's rule.
func (f *Faults) PrimaryLimit(n int) { f.change(func(now *FaultSettings) { now.PrimaryLimit = n }) }

// SecondaryLimit refuses requests as GitHub's undisclosed limits do.
func (f *Faults) SecondaryLimit(rate float64, retryAfter time.Duration) {
	f.change(func(n *FaultSettings) { n.SecondaryLimit, n.RetryAfter = rate, Duration(retryAfter) })
}

// PrimaryRefusals refuses requests as if the caller's hour were used up; the reset
// is RetryAfter away.
func (f *Faults) PrimaryRefusals(rate float64, reset time.Duration) {
	f.change(func(n *FaultSettings) { n.PrimaryRefusals, n.RetryAfter = rate, Duration(reset) })
}

// NoRetryAfter leaves the Retry-After of secondary limits out.
func (f *Faults) NoRetryAfter(rate float64) {
	f.change(func(n *FaultSettings) { n.NoRetryAfter = rate })
}

// TooManyRequests makes limits answer 429 and not 403.
func (f *Faults) TooManyRequests(rate float64) {
	f.change(func(n *FaultSettings) { n.TooManyRequests = rate })
}

// Bursts lets server errors and both kinds of limits strike only in the first
// length of each span of the server's clock.
func (f *Faults) Bursts(every, length time.Duration) {
	f.change(func(n *FaultSettings) { n.BurstEvery, n.BurstFor = Duration(every), Duration(length) })
}

// bursting says whether what comes in bursts strikes now.
func (f *Faults) bursting() bool {
	set := f.now()
	every := time.Duration(set.BurstEvery)
	return every <= 0 || time.Duration(f.s.now().UnixNano()%int64(every)) < time.Duration(set.BurstFor)
}

// ExpireTokens makes all installation tokens of this moment invalid.
func (f *Faults) ExpireTokens() {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	f.s.expireTokens()
}

// TokenReplication makes new tokens answer 401 for so long.
func (f *Faults) TokenReplication(d time.Duration) {
	f.change(func(n *FaultSettings) { n.TokenReplication = Duration(d) })
}

// ClockSkew moves GitHub's clock ahead of the clients' by d, or behind.
func (f *Faults) ClockSkew(d time.Duration) {
	f.change(func(n *FaultSettings) { n.ClockSkew = Duration(d) })
}

// UnlistedRunners hides runners from lists, each time anew.
func (f *Faults) UnlistedRunners(rate float64) {
	f.change(func(n *FaultSettings) { n.UnlistedRunners = rate })
}

// LyingBusy makes busy read false for d after a job was assigned.
func (f *Faults) LyingBusy(d time.Duration) {
	f.change(func(n *FaultSettings) { n.LyingBusy = Duration(d) })
}

// BusyGlitches makes single looks at a busy runner read false.
func (f *Faults) BusyGlitches(rate float64) {
	f.change(func(n *FaultSettings) { n.BusyGlitches = rate })
}

// StatusLag makes a runner that just connected read offline for d.
func (f *Faults) StatusLag(d time.Duration) {
	f.change(func(n *FaultSettings) { n.StatusLag = Duration(d) })
}

// StuckRecords makes finished runners stay registered, offline and busy, for d.
func (f *Faults) StuckRecords(rate float64, d time.Duration) {
	f.change(func(n *FaultSettings) { n.StuckRecords, n.StuckFor = rate, Duration(d) })
}

// IdleReaper removes connected one-job runners that got no job for d.
func (f *Faults) IdleReaper(d time.Duration) {
	f.change(func(n *FaultSettings) { n.IdleReaper = Duration(d) })
}

// StealRunners gives idle runners to a job of somebody else that asks for fewer labels.
func (f *Faults) StealRunners(rate float64) {
	f.change(func(n *FaultSettings) { n.StealRunners = rate })
}

// GhostRunners loses the message of an assignment: the job is queued again, and
// the runner listens for ever without a registration.
func (f *Faults) GhostRunners(rate float64) {
	f.change(func(n *FaultSettings) { n.GhostRunners = rate })
}

// FalseLost reports good jobs as failed for lost communication.
func (f *Faults) FalseLost(rate float64) { f.change(func(n *FaultSettings) { n.FalseLost = rate }) }

// SessionConflicts refuses runners' sessions with 409.
func (f *Faults) SessionConflicts(rate float64) {
	f.change(func(n *FaultSettings) { n.SessionConflicts = rate })
}

func (f *Faults) skew() time.Duration       { return time.Duration(f.now().ClockSkew) }
func (f *Faults) tokenDelay() time.Duration { return time.Duration(f.now().TokenReplication) }

func (f *Faults) retryAfter() time.Duration {
	if d := time.Duration(f.now().RetryAfter); d > 0 {
		return d
	}
	return time.Minute
}

func (f *Faults) stuckFor() time.Duration {
	if d := time.Duration(f.now().StuckFor); d > 0 {
		return d
	}
	return 10 * time.Minute
}

// strike draws what happens to one REST request: how long it takes, the status
// that it fails with (0 for none), and whether its answer is lost.
func (f *Faults) strike(rt *route) (slow time.Duration, broken int, lost bool) {
	set := f.now()
	if set.ServerErrors+set.SlowAnswers+set.LoseAnswers+set.LoseJITAnswers == 0 {
		return 0, 0, false
	}
	name := rt.method + " " + rt.path
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	chance := f.s.chance
	if strings.Contains(name, set.ServerErrorRoute) && f.bursting() && chance.hit("server error", set.ServerErrors) {
		broken = []int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable}[chance.stream("server error").IntN(3)]
	}
	if chance.hit("slow", set.SlowAnswers) {
		f.s.fault("slow answer")
		if slow = time.Duration(set.SlowFor); slow <= 0 {
			slow = 10 * time.Second
		}
	}
	if set.LoseAnswers > 0 && strings.Contains(name, set.LoseAnswerRoute) {
		lost = chance.hit("lost answer", set.LoseAnswers)
	}
	if rt.jit() && chance.hit("lost JIT answer", set.LoseJITAnswers) {
		lost = true
	}
	return slow, broken, lost
}

func (rt *route) jit() bool {
	return strings.HasSuffix(rt.path, "/generate-jitconfig") || strings.HasSuffix(rt.path, "/generatejitconfig")
}

func (f *Faults) emptyBody(rt *route, status int) bool {
	set := f.now()
	if set.EmptyAnswers == 0 || rt.method != http.MethodGet || status != http.StatusOK {
		return false
	}
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	hit := f.s.chance.hit("empty answer", set.EmptyAnswers)
	if hit {
		f.s.fault("empty answer")
	}
	return hit
}

package githubsim

import (
	"crypto/rsa"
	"io"
	"log/slog"
	"time"
)

// Config holds the knobs of a Server. The zero Config is ready to use: it behaves
// like github.com on a good day. For every duration 0 means the default that is
// named with it and a negative value means none at all; for every count 0 means
// the default and a negative value means no limit.
type Config struct {
	// Seed makes the server's choices repeatable: ids, GUIDs, which idle runner
	// gets a job, and every fault. RSA keys are not repeatable.
	Seed uint64
	// Now is the server's clock; nil is time.Now. A clock that jumps must be
	// followed by Server.ClockChanged.
	Now func() time.Time
	// BaseURL is how clients reach the server, without a trailing slash. If it is
	// empty, Start fills it, or the host of the first REST request.
	BaseURL string
	// Logger receives one line per change of state; nil is silence.
	Logger *slog.Logger

	// EnterpriseServer imitates GitHub Enterprise Server: 30 s webhook time-out,
	// 7 days of deliveries, no rate limits, classic tokens, enterprise headers.
	EnterpriseServer bool
	// ClassicTokens hands out 40-character installation tokens unless a client
	// asks for the stateless shape of about 520 characters.
	ClassicTokens bool
	// TokenLifetime is how long an installation token lives (1 h), and
	// TokenReplication how long a new one still answers 401 (none).
	TokenLifetime, TokenReplication time.Duration
	// RegistrationLifetime is how long registration and remove tokens live (1 h).
	RegistrationLifetime time.Duration
	// ManifestLifetime is how long a manifest code lives (1 h).
	ManifestLifetime time.Duration

	// NoRateLimits switches primary and secondary limits off.
	NoRateLimits bool
	// CoreLimit replaces GitHub's rule for requests per hour and installation:
	// min(12500, 5000 + 50 for each repository above 20 + 50 for each user above 20).
	CoreLimit int
	// ConcurrentRequests (100), PointsPerMinute per route (900; a read costs 1, a
	// write 5), ContentPerMinute (80) and ContentPerHour (500) are the secondary limits.
	ConcurrentRequests, PointsPerMinute, ContentPerMinute, ContentPerHour int
	// JITIsContent makes generate-jitconfig count as creating content.
	JITIsContent bool
	// RegistrationsPer5Minutes is the most runners registered in one scope within
	// five minutes (1500).
	RegistrationsPer5Minutes int

	// HookTimeout is how long a webhook receiver may take (10 s).
	HookTimeout time.Duration
	// HookRetention is how long deliveries can be listed and sent again (72 h), and
	// HookLog how many of them per App are kept at most (20000).
	HookRetention time.Duration
	HookLog       int
	// HookConcurrency is how many deliveries of one App are under way at a time (64).
	HookConcurrency int
	// HookThrottle is the most deliveries per second and App; above it they are
	// held back and marked throttled. 0 is no throttling.
	HookThrottle int

	// PickupTimeout is how long an assigned runner may take to fetch its job
	// before the job is queued again (60 s).
	PickupTimeout time.Duration
	// QueueTimeout ends a job that nobody took (24 h).
	QueueTimeout time.Duration
	// JobLease is how long a running job survives without a renewal (10 min).
	JobLease time.Duration
	// CancelGrace is how long a runner may take to stop a cancelled job before the
	// server ends it (5 min).
	CancelGrace time.Duration
	// GateTimeout is how long a job waits for an approval (30 days).
	GateTimeout time.Duration
	// LongPoll is how long a request for a message hangs, a runner's or a scale
	// set's (50 s).
	LongPoll time.Duration
	// AdminTokenLifetime is how long the actions service's token lives that
	// runner-registration gives (1 h), and QueueTokenLifetime the one of a scale
	// set's session (1 h).
	AdminTokenLifetime, QueueTokenLifetime time.Duration
	// SetSessionLinger is how long the session of a scale set whose listener fell
	// silent keeps another from being opened (50 s).
	SetSessionLinger time.Duration
	// MessageBatch is how much one message of a scale set tells at most (50).
	MessageBatch int
	// OfflineAfter is how long a silent runner still counts as online, and a scale
	// set as listened to (60 s).
	OfflineAfter time.Duration
	// RecordLinger is how long a one-job runner stays registered and busy after its
	// job ended (2 s).
	RecordLinger time.Duration
	// IdleReaper removes connected one-job runners that got no job for so long.
	// 0 and below is never; production reports of 2026 speak of 2 to 6 minutes.
	IdleReaper time.Duration
	// AbsentEphemeral (24 h) and AbsentKept (14 days) remove runners that were not
	// connected for so long.
	AbsentEphemeral, AbsentKept time.Duration
	// LogLinkLifetime is how long the link to a job's log works (1 min).
	LogLinkLifetime time.Duration
	// Order is how queued jobs are served: "oldest" (default), "newest" or "random".
	Order Order
	// KeepAtAssignment keeps a one-job registration whose job was assigned but not
	// fetched. GitHub consumes it at assignment, so false is the default.
	KeepAtAssignment bool
	// DefaultGroupPrivate closes the Default runner group to public repositories.
	DefaultGroupPrivate bool

	// RunnerProgram returns the path of the runner program that the runner archive
	// is made of; nil means that no archive can be downloaded.
	RunnerProgram func() (string, error)
	// RunnerKey is the RSA key of 2048 bits that all JIT runners share; nil makes a few.
	RunnerKey *rsa.PrivateKey
	// RunnerVersion is what the downloads list offers ("2.336.0").
	RunnerVersion string
}

// Order says which of several waiting jobs a free runner gets.
type Order string

// The orders. GitHub promises none of them.
const (
	OldestFirst Order = "oldest"
	NewestFirst Order = "newest"
	RandomOrder Order = "random"
)

func (c Config) withDefaults() Config {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.Order == "" {
		c.Order = OldestFirst
	}
	if c.RunnerVersion == "" {
		c.RunnerVersion = "2.336.0"
	}
	hookTimeout, hookRetention := 10*time.Second, 72*time.Hour
	if c.EnterpriseServer {
		hookTimeout, hookRetention = 30*time.Second, 7*24*time.Hour
		c.NoRateLimits, c.ClassicTokens = true, true
	}
	for _, d := range []struct {
		knob  *time.Duration
		value time.Duration
	}{
		{&c.TokenLifetime, time.Hour},
		{&c.TokenReplication, 0},
		{&c.RegistrationLifetime, time.Hour},
		{&c.ManifestLifetime, time.Hour},
		{&c.HookTimeout, hookTimeout},
		{&c.HookRetention, hookRetention},
		{&c.PickupTimeout, time.Minute},
		{&c.QueueTimeout, 24 * time.Hour},
		{&c.JobLease, 10 * time.Minute},
		{&c.CancelGrace, 5 * time.Minute},
		{&c.GateTimeout, 30 * 24 * time.Hour},
		{&c.LongPoll, 50 * time.Second},
		{&c.AdminTokenLifetime, time.Hour},
		{&c.QueueTokenLifetime, time.Hour},
		{&c.SetSessionLinger, 50 * time.Second},
		{&c.OfflineAfter, time.Minute},
		{&c.RecordLinger, 2 * time.Second},
		{&c.IdleReaper, 0},
		{&c.AbsentEphemeral, 24 * time.Hour},
		{&c.AbsentKept, 14 * 24 * time.Hour},
		{&c.LogLinkLifetime, time.Minute},
	} {
		if *d.knob == 0 {
			*d.knob = d.value
		}
		*d.knob = max(*d.knob, 0)
	}
	for _, n := range []struct {
		knob  *int
		value int
	}{
		{&c.ConcurrentRequests, 100},
		{&c.PointsPerMinute, 900},
		{&c.ContentPerMinute, 80},
		{&c.ContentPerHour, 500},
		{&c.RegistrationsPer5Minutes, 1500},
		{&c.MessageBatch, 50},
		{&c.HookLog, 20000},
		{&c.HookConcurrency, 64},
	} {
		if *n.knob == 0 {
			*n.knob = n.value
		}
	}
	c.HookConcurrency = max(c.HookConcurrency, 1)
	return c
}

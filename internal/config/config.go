package config

import (
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// Config is a control plane's whole configuration after Load: defaults filled
// in, references checked, paths absolute, secrets read. It is a value; nothing
// changes it afterwards. Secrets are muster.Secret, so that printing a Config
// reveals none.
type Config struct {
	// File is the file that it was read from.
	File string
	// Name tags everything that this control plane creates on providers, so that
	// two of them can share a platform. Default "muster".
	Name string
	// DataDir holds the database of the embedded modes and generated keys.
	// Default "muster-data" beside the file.
	DataDir string
	// Listen is host:port of the one listener: webhooks, API, agents, dashboard.
	// Default 127.0.0.1:8080.
	Listen string
	// PublicURL is how machines and GitHub reach Listen, without a slash at the
	// end. Default is Listen with http or, if TLS is set, https.
	PublicURL string
	// TLS is set when Listen speaks TLS itself.
	TLS TLS
	// InsecureListen allows a Listen outside loopback without TLS (S4-66), for
	// use behind a proxy that terminates it.
	InsecureListen bool
	// OperatorToken is what callers of the API show; empty when none is asked
	// for, which only a loopback Listen allows. From operator_token_file or
	// MUSTER_OPERATOR_TOKEN.
	OperatorToken muster.Secret
	Database      Database
	// SecretKeyFile holds the key under which secrets are kept in the database. It
	// need not exist yet. Default DataDir/secret.key.
	SecretKeyFile string
	Engine        Engine
	Log           Log
	Telemetry     Telemetry
	Apps          []App
	Providers     []Provider
	Offerings     []muster.Offering
	PriceBook     PriceBook
	// Pools are in the order of the file, which is the order of routing; those of
	// the fleets file follow. Defaults are filled in (Pool.WithDefaults).
	Pools []muster.Pool
	// Budgets are what projects may spend in a month, in the order of the file, one
	// per project.
	Budgets []muster.CostBudget
	// TrackUnmatched keeps jobs that no pool wants, so that they can be explained;
	// otherwise they are counted only (C25).
	TrackUnmatched bool
	Times          Times
	// Traces says how the records of jobs are kept, and Webhooks who is told of findings.
	Traces   Traces
	Webhooks []Webhook
	// FleetsFile is the JSON file of `muster github-runner` (S1-85), "" if none.
	FleetsFile string
	// SlurmGateway is set when this process is, or is also, a Slurm gateway.
	SlurmGateway *SlurmGateway
	// GatewayOnly: there is no control plane in the file; what is set besides are File,
	// Name, DataDir and Log.
	GatewayOnly bool
	// RunnerManager is set when the whole Config comes from the environment of the
	// runner manager (LoadRunnerConfig).
	RunnerManager *RunnerManager
}

// TLS names a certificate and its key. Both empty: no TLS.
type TLS struct {
	CertFile string
	KeyFile  string
}

// Enabled reports whether TLS is configured.
func (t TLS) Enabled() bool { return t.CertFile != "" }

// Database says where state is kept.
type Database struct {
	// URL is "sqlite:PATH" with an absolute path, or "postgres://…" without a password.
	URL string
	// Password is MUSTER_DATABASE_PASSWORD; PostgreSQL only.
	Password muster.Secret
}

// DSN is URL with the password in its place. It is as secret as the password.
func (d Database) DSN() muster.Secret {
	u, err := url.Parse(d.URL)
	if d.Password == "" || err != nil || u.User == nil {
		return muster.Secret(d.URL)
	}
	u.User = url.UserPassword(u.User.Username(), d.Password.Reveal())
	return muster.Secret(u.String())
}

// Engine says where durable workflows run.
type Engine struct {
	// Address is host:port of a Temporal frontend; empty runs one in process.
	Address string
	// Namespace is Temporal's. Default "muster".
	Namespace string
	// CAFile, CertFile, KeyFile and ServerName are for TLS to Address; all empty: no TLS.
	CAFile     string
	CertFile   string
	KeyFile    string
	ServerName string
	// APIKey is for Temporal Cloud and the like. From api_key_file or MUSTER_ENGINE_API_KEY.
	APIKey muster.Secret
	// UIListen is host:port on loopback for the embedded engine's own pages; empty: none.
	UIListen string
}

// Log says how the control plane logs.
type Log struct {
	// Level is debug, info, warn or error. Default info.
	Level string
	// Format is text or json. Default text.
	Format string
}

// Telemetry says where traces of the control plane itself go.
type Telemetry struct {
	// OTLPEndpoint is the base URL of an OTLP/HTTP collector; empty: none.
	OTLPEndpoint string
}

// App is one GitHub App, or one token (C6). Exactly one of PrivateKey and Token is set.
type App struct {
	Name string
	// ID and ClientID name the App at GitHub; at least one is set for an App.
	ID       int64
	ClientID string
	// PrivateKey is the App's key in PEM.
	PrivateKey muster.Secret
	// WebhookSecret verifies deliveries; empty when the App is polled only.
	WebhookSecret muster.Secret
	// WebhookSecretPrevious is accepted too while the secret is rotated; may be empty.
	WebhookSecretPrevious muster.Secret
	// Token is a personal or fine-grained access token from the environment.
	Token muster.Secret
	// InstallationID, and by owner in lower case Installations, are used where GitHub
	// finds no installation of the App (C5); the file has neither.
	InstallationID int64
	Installations  map[string]int64
	// APIURL is the base of GitHub's REST API, without a slash at the end.
	// Default https://api.github.com.
	APIURL string
	// WebURL is the base of GitHub's pages. Default follows APIURL.
	WebURL string
	// MutationsPerMinute paces calls that change something, per route and
	// installation. 0 is GitHub's own limit, 180; negative is no pacing, for an
	// Enterprise Server without limits.
	MutationsPerMinute int
}

// Provider is one platform to run machines on. Config is decoded by the package of that kind.
type Provider struct {
	Name   string
	Kind   string
	Config Section
	// Zones are tried in this order; empty for a provider without.
	Zones []ProviderZone
}

// ProviderZone is one place of a provider. The keys of its Config stand in the place of
// those of the provider's.
type ProviderZone struct {
	Name   string
	Config Section
}

// PriceBook says how run time becomes money.
type PriceBook struct {
	// Currency is what prices are in; USD is the only one so far.
	Currency string
	// Rounding is the unit that a job's run time is rounded up to: a minute (the
	// default) or a second.
	Rounding time.Duration
}

// Times are intervals and deadlines; every one is a setting (design §7).
type Times struct {
	// Poll is how often GitHub is asked for queued jobs; the budget may stretch it.
	Poll time.Duration `yaml:"poll"`
	// Health is how often runners are compared with what GitHub says of them.
	Health time.Duration `yaml:"health"`
	// Sweep is how often providers, GitHub and the store are compared.
	Sweep time.Duration `yaml:"sweep"`
	// SweepGrace is how old something unknown must be before it is destroyed.
	SweepGrace time.Duration `yaml:"sweep_grace"`
	// RedeliveryScan is how often GitHub is asked for deliveries that did not arrive.
	RedeliveryScan time.Duration `yaml:"redelivery_scan"`
	// Heartbeat is how often an agent reports.
	Heartbeat time.Duration `yaml:"heartbeat"`
	// AgentLost is how long an agent may be silent before its runner is looked at.
	AgentLost time.Duration `yaml:"agent_lost"`
	// DeliveryRetention is how long deliveries are kept.
	DeliveryRetention time.Duration `yaml:"delivery_retention"`
	// APITimeout bounds each call of GitHub's API (S1-21).
	APITimeout time.Duration `yaml:"api_timeout"`
}

// DefaultTimes are the times of a configuration that sets none.
func DefaultTimes() Times {
	return Times{
		Poll:              60 * time.Second,
		Health:            120 * time.Second,
		Sweep:             120 * time.Second,
		SweepGrace:        5 * time.Minute,
		RedeliveryScan:    2 * time.Minute,
		Heartbeat:         15 * time.Second,
		AgentLost:         90 * time.Second,
		DeliveryRetention: 30 * 24 * time.Hour,
		APITimeout:        30 * time.Second,
	}
}

// Loopback reports whether a host, with or without a port, is this machine only:
// an address of 127.0.0.0/8 or ::1, or "localhost". The empty host is every
// interface and therefore not.
func Loopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

package config

import (
	"time"
)

// file is the configuration as it is written. Pointers are settings whose
// absence differs from their zero value.
type file struct {
	Name              string        `yaml:"name"`
	DataDir           string        `yaml:"data_dir"`
	Listen            string        `yaml:"listen"`
	PublicURL         string        `yaml:"public_url"`
	TLS               fileTLS       `yaml:"tls"`
	InsecureListen    bool          `yaml:"insecure_listen"`
	OperatorTokenFile string        `yaml:"operator_token_file"`
	Database          string        `yaml:"database"`
	SecretKeyFile     string        `yaml:"secret_key_file"`
	Engine            fileEngine    `yaml:"engine"`
	Log               fileLog       `yaml:"log"`
	Telemetry         fileTelemetry `yaml:"telemetry"`
	Apps              []fileApp     `yaml:"apps"`
	Providers         []fileKind    `yaml:"providers"`
	Offerings         []fileSize    `yaml:"offerings"`
	PriceBook         filePrices    `yaml:"price_book"`
	Pools             []filePool    `yaml:"pools"`
	// Teams are sets of repositories, owner/name with *, that quotas refer to.
	Teams          map[string]list `yaml:"teams"`
	Budgets        []fileBudget    `yaml:"budgets"`
	TrackUnmatched bool            `yaml:"track_unmatched"`
	Fleets         fileFleets      `yaml:"fleets"`
	Times          Times           `yaml:"times"`
	SlurmGateway   fileGateway     `yaml:"slurm_gateway"`
	Traces         fileTraces      `yaml:"traces"`
	WebhooksOut    []fileWebhook   `yaml:"webhooks_out"`
}

type fileTLS struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

type fileEngine struct {
	Address    string        `yaml:"address"`
	Namespace  string        `yaml:"namespace"`
	TLS        fileEngineTLS `yaml:"tls"`
	APIKeyFile string        `yaml:"api_key_file"`
	UIListen   string        `yaml:"ui_listen"`
}

type fileEngineTLS struct {
	CAFile     string `yaml:"ca_file"`
	CertFile   string `yaml:"cert_file"`
	KeyFile    string `yaml:"key_file"`
	ServerName string `yaml:"server_name"`
}

type fileLog struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

type fileTelemetry struct {
	OTLPEndpoint string `yaml:"otlp_endpoint"`
}

type fileApp struct {
	Name                      string `yaml:"name"`
	ID                        int64  `yaml:"id"`
	ClientID                  string `yaml:"client_id"`
	PrivateKeyFile            string `yaml:"private_key_file"`
	WebhookSecretFile         string `yaml:"webhook_secret_file"`
	WebhookSecretPreviousFile string `yaml:"webhook_secret_previous_file"`
	PollOnly                  bool   `yaml:"poll_only"`
	MutationsPerMinute        int    `yaml:"mutations_per_minute"`
	TokenEnv                  string `yaml:"token_env"`
	APIURL                    string `yaml:"api_url"`
	WebURL                    string `yaml:"web_url"`
}

type fileKind struct {
	Name   string     `yaml:"name"`
	Kind   string     `yaml:"kind"`
	Config Section    `yaml:"config"`
	Zones  []fileZone `yaml:"zones"`
}

type fileZone struct {
	Name   string  `yaml:"name"`
	Config Section `yaml:"config"`
}

type fileSize struct {
	Name          string  `yaml:"name"`
	CPUs          float64 `yaml:"cpus"`
	MemoryMiB     int64   `yaml:"memory_mib"`
	GPUs          int     `yaml:"gpus"`
	Image         string  `yaml:"image"`
	Spot          bool    `yaml:"spot"`
	Autoscale     bool    `yaml:"is_autoscale"`
	PriceMicroUSD *int64  `yaml:"price_micro_usd_per_minute"`
	PriceUSD      decimal `yaml:"price_usd_per_minute"`
}

type filePrices struct {
	Currency string `yaml:"currency"`
	Rounding string `yaml:"rounding"`
}

type filePool struct {
	Name             string         `yaml:"name"`
	Project          string         `yaml:"project"`
	App              string         `yaml:"app"`
	Scope            string         `yaml:"scope"`
	Labels           list           `yaml:"labels"`
	RunnerLabels     list           `yaml:"runner_labels"`
	RunnerGroup      *int64         `yaml:"runner_group"`
	Provider         string         `yaml:"provider"`
	Offering         string         `yaml:"offering"`
	Lifecycle        string         `yaml:"lifecycle"`
	Registration     string         `yaml:"registration"`
	Scaling          fileScaling    `yaml:"scaling"`
	Repositories     list           `yaml:"repositories"`
	AllowPublic      bool           `yaml:"allow_public"`
	ReportChecks     bool           `yaml:"report_checks"`
	MaxJobCount      *int           `yaml:"max_job_count"`
	NoJobTimeout     *time.Duration `yaml:"no_job_timeout"`
	RotationInterval *time.Duration `yaml:"rotation_interval"`
	MaxAge           *time.Duration `yaml:"max_age"`
	ConnectTimeout   *time.Duration `yaml:"connect_timeout"`
	Provisioning     *int           `yaml:"provisioning"`
	Enabled          *bool          `yaml:"enabled"`
	Suspended        bool           `yaml:"suspended"`
	ScaleSet         string         `yaml:"scale_set"`
	JobWait          time.Duration  `yaml:"job_wait"`
	Schedules        []fileSchedule `yaml:"schedules"`
	Overflow         fileOverflow   `yaml:"overflow"`
	Quotas           []fileQuota    `yaml:"quotas"`
	Priorities       []filePriority `yaml:"priorities"`
	Canary           fileCanary     `yaml:"canary"`
	InactiveMinutes  int            `yaml:"inactive_minutes"`
	Machine          string         `yaml:"machine"`
	Zone             string         `yaml:"zone"`
	Trace            filePoolTrace  `yaml:"trace"`
	Egress           fileEgress     `yaml:"egress"`
}

type fileSchedule struct {
	Cron       string        `yaml:"cron"`
	TimeZone   string        `yaml:"time_zone"`
	For        time.Duration `yaml:"for"`
	MinRunners *int          `yaml:"min_runners"`
	MaxRunners *int          `yaml:"max_runners"`
}

type fileOverflow struct {
	Pool  string         `yaml:"pool"`
	After *time.Duration `yaml:"after"`
}

type fileQuota struct {
	Name         string `yaml:"name"`
	Team         string `yaml:"team"`
	Repositories list   `yaml:"repositories"`
	Each         bool   `yaml:"each"`
	MaxRunners   *int   `yaml:"max_runners"`
}

type filePriority struct {
	Label      string `yaml:"label"`
	Branch     string `yaml:"branch"`
	Repository string `yaml:"repository"`
	Event      string `yaml:"event"`
	Weight     int    `yaml:"weight"`
}

type fileCanary struct {
	Offering    string `yaml:"offering"`
	Percent     int    `yaml:"percent"`
	MaxFailures int    `yaml:"max_failures"`
}

type fileBudget struct {
	Project      string  `yaml:"project"`
	MonthUSD     decimal `yaml:"month_usd"`
	WarnPercent  *int    `yaml:"warn_percent"`
	LowerPercent int     `yaml:"lower_percent"`
	StopPercent  int     `yaml:"stop_percent"`
}

type fileScaling struct {
	// Mode is on_demand (one runner per queued job, at once) or fleet (the
	// formula of S1-45…S1-51); it chooses the defaults of the rest.
	Mode               string         `yaml:"mode"`
	MinRunners         *int           `yaml:"min_runners"`
	MaxRunners         *int           `yaml:"max_runners"`
	JobsPerRunner      *int           `yaml:"jobs_per_runner"`
	ScaleUpThreshold   *int           `yaml:"scale_up_threshold"`
	ScaleDownThreshold *int           `yaml:"scale_down_threshold"`
	Cooldown           *time.Duration `yaml:"cooldown"`
	ScaleDownCooldown  time.Duration  `yaml:"scale_down_cooldown"`
	MinRunTime         time.Duration  `yaml:"min_run_time"`
}

type fileFleets struct {
	File     string `yaml:"file"`
	App      string `yaml:"app"`
	Provider string `yaml:"provider"`
	Offering string `yaml:"offering"`
}

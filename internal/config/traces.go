package config

import (
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// Traces says how the records of jobs are kept.
type Traces struct {
	// Bucket is a URL: file:///DIR, s3://NAME, gs://NAME or azblob://NAME with parameters;
	// "" keeps none and records none. Default is the directory traces in DataDir.
	Bucket string
	// Retention is how long events are kept. Default 30 days. Workspaces have those of the
	// workspaces that differ.
	Retention  time.Duration
	Workspaces map[string]time.Duration
	// SealDeadline is how long after a job a machine may take to deliver the rest of its
	// trace. Default 2 minutes.
	SealDeadline time.Duration
	// Rules is a folder with detection rules that are added to the shipped ones; "" for none.
	Rules string
}

// KeptFor is how long a workspace keeps the events of a trace.
func (t Traces) KeptFor(workspace string) time.Duration {
	if d, ok := t.Workspaces[workspace]; ok {
		return d
	}
	return t.Retention
}

// Webhook is somebody outside who is told of what happens.
type Webhook struct {
	Name string
	URL  string
	// Secret signs what is sent.
	Secret muster.Secret
	// Events are "finding" and "trace".
	Events []string
}

type fileTraces struct {
	Off          bool            `yaml:"off"`
	Bucket       string          `yaml:"bucket"`
	Retention    *time.Duration  `yaml:"retention"`
	Workspaces   []fileRetention `yaml:"workspaces"`
	SealDeadline *time.Duration  `yaml:"seal_deadline"`
	Rules        string          `yaml:"rules"`
}

type fileRetention struct {
	Name      string        `yaml:"name"`
	Retention time.Duration `yaml:"retention"`
}

type fileWebhook struct {
	Name       string `yaml:"name"`
	URL        string `yaml:"url"`
	SecretFile string `yaml:"secret_file"`
	Events     list   `yaml:"events"`
}

type filePoolTrace struct {
	Off       bool   `yaml:"off"`
	MaxEvents *int64 `yaml:"max_events"`
	MaxMiB    *int64 `yaml:"max_mib"`
}

type fileEgress struct {
	Mode     string `yaml:"mode"`
	Allow    list   `yaml:"allow"`
	NoGitHub bool   `yaml:"no_github"`
}

const (
	defaultRetention    = 30 * 24 * time.Hour
	defaultSealDeadline = 2 * time.Minute
)

// traces resolves how traces are kept. Whether the bucket can be opened is the server's to
// say, which knows the kinds of buckets.
func (l *loader) traces(f fileTraces, dataDir string) Traces {
	t := Traces{Bucket: f.Bucket, Retention: defaultRetention, SealDeadline: defaultSealDeadline}
	switch {
	case f.Off && f.Bucket != "":
		l.at("traces.off", "remove one of them", "traces has a bucket and is off")
	case f.Off:
		t.Bucket = ""
	case t.Bucket == "":
		t.Bucket = FolderURL(filepath.Join(dataDir, "traces"))
	case !strings.Contains(t.Bucket, ":"):
		t.Bucket = FolderURL(l.path(t.Bucket)) // a folder, as files are named elsewhere
	default:
		if u, err := url.Parse(t.Bucket); err != nil || u.User != nil {
			l.at("traces.bucket", "take it out: the service's own environment variables and files name credentials", "traces.bucket holds a password, or is no URL")
		}
	}
	least := func(key string, d *time.Duration, least time.Duration, into *time.Duration) {
		if d == nil {
			return
		}
		if *d < least {
			l.at("traces."+key, fmt.Sprintf("write %s or more", least), "traces.%s must be at least %s", key, least)
		}
		*into = *d
	}
	if f.Rules != "" {
		t.Rules = l.path(f.Rules)
	}
	least("retention", f.Retention, time.Hour, &t.Retention)
	least("seal_deadline", f.SealDeadline, time.Second, &t.SealDeadline)
	for i, w := range f.Workspaces {
		if w.Retention < time.Hour || !word.MatchString(w.Name) {
			l.at(fmt.Sprintf("traces.workspaces[%d]", i), "write {name: NAME, retention: 30d}, of an hour at least", "an entry of traces.workspaces has no workspace's name, or too short a time")
			continue
		}
		if t.Workspaces == nil {
			t.Workspaces = map[string]time.Duration{}
		}
		t.Workspaces[w.Name] = w.Retention
	}
	return t
}

// FolderURL is the URL of a bucket that is a folder.
func FolderURL(dir string) string {
	return (&url.URL{Scheme: "file", Path: "/" + strings.TrimPrefix(filepath.ToSlash(dir), "/")}).String()
}

// hookEvents are what outgoing webhooks may be told of.
var hookEvents = []string{"finding", "trace"}

func (l *loader) webhooksOut(fs []fileWebhook) (out []Webhook) {
	names := map[string]int{}
	for i, f := range fs {
		at := fmt.Sprintf("webhooks_out[%d]", i)
		l.name(at, "webhook", f.Name, names)
		h := Webhook{Name: f.Name, URL: f.URL, Events: f.Events, Secret: l.secret(at+".secret_file", f.SecretFile, "")}
		switch u, err := url.Parse(f.URL); {
		case f.URL == "":
			l.at(at, "set url to where it is called", "webhook %q has no url", f.Name)
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil:
			l.at(at+".url", "write https://HOST/PATH, without a password in it", "the url of webhook %q is none that can be called", f.Name)
		case u.Scheme == "http" && !Loopback(u.Host):
			l.at(at+".url", "use https: what is sent tells what jobs did", "the url of webhook %q is not https", f.Name)
		}
		if h.Secret == "" && f.SecretFile == "" {
			l.at(at, "put a long random text in a file, name it in secret_file, and have the receiver check signatures by it", "webhook %q has no secret", f.Name)
		}
		if len(f.Events) == 0 {
			h.Events = []string{"finding"}
		}
		for _, e := range f.Events {
			if !slices.Contains(hookEvents, e) {
				l.at(at+".events", "use "+strings.Join(hookEvents, ", "), "webhook %q wants to be told of %q, of which nobody is told", f.Name, e)
			}
		}
		out = append(out, h)
	}
	return out
}

// tracing completes a pool with what it records and what its jobs may reach.
func (l *loader) tracing(at string, f filePool, p *muster.Pool) {
	p.Trace.Off = f.Trace.Off
	p.Egress = muster.Egress{Mode: f.Egress.Mode, Allow: f.Egress.Allow, NoGitHub: f.Egress.NoGitHub}
	bound := func(key string, n *int64, unit int64) int64 {
		switch {
		case n == nil:
			return 0
		case *n < 0:
			l.at(at+".trace."+key, "write 0 for no bound, or remove it to get the default", "%s must not be negative", key)
			return 0
		case *n == 0:
			return -1 // as the domain has it
		}
		return *n * unit
	}
	p.Trace.MaxEvents = bound("max_events", f.Trace.MaxEvents, 1)
	p.Trace.MaxBytes = bound("max_mib", f.Trace.MaxMiB, 1<<20)
	if f.Egress.Mode != "" && f.Trace.Off {
		l.at(at+".egress", "record the pool's jobs: remove trace.off", "egress of pool %q is looked after by the recorder, which is off", f.Name)
	}
}

package muster_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
)

// C14 C31 S1-55 S1-56: what a pool is when little is said about it.
func TestPoolDefaults(t *testing.T) {
	p := muster.Pool{Name: "ci", Labels: muster.Labels{"Linux", "linux", "gpu"}}.WithDefaults()
	want := muster.Pool{
		Name: "ci", Workspace: "default", Project: "default", RunnerGroup: 1,
		Labels: muster.Labels{"Linux", "gpu"}, RunnerLabels: muster.Labels{"Linux", "gpu", "self-hosted", "X64"},
		Lifecycle: muster.LifecycleEphemeral, Registration: muster.RegistrationJIT, MaxJobCount: 1,
		Scaling:      muster.Scaling{MaxRunners: 10, JobsPerRunner: 1},
		NoJobTimeout: 2 * time.Minute, RotationInterval: 24 * time.Hour, MaxAge: 121 * time.Hour, Provisioning: 10, // C23 S1-112
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got %+v\nwant %+v", p, want)
	}
	if again := p.WithDefaults(); !reflect.DeepEqual(again, p) {
		t.Errorf("defaults of defaults: %+v", again)
	}
	limits := muster.Pool{Scaling: muster.Scaling{MaxRunners: 3}}.WithDefaults()
	if limits.Scaling != (muster.Scaling{MaxRunners: 3, JobsPerRunner: 1}) {
		t.Errorf("only limits set: %+v", limits.Scaling)
	}
	many := muster.Pool{MaxJobCount: 5, Scaling: muster.Scaling{MaxRunners: 3}}.WithDefaults()
	if many.Scaling.JobsPerRunner != 2 {
		t.Errorf("runners for many jobs: %+v", many.Scaling)
	}
	explicit := muster.Pool{Scaling: muster.Scaling{MaxRunners: 3, JobsPerRunner: 2}}.WithDefaults()
	if explicit.Scaling.JobsPerRunner != 2 {
		t.Error("jobs_per_runner, set explicitly, is overruled")
	}
}

// S1-80 S1-81 S1-102: every problem is named, each with a remedy.
func TestPoolValidation(t *testing.T) {
	good := pool(nil)
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*muster.Pool){
		"letters, digits, '-' and '_'":           func(p *muster.Pool) { p.Name = "a b" },
		`pool "ci\n"`:                            func(p *muster.Pool) { p.Name = "ci\n" },
		"scope kind":                             func(p *muster.Pool) { p.Scope = muster.Scope{} },
		"no labels":                              func(p *muster.Pool) { p.Labels = nil },
		`label "$(id)"`:                          func(p *muster.Pool) { p.Labels = muster.Labels{"$(id)"}; p.RunnerLabels = p.Labels },
		"runner_labels lack gpu":                 func(p *muster.Pool) { p.Labels = append(p.Labels, "gpu") },
		"no provider":                            func(p *muster.Pool) { p.Provider = "" },
		`lifecycle "rented" is unknown`:          func(p *muster.Pool) { p.Lifecycle = "rented" },
		`registration "paper" is unknown`:        func(p *muster.Pool) { p.Registration = "paper" },
		`repository "acme" is not owner/name`:    func(p *muster.Pool) { p.Repositories = []string{"acme"} },
		`repository "acme/.." is not owner/name`: func(p *muster.Pool) { p.Repositories = []string{"acme/.."} },
		"max_job_count and provisioning":         func(p *muster.Pool) { p.MaxJobCount = -1 },
		"times must not be negative":             func(p *muster.Pool) { p.MaxAge = -1 },
		"min_runners cannot be negative":         func(p *muster.Pool) { p.Scaling.MinRunners = -1 },
		"max_runners must be >= min_runners":     func(p *muster.Pool) { p.Scaling.MinRunners = 11 },
	} {
		p := good
		p.Labels = append(muster.Labels{}, good.Labels...)
		change(&p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	bad := good
	bad.Name, bad.Provider, bad.Lifecycle = "", "", ""
	if err := bad.Validate(); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("not all three problems: %v", err)
	}
}

// Which jobs a pool takes: S3-13 first match wins, a pool may be limited to
// repositories, 4-31 C2 kept machines and public repositories.
func TestRoute(t *testing.T) {
	job := muster.Job{App: "app", Repository: "acme/app", Labels: muster.Labels{"muster"}}
	named := func(name string, change func(*muster.Pool)) muster.Pool {
		return pool(func(p *muster.Pool) {
			p.Name = name
			if change != nil {
				change(p)
			}
		})
	}
	for _, c := range []struct {
		name  string
		pools []muster.Pool
		job   muster.Job
		want  string
	}{
		{"FirstWins", []muster.Pool{named("a", nil), named("b", nil)}, job, "a"},
		{"DisabledIsPassedOver", []muster.Pool{named("a", func(p *muster.Pool) { p.Enabled = false }), named("b", nil)}, job, "b"},
		{"DisabledWaits", []muster.Pool{named("a", func(p *muster.Pool) { p.Enabled = false }), named("b", func(p *muster.Pool) { p.Enabled = false })}, job, "a"}, // no job is lost
		{"RemovedIsHistory", []muster.Pool{named("a", func(p *muster.Pool) { p.Enabled, p.Removed = false, true })}, job, ""},
		{"OtherLabels", []muster.Pool{named("a", func(p *muster.Pool) { p.Labels = muster.Labels{"gpu"} }), named("b", nil)}, job, "b"},
		{"OtherScope", []muster.Pool{named("a", func(p *muster.Pool) { p.Scope.Owner = "other" })}, job, ""},
		{"OtherRepositories", []muster.Pool{named("a", func(p *muster.Pool) { p.Repositories = []string{"acme/lib"} })}, job, ""},
		{"ItsRepository", []muster.Pool{named("a", func(p *muster.Pool) { p.Repositories = []string{"Acme/App"} })}, job, "a"},
		{"OtherApp", []muster.Pool{named("a", func(p *muster.Pool) { p.App = "other" })}, job, ""},
		{"PublicOnKept", []muster.Pool{named("a", func(p *muster.Pool) { p.Lifecycle = muster.LifecycleKept })}, muster.Job{Repository: "acme/app", Labels: job.Labels, PublicRepo: true}, ""},
		{"PublicOnKeptAllowed", []muster.Pool{named("a", func(p *muster.Pool) { p.Lifecycle = muster.LifecycleKept; p.AllowPublic = true })}, muster.Job{Repository: "acme/app", Labels: job.Labels, PublicRepo: true}, "a"},
		{"PublicOnEphemeral", []muster.Pool{named("a", nil)}, muster.Job{Repository: "acme/app", Labels: job.Labels, PublicRepo: true}, "a"},
		{"NoPool", nil, job, ""}, // S3-14
	} {
		t.Run(c.name, func(t *testing.T) {
			p, ok := muster.Route(c.pools, c.job)
			if ok != (c.want != "") || p.Name != c.want {
				t.Errorf("routed to %q, %t", p.Name, ok)
			}
		})
	}
}

func TestOverride(t *testing.T) {
	yes, no, three, zero := true, false, 3, 0
	p := pool(nil)
	if got := p.Override(muster.PoolOverride{}); !reflect.DeepEqual(got, p) {
		t.Errorf("an empty override changes %+v", got)
	}
	got := p.Override(muster.PoolOverride{Enabled: &no, MinRunners: &three, MaxRunners: &zero})
	if got.Enabled || got.Scaling.MinRunners != 3 || got.Scaling.MaxRunners != 0 {
		t.Errorf("got %+v", got.Scaling)
	}
	if !got.Override(muster.PoolOverride{Enabled: &yes}).Enabled {
		t.Error("not enabled again")
	}
	if p.Scaling.MinRunners != 0 || !p.Enabled {
		t.Error("the pool itself was changed")
	}
}

func TestOffering(t *testing.T) {
	o := muster.Offering{Name: "large", CPUs: 2.5, MemoryMiB: 8192, GPUs: 1, PriceMicroUSD: 1000}
	if err := o.Validate(); err != nil || o.Size() != "2.5 vCPU, 8192 MiB" {
		t.Errorf("%v %q", err, o.Size())
	}
	for _, bad := range []muster.Offering{{}, {Name: "a b"}, {Name: "a", CPUs: -1}, {Name: "a", MemoryMiB: -1}, {Name: "a", GPUs: -1}, {Name: "a", PriceMicroUSD: -1}} {
		if muster.CodeOf(bad.Validate()) != muster.CodeInvalid {
			t.Errorf("%+v is valid", bad)
		}
	}
}

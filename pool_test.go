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

// The rules of a pool: what makes no sense is named, with what to do. 4-25 4-26
func TestPoolRulesValidation(t *testing.T) {
	good := pool(func(p *muster.Pool) {
		p.JobWait, p.InactiveMinutes, p.Overflow = time.Minute, 5, muster.Overflow{Pool: "big", After: time.Minute}
		p.Schedules = []muster.Schedule{{Cron: "0 8 * * *", For: time.Hour, MinRunners: ptr(1), MaxRunners: ptr(1)}}
		p.Quotas = []muster.Quota{{Name: "a", Repositories: []string{"acme/*", "*/b"}, MaxRunners: 0}, {Name: "b", Each: true, MaxRunners: 2}}
		p.Priorities = []muster.Priority{{Branch: "main", Weight: 1}, {Event: "push", Repository: "acme/*", Weight: -1}}
		p.Canary = muster.Canary{Offering: "next", Percent: 100}
		p.ScaleSet = "set"
	})
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	one := func(change func(*muster.Pool)) muster.Pool {
		p := pool(nil)
		change(&p)
		return p
	}
	schedules := func(s muster.Schedule) muster.Pool {
		return one(func(p *muster.Pool) { p.Schedules = []muster.Schedule{s} })
	}
	quotas := func(q ...muster.Quota) muster.Pool { return one(func(p *muster.Pool) { p.Quotas = q }) }
	priority := func(r muster.Priority) muster.Pool {
		return one(func(p *muster.Pool) { p.Priorities = []muster.Priority{r} })
	}
	canary := func(c muster.Canary) muster.Pool {
		return one(func(p *muster.Pool) { p.Offering, p.Canary = "small", c })
	}
	for _, c := range []struct {
		want string
		pool muster.Pool
	}{
		{"must not be negative", one(func(p *muster.Pool) { p.JobWait = -1 })},
		{"must not be negative", one(func(p *muster.Pool) { p.InactiveMinutes = -1 })},
		{"must not be negative", one(func(p *muster.Pool) { p.Overflow = muster.Overflow{Pool: "b", After: -1} })},
		{"overflow names no pool", one(func(p *muster.Pool) { p.Overflow.After = 1 })},
		{"overflows into itself", one(func(p *muster.Pool) { p.Overflow.Pool = p.Name })},
		{"scale_down_cooldown cannot be negative", one(func(p *muster.Pool) { p.Scaling.ScaleDownCooldown = -1 })},
		{"min_run_time cannot be negative", one(func(p *muster.Pool) { p.Scaling.MinRunTime = -1 })},
		{"character that is not allowed", one(func(p *muster.Pool) { p.ScaleSet = "a b" })},
		{"one job each", one(func(p *muster.Pool) { p.ScaleSet, p.Lifecycle = "a", muster.LifecycleKept })},
		{"register by jit", one(func(p *muster.Pool) { p.ScaleSet, p.Registration = "a", muster.RegistrationToken })},
		{"no cron", schedules(muster.Schedule{For: 1, MinRunners: ptr(1)})},
		{"needs for", schedules(muster.Schedule{Cron: "* * * * *", MinRunners: ptr(1)})},
		{"changes nothing", schedules(muster.Schedule{Cron: "* * * * *", For: 1})},
		{"negative limit", schedules(muster.Schedule{Cron: "* * * * *", For: 1, MaxRunners: ptr(-1)})},
		{"max_runners must be >= min_runners", schedules(muster.Schedule{Cron: "* * * * *", For: 1, MinRunners: ptr(2), MaxRunners: ptr(1)})},
		{"quota 1 has no name", quotas(muster.Quota{MaxRunners: 1})},
		{`two quotas are named "a"`, quotas(muster.Quota{Name: "a"}, muster.Quota{Name: "a"})},
		{"max_runners cannot be negative", quotas(muster.Quota{Name: "a", MaxRunners: -1})},
		{"is not owner/name with *", quotas(muster.Quota{Name: "a", Repositories: []string{"a b"}})},
		{"no condition", priority(muster.Priority{Weight: 1})},
		{"no weight", priority(muster.Priority{Branch: "main"})},
		{"is not owner/name with *", priority(muster.Priority{Repository: "a b", Weight: 1})},
		{"names no offering", canary(muster.Canary{Percent: 1})},
		{"own offering", canary(muster.Canary{Offering: "small", Percent: 1})},
		{"percent 0 is not a share", canary(muster.Canary{Offering: "next"})},
		{"percent 101 is not a share", canary(muster.Canary{Offering: "next", Percent: 101})},
		{"max_failures cannot be negative", canary(muster.Canary{Offering: "next", Percent: 1, MaxFailures: -1})},
	} {
		if err := c.pool.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
	if p := (muster.Pool{ScaleSet: "set"}).WithDefaults(); p.Labels.String() != "set" {
		t.Errorf("a scale set's jobs ask for its name, not %s", p.Labels)
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

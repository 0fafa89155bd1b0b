package muster_test

import (
	gocmp "cmp"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/schedule"
)

// scalingExample is one block of docs/scaling.md: a pool as it is configured, what
// is there, and what is decided.
type scalingExample struct {
	Pool    yaml.MapSlice `yaml:"pool"`
	Budget  yaml.MapSlice `yaml:"budget"`
	Spent   int64         `yaml:"spent_usd"`
	At      string        `yaml:"at"`
	Jobs    []string      `yaml:"jobs"`
	Runners []string      `yaml:"runners"`
	Scaled  string        `yaml:"last_scaling"`
	Unknown bool          `yaml:"demand_unknown"`
	Room    int           `yaml:"provider_room"`
	Decide  scalingAnswer `yaml:"decide"`
}

// scalingAnswer is a decision as the page writes it. What it does not name is
// zero, but For and Wake, which it may leave out.
type scalingAnswer struct {
	Action   string `yaml:"action"`
	Rule     string `yaml:"rule"`
	Create   int    `yaml:"create"`
	Warm     int    `yaml:"warm"`
	Drain    int    `yaml:"drain"`
	Canary   int    `yaml:"canary"`
	For      string `yaml:"for"`
	Overflow string `yaml:"overflow"`
	Wake     string `yaml:"wake"`
	Reason   string `yaml:"reason"`
}

var (
	exampleBlock = regexp.MustCompile("(?ms)^```yaml example\n(.*?)^```$")
	exampleJobs  = regexp.MustCompile(`\A(\d+) (queued|running) of (\S+)(?: on (\S+))?(?: for (\S+))?\z`)
	exampleFleet = regexp.MustCompile(`\A(\d+) (busy|idle|starting|draining)(?: for (\S+))?\z`)
)

// S1-43 S4-17 S4-52 S4-53 S4-54 4-26 4-27: the page from which operators predict
// decisions says what Plan decides, word for word.
func TestScalingPage(t *testing.T) {
	page, err := os.ReadFile("docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	app := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := os.WriteFile(filepath.Join(dir, "app.pem"), app, 0o600); err != nil {
		t.Fatal(err)
	}
	blocks := exampleBlock.FindAllSubmatchIndex(page, -1)
	if len(blocks) < 15 || len(blocks) != strings.Count(string(page), "```yaml example") {
		t.Fatalf("%d examples found", len(blocks))
	}
	rules := map[string]bool{}
	for _, at := range blocks {
		line := 1 + strings.Count(string(page[:at[2]]), "\n")
		t.Run(fmt.Sprint("Line", line), func(t *testing.T) {
			var e scalingExample
			if err := yaml.UnmarshalWithOptions(page[at[2]:at[3]], &e, yaml.Strict()); err != nil {
				t.Fatal(err)
			}
			snap, now := e.snapshot(t, dir)
			d := muster.Plan(snap, now)
			rules[d.Rule] = true
			got := scalingAnswer{Action: string(d.Action), Rule: d.Rule, Create: d.Create, Warm: d.Warm, Drain: len(d.Drain), Canary: d.Canary, Reason: d.Reason}
			repo := map[int64]string{}
			for _, j := range snap.Jobs {
				repo[j.ID] = j.Repository
			}
			names := func(ids []int64) string {
				var out []string
				for _, id := range ids {
					out = append(out, repo[id])
				}
				return strings.Join(out, " ")
			}
			got.Overflow = names(d.Overflow)
			if e.Decide.For != "" {
				got.For = names(d.For)
			}
			if e.Decide.Wake != "" {
				got.Wake = d.WakeAt.Sub(now).String()
			}
			if diff := cmp.Diff(e.Decide, got); diff != "" {
				t.Errorf("docs/scaling.md:%d says otherwise:\n%s", line, diff)
			}
		})
	}
	for _, rule := range []string{
		muster.RuleFormula, muster.RuleCooldown, muster.RuleStarvation, muster.RuleWarmFloor, muster.RuleLimit, muster.RuleProvisioningLimit, muster.RuleNoData,
		muster.RuleQuota, muster.RuleJobWait, muster.RulePoolSuspended, muster.RuleBudget, muster.RuleSchedule, muster.RuleOverflow, muster.RuleRotation,
	} {
		if !rules[rule] {
			t.Errorf("no example is decided by %s", rule)
		}
	}
	for _, setting := range []string{
		"min_runners", "max_runners", "jobs_per_runner", "scale_up_threshold", "scale_down_threshold", "cooldown", "scale_down_cooldown", "min_run_time", "provisioning",
		"no_job_timeout", "rotation_interval", "max_age", "suspended", "enabled", "job_wait", "schedules", "overflow", "quotas", "teams", "priorities", "canary", "budgets", "inactive_minutes",
	} {
		if !strings.Contains(string(page), "`"+setting+"`") {
			t.Errorf("the page does not say what `%s` does", setting)
		}
	}
}

// snapshot is what the example describes, with the pool as the configuration's own
// loader reads it.
func (e scalingExample) snapshot(t *testing.T, dir string) (muster.Snapshot, time.Time) {
	t.Helper()
	now, err := time.Parse("2006-01-02 15:04", gocmp.Or(e.At, "2026-03-04 12:00"))
	if err != nil {
		t.Fatal(err)
	}
	ago := func(s string) time.Time {
		if s == "" {
			return now
		}
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return now.Add(-d)
	}
	written := map[string]any{
		"apps":      []any{map[string]any{"name": "main", "id": 1, "private_key_file": "app.pem", "poll_only": true}},
		"providers": []any{map[string]any{"name": "local", "kind": "process"}},
		"offerings": []any{map[string]any{"name": "small"}, map[string]any{"name": "next"}},
		"teams":     map[string]any{"payments": []any{"acme/pay-*"}},
	}
	linux := append(yaml.MapSlice{{Key: "name", Value: "linux"}, {Key: "scope", Value: "acme"}, {Key: "labels", Value: "linux"}, {Key: "offering", Value: "small"}}, e.Pool...)
	big := map[string]any{"name": "big", "scope": "acme", "labels": "big", "runner_labels": []any{"big", "linux", "self-hosted"}}
	written["pools"] = []any{linux, big}
	if len(e.Budget) > 0 {
		written["budgets"] = []any{append(yaml.MapSlice{{Key: "project", Value: "default"}}, e.Budget...)}
	}
	text, err := yaml.Marshal(written)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "muster.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(file, func(string) string { return "" })
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	s := muster.Snapshot{Pool: c.Pools[0], DemandUnknown: e.Unknown, ProviderRoom: e.Room}
	if e.Scaled != "" {
		s.LastScaling = ago(strings.TrimSuffix(e.Scaled, " ago"))
	}
	if s.Windows, err = schedule.Windows(s.Pool.Schedules, now); err != nil {
		t.Fatal(err)
	}
	if len(c.Budgets) > 0 {
		s.Spending = c.Budgets[0].Spend(e.Spent * 1_000_000)
	}
	for _, words := range e.Jobs {
		m := exampleJobs.FindStringSubmatch(words)
		if m == nil {
			t.Fatalf("%q is not \"2 queued of owner/name on branch for 5m\"", words)
		}
		n, _ := strconv.Atoi(m[1]) // the expression takes digits only
		for range n {
			j := muster.PlanJob{ID: int64(len(s.Jobs) + 1), State: muster.JobQueued, Repository: m[3], QueuedAt: ago(m[5]), Overflows: s.Pool.Overflow.Pool != ""}
			j.Priority = s.Pool.PriorityOf(muster.Job{Repository: m[3], HeadBranch: m[4]})
			if m[2] == "running" {
				j.State = muster.JobInProgress
			}
			s.Jobs = append(s.Jobs, j)
		}
	}
	states := map[string]muster.RunnerState{"busy": muster.RunnerActive, "idle": muster.RunnerRegistered, "starting": muster.RunnerProvisioning, "draining": muster.RunnerDraining}
	for _, words := range e.Runners {
		m := exampleFleet.FindStringSubmatch(words)
		if m == nil {
			t.Fatalf("%q is not \"2 idle for 5m\"", words)
		}
		n, _ := strconv.Atoi(m[1])
		for range n {
			r := muster.PlanRunner{ID: muster.RunnerID(fmt.Sprintf("r-%d", len(s.Runners)+1)), State: states[m[2]], CreatedAt: ago(m[3]).Add(-time.Minute), Busy: m[2] == "busy"}
			if m[2] == "idle" {
				r.IdleSince = ago(m[3])
			}
			s.Runners = append(s.Runners, r)
		}
	}
	slices.Reverse(s.Jobs) // the order in which they are listed says nothing
	return s, now
}

package slurm

import (
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

//go:embed script.sh
var script string

// Cluster is a Slurm cluster with a credential for it. It runs the jobs of any
// number of owners, and as any user where Config.SubmitAs lets it; who may run as
// whom is its caller's to decide. Safe for concurrent use.
type Cluster struct {
	cfg   Config
	log   *slog.Logger
	slurm transport
	notes notes
	// turn is held by the one Create that looks and submits.
	turn chan struct{}
}

// Open makes a Cluster from a configuration whose transport is rest or commands. It
// calls nobody.
func Open(cfg Config) (*Cluster, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Cluster{cfg: cfg, log: cfg.Logger, turn: make(chan struct{}, 1), notes: notes{dir: cfg.StateDir}}
	switch cfg.Transport {
	case TransportREST:
		c.slurm = newRest(cfg.URL, cfg.APIVersion, cfg.User, &credential{file: cfg.TokenFile, command: cfg.TokenCommand, every: time.Duration(cfg.TokenLifetime)})
	case TransportCommands:
		c.slurm = &commands{dir: cfg.Commands, conf: cfg.SlurmConf, user: cfg.User}
	default:
		return nil, fmt.Errorf("transport %q reaches no cluster: use rest or commands", cfg.Transport)
	}
	return c, nil
}

// Create submits the job of spec.Runner as user, or as the credential's own user if
// that is "", and returns the job that is there if there is one.
func (c *Cluster) Create(ctx context.Context, spec provider.Spec, user string) (provider.Instance, error) {
	if err := ctx.Err(); err != nil {
		return provider.Instance{}, err
	}
	if err := check(spec, user, c.cfg.SubmitAs); err != nil {
		return provider.Instance{}, err
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return provider.Instance{}, ctx.Err()
	}
	all, err := c.owned(ctx, spec.Owner)
	if err != nil {
		return provider.Instance{}, err
	}
	if there := of(all, spec.Runner); len(there) > 0 {
		return there[0].instance(), nil
	}
	if len(all) >= c.cfg.Max {
		return provider.Instance{}, fmt.Errorf("%w: %d jobs of %s are there, and max is %d", provider.ErrCapacity, len(all), spec.Owner, c.cfg.Max)
	}
	id, warnings, err := c.slurm.submit(ctx, c.submission(spec, user))
	if err != nil && !lost(err) {
		return provider.Instance{}, fmt.Errorf("submit the job of %s: %w", spec.Runner, err)
	}
	all, lookErr := c.owned(ctx, spec.Owner)
	if lookErr != nil {
		return provider.Instance{}, errors.Join(err, lookErr)
	}
	there := of(all, spec.Runner)
	if len(there) == 0 {
		if err == nil {
			err = fmt.Errorf("%w: Slurm took job %d and does not list it", provider.ErrTransient, id)
		}
		return provider.Instance{}, fmt.Errorf("submit the job of %s: %w", spec.Runner, err)
	}
	if err != nil { // 4-42: the answer was lost, the job was not
		c.log.Warn("answer of a submission was lost, and its job is there", "runner", spec.Runner, "job", there[0].id, "error", err)
		id = there[0].id
	}
	if err := c.heed(ctx, there, id, warnings); err != nil {
		return provider.Instance{}, err
	}
	// Somebody else submitted at the same time. The first one stays; the others cannot
	// have started, by their dependency.
	for _, twin := range there[1:] {
		if err := c.drop(ctx, twin); err != nil {
			return provider.Instance{}, err
		}
	}
	return there[0].instance(), nil
}

// lost reports whether a call failed in a way that leaves open what it did.
func lost(err error) bool {
	return !errors.Is(err, provider.ErrInvalid) && !errors.Is(err, provider.ErrQuota) && !errors.Is(err, provider.ErrCapacity)
}

// heed reads what Slurm warned of at a submission. Newer versions drop a key that
// they do not know with no more than a warning: then the job is not what was asked
// for, and goes.
func (c *Cluster) heed(ctx context.Context, there []job, id int64, warnings []string) error {
	for _, w := range warnings {
		c.log.Warn("Slurm warned of a job", "job", id, "warning", w)
		if lower := strings.ToLower(w); !strings.Contains(lower, "unknown") && !strings.Contains(lower, "ignor") {
			continue
		}
		for _, j := range there {
			if j.id == id {
				if err := c.drop(ctx, j); err != nil {
					return err
				}
			}
		}
		return fmt.Errorf("%w: slurmrestd did not understand all of the job: %s; set api_version", provider.ErrInvalid, w)
	}
	return nil
}

// drop cancels a job that was never wanted, and forgets it.
func (c *Cluster) drop(ctx context.Context, j job) error {
	if err := c.slurm.cancel(ctx, j); err != nil {
		return fmt.Errorf("cancel job %d: %w", j.id, err)
	}
	return c.notes.put(j)
}

func check(spec provider.Spec, user string, submitAs bool) error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{provider.ErrInvalid}, args...)...)
	}
	switch {
	case !spec.Runner.Valid():
		return invalid("runner %.80q is not the id of a runner", spec.Runner)
	case spec.Owner == "":
		return invalid("the runner has no owner")
	case spec.Boot.Token == "" || strings.ContainsAny(spec.Boot.Token.Reveal(), "\n\r\x00"):
		return invalid("there is no boot token, or one with a line end in it")
	case spec.Boot.URL == "" || strings.ContainsAny(spec.Boot.URL, "\n\r\x00"):
		return invalid("there is no address of the control plane")
	case spec.MaxAge < 0:
		return invalid("the maximum age is negative")
	case spec.Offering.GPUs < 0 || spec.Offering.CPUs < 0 || spec.Offering.MemoryMiB < 0:
		return invalid("the offering asks for less than nothing")
	case user != "" && (!submitAs || !userName.MatchString(user)):
		return invalid("jobs do not run as %.40q", user)
	case user == "root":
		return invalid("no job runs as root")
	}
	return nil
}

// submission is the job of a runner.
func (c *Cluster) submission(spec provider.Spec, user string) submission {
	limit := time.Duration(c.cfg.TimeLimit)
	env := map[string]muster.Secret{
		"PATH": standardPath, "LANG": "C.UTF-8",
		"MUSTER_URL": muster.Secret(spec.Boot.URL), "MUSTER_BOOT_TOKEN": spec.Boot.Token,
		"MUSTER_RUNNER": muster.Secret(spec.Runner), "MUSTER_AGENT": muster.Secret(c.cfg.Agent),
		"MUSTER_JOB_ROOT": muster.Secret(c.cfg.JobRoot), "MUSTER_JOB_LOG": muster.Secret(c.cfg.Log),
		"MUSTER_STOP_GRACE": muster.Secret(time.Duration(c.cfg.Grace).String()),
	}
	if c.cfg.RunnerDir != "" {
		env["MUSTER_RUNNER_SOURCE"] = muster.Secret(c.cfg.RunnerDir)
	} else {
		env["MUSTER_DOWNLOAD"] = "1"
		if c.cfg.CacheDir != "" {
			env["MUSTER_CACHE_DIR"] = muster.Secret(c.cfg.CacheDir)
		}
	}
	if spec.MaxAge > 0 {
		env["MUSTER_MAX_AGE"] = muster.Secret(spec.MaxAge.String())
		limit = min(limit, spec.MaxAge)
	}
	s := submission{
		user: user, name: jobName(spec.Owner, spec.Runner),
		comment:   tag{Owner: spec.Owner, Runner: spec.Runner, Workspace: spec.Workspace, Pool: spec.Pool}.text(),
		partition: c.cfg.Partition, qos: c.cfg.QOS, account: c.cfg.Account, features: c.cfg.Constraint, reserved: c.cfg.Reservation, nice: c.cfg.Nice,
		output: c.cfg.Log,
		// Always said: a partition's default may be minutes (4-44).
		minutes: int64(math.Ceil(limit.Minutes())),
		cpus:    int64(math.Ceil(spec.Offering.CPUs)), memoryMiB: spec.Offering.MemoryMiB,
		environment: env, script: script,
	}
	if spec.Offering.GPUs > 0 {
		s.gres = c.cfg.GRES + ":" + strconv.Itoa(spec.Offering.GPUs)
	}
	return s
}

// jobName is the name of a runner's job. Jobs of one name and user never run at once.
func jobName(owner string, runner muster.RunnerID) string {
	sum := sha256.Sum256([]byte(owner))
	return "muster-" + string(runner) + "-" + hex.EncodeToString(sum[:4])
}

// Delete asks for the end of a runner's job; see provider.Provider.
func (c *Cluster) Delete(ctx context.Context, owner string, runner muster.RunnerID) error {
	there, err := c.find(ctx, owner, runner)
	if err != nil {
		return err
	}
	running := false
	for _, j := range there {
		if j.gone() {
			if err := c.notes.put(j); err != nil {
				return err
			}
			continue
		}
		running = true
		if err := c.slurm.cancel(ctx, j); err != nil {
			return fmt.Errorf("cancel job %d: %w", j.id, err)
		}
	}
	if !running {
		if there[0].byItself() {
			return &provider.GoneError{Detail: there[0].detail()}
		}
		return fmt.Errorf("%w: the job of %s has ended and is forgotten", provider.ErrNotFound, runner)
	}
	return nil
}

// Get finds the job of a runner; see provider.Provider.
func (c *Cluster) Get(ctx context.Context, owner string, runner muster.RunnerID) (provider.Instance, error) {
	there, err := c.find(ctx, owner, runner)
	if err != nil {
		return provider.Instance{}, err
	}
	return there[0].instance(), nil
}

// List returns every job of an owner that waits, runs, or has ended and was not
// deleted since; see provider.Provider.
func (c *Cluster) List(ctx context.Context, owner string) ([]provider.Instance, error) {
	all, err := c.owned(ctx, owner)
	if err != nil {
		return nil, err
	}
	var out []provider.Instance
	seen := map[muster.RunnerID]bool{}
	for _, j := range all {
		if !seen[j.tag.Runner] {
			out = append(out, j.instance())
		}
		seen[j.tag.Runner] = true
	}
	return out, nil
}

// find returns a runner's jobs, at least one.
func (c *Cluster) find(ctx context.Context, owner string, runner muster.RunnerID) ([]job, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !runner.Valid() {
		return nil, fmt.Errorf("%w: %.80q is not the id of a runner", provider.ErrNotFound, runner)
	}
	all, err := c.owned(ctx, owner)
	if err != nil {
		return nil, err
	}
	there := of(all, runner)
	if len(there) == 0 {
		return nil, fmt.Errorf("%w: Slurm knows no job of %s", provider.ErrNotFound, runner)
	}
	return there, nil
}

// owned lists the jobs of an owner which were not deleted, in the order of their ids.
func (c *Cluster) owned(ctx context.Context, owner string) ([]job, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	all, err := c.slurm.jobs(ctx)
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	c.notes.prune(all)
	var out []job
	for _, j := range all {
		if j.tag.Owner != owner || !c.cfg.SubmitAs && c.cfg.User != "" && cmp.Or(j.user, c.cfg.User) != c.cfg.User {
			continue
		}
		if j.ended() && c.notes.has(j) {
			continue
		}
		out = append(out, j)
	}
	return out, nil
}

// of are the jobs of one runner. The first one is the one that counts.
func of(all []job, runner muster.RunnerID) (out []job) {
	for _, j := range all {
		if j.tag.Runner == runner {
			out = append(out, j)
		}
	}
	return out
}

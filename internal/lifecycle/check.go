package lifecycle

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
	"github.com/muster-ci/muster/provider"
)

// The test of a provider is a runner of no pool whose purpose is to look around. It
// lives the life of every runner, RunnerLife, so that whatever happens to the control
// plane meanwhile, its machine goes; only its boot is answered otherwise, and nothing of
// it is known to GitHub.

// checkName begins the name of a runner that tests a provider, and stands in the place
// of its pool on platforms.
const checkName = "provider-check"

// checkPool is what takes the place of a pool for a runner that tests a provider.
func checkPool(workspace string) muster.Pool {
	return muster.Pool{Name: checkName, Workspace: workspace, MaxAge: time.Hour, NoJobTimeout: muster.DefaultNoJobTimeout}
}

// poolOf is the runner's pool, or what takes its place.
func (d *Deps) poolOf(ctx context.Context, r muster.Runner) (muster.Pool, error) {
	if r.Purpose == muster.PurposeCheck {
		return checkPool(r.Workspace), nil
	}
	return d.Store.Pool(ctx, r.Workspace, r.Pool)
}

func checkKey(workspace, provider string) string {
	return "provider_check/" + workspace + "/" + provider
}

// CheckProvider begins a test of a provider. While one is under way, that one is
// returned. An empty offering is that of the provider's first pool.
func (c *Client) CheckProvider(ctx context.Context, workspace, name, offering string) (muster.ProviderCheck, muster.Runner, error) {
	var none muster.ProviderCheck
	if _, ok := c.Backends[name]; !ok {
		return none, muster.Runner{}, muster.Errorf(muster.CodeNotFound, "there is no provider %q; configured are %s", name, strings.Join(slices.Sorted(maps.Keys(c.Backends)), ", "))
	}
	if last, r, err := c.LastProviderCheck(ctx, workspace, name); err == nil && r.State.Live() {
		return last, r, nil
	}
	if offering == "" {
		pools, err := c.Store.Pools(ctx, workspace)
		if err != nil {
			return none, muster.Runner{}, fmt.Errorf("list pools: %w", err)
		}
		i := slices.IndexFunc(pools, func(p muster.Pool) bool { return p.Provider == name && !p.Removed && !p.Keeps() })
		if i >= 0 {
			offering = pools[i].Offering
		}
	}
	if offering != "" {
		if _, err := c.Store.Offering(ctx, workspace, offering); err != nil {
			return none, muster.Runner{}, err
		}
	}
	var random [10]byte
	if _, err := rand.Read(random[:]); err != nil {
		return none, muster.Runner{}, err
	}
	id := muster.NewRunnerID(random)
	r := muster.Runner{
		ID: id, Workspace: workspace, Name: muster.RegistrationName(checkName, id, 0), Purpose: muster.PurposeCheck,
		Provider: name, Offering: offering, State: muster.RunnerProvisioning, Reason: "test of provider " + name, TraceID: newTraceID(), CreatedAt: c.Now(),
	}
	if err := c.Store.AddRunner(ctx, r); err != nil {
		return none, r, fmt.Errorf("record the test of provider %s: %w", name, err)
	}
	check := muster.ProviderCheck{Provider: name, Offering: offering, Runner: id, At: r.CreatedAt}
	if err := saveCheck(ctx, c.Store, workspace, check); err != nil {
		return none, r, err
	}
	// If this process dies here, the sweep wakes the row's workflow.
	if err := c.startRunner(ctx, RunnerRef{workspace, id}); err != nil {
		return none, r, fmt.Errorf("start the test of provider %s: %w", name, err)
	}
	c.log.Info("provider is tested", "provider", name, "offering", offering, "runner", id, "trace_id", r.TraceID)
	return check, r, nil
}

// ProviderCheck is a test by its runner, as far as it has come; only the last test of
// every provider is kept with what was seen inside the machine.
func (c *Client) ProviderCheck(ctx context.Context, workspace string, id muster.RunnerID) (muster.ProviderCheck, muster.Runner, error) {
	r, err := c.Store.Runner(ctx, workspace, id)
	if err != nil {
		return muster.ProviderCheck{}, r, err
	}
	if r.Purpose != muster.PurposeCheck {
		return muster.ProviderCheck{}, r, muster.Errorf(muster.CodeInvalid, "runner %s tests no provider", id)
	}
	check, err := loadCheck(ctx, c.Store, r)
	return check, r, err
}

// LastProviderCheck is the last test of a provider; CodeNotFound if there was none.
func (c *Client) LastProviderCheck(ctx context.Context, workspace, name string) (check muster.ProviderCheck, r muster.Runner, err error) {
	text, err := c.Store.Watermark(ctx, checkKey(workspace, name))
	if err != nil {
		return check, r, err
	}
	if text == "" || json.Unmarshal([]byte(text), &check) != nil {
		return check, r, muster.Errorf(muster.CodeNotFound, "provider %s was never tested", name)
	}
	r, err = c.Store.Runner(ctx, workspace, check.Runner)
	return check, r, err
}

// loadCheck reads the test of a runner; of one that is not its provider's last only
// what the row says is left.
func loadCheck(ctx context.Context, s Store, r muster.Runner) (muster.ProviderCheck, error) {
	var check muster.ProviderCheck
	text, err := s.Watermark(ctx, checkKey(r.Workspace, r.Provider))
	if err != nil {
		return check, err
	}
	if text == "" || json.Unmarshal([]byte(text), &check) != nil || check.Runner != r.ID {
		check = muster.ProviderCheck{Provider: r.Provider, Offering: r.Offering, Runner: r.ID, At: r.CreatedAt}
	}
	return check, nil
}

func saveCheck(ctx context.Context, s Store, workspace string, check muster.ProviderCheck) error {
	b, err := json.Marshal(check)
	if err != nil {
		return err
	}
	if err := s.SetWatermark(ctx, checkKey(workspace, check.Provider), string(b)); err != nil {
		return fmt.Errorf("remember the test of provider %s: %w", check.Provider, err)
	}
	return nil
}

// bootCheck answers the boot of a runner that tests its provider: what to look at, and
// nothing of GitHub's but where it offers its runner.
func (c *Client) bootCheck(ctx context.Context, r muster.Runner, req wire.BootRequest) (wire.BootResponse, error) {
	session, hash, err := c.Tokens.NewSession()
	if err != nil {
		return wire.BootResponse{}, fmt.Errorf("make session token: %w", err)
	}
	if err := c.Store.PutSession(ctx, r.Workspace, r.ID, hash); err != nil {
		return wire.BootResponse{}, err
	}
	o, err := c.Store.Offering(ctx, r.Workspace, r.Offering)
	if err != nil && muster.CodeOf(err) != muster.CodeNotFound {
		return wire.BootResponse{}, err
	}
	resp := wire.BootResponse{
		Runner: string(r.ID), Name: r.Name, SessionToken: session.Reveal(),
		HeartbeatSeconds: max(1, int(c.Times.Heartbeat/time.Second)), MaxSeconds: int(checkPool(r.Workspace).MaxAge / time.Second),
		Check: &wire.Check{Now: c.Now(), Reach: c.Reach, GPUs: o.GPUs, CPUs: o.CPUs, MemoryMiB: o.MemoryMiB},
	}
	if !req.Download {
		return resp, nil
	}
	pools, err := c.Store.Pools(ctx, r.Workspace)
	if err != nil {
		return resp, err
	}
	for _, p := range pools {
		if gh, ok := c.GitHub[p.App]; ok && p.Provider == r.Provider && !p.Removed {
			resp.Download, err = c.download(ctx, gh, p.Scope, req.OS, req.Arch)
			return resp, err
		}
	}
	return resp, nil // no pool, nobody to ask; the agent's step says so
}

// noteCheck keeps what an agent saw, before its row says that it has finished.
func (c *Client) noteCheck(ctx context.Context, r muster.Runner, rep wire.Report) error {
	check, err := loadCheck(ctx, c.Store, r)
	if err != nil || len(check.Inside) > 0 {
		return err
	}
	for _, s := range rep.Check[:min(len(rep.Check), maxCheckSteps)] {
		check.Inside = append(check.Inside, muster.CheckStep{Name: cut(s.Name), OK: s.OK, Detail: cut(s.Detail), Took: time.Duration(max(0, s.Millis)) * time.Millisecond})
	}
	return saveCheck(ctx, c.Store, r.Workspace, check)
}

// maxCheckSteps and cut bound what a machine may have written.
const maxCheckSteps = 20

func cut(s string) string {
	s = strings.ToValidUTF8(strings.Join(strings.Fields(s), " "), "")
	if runes := []rune(s); len(runes) > 300 {
		s = string(runes[:300]) + "…"
	}
	return s
}

// settleCheck is settle for a runner that tested its provider: it asks the platform
// itself whether anything is left. It may be repeated.
func (a *Activities) settleCheck(ctx context.Context, r muster.Runner) error {
	check, err := loadCheck(ctx, a.Store, r)
	if err != nil || len(check.After) > 0 {
		return err
	}
	began, step := a.Now(), muster.CheckStep{Name: "nothing left", OK: true, Detail: "the provider finds and lists no machine of the test"}
	if err := a.nothingLeft(ctx, r); err != nil {
		step.OK, step.Detail = false, cut(err.Error())
	}
	step.Took = a.Now().Sub(began)
	check.After = []muster.CheckStep{step}
	if err := saveCheck(ctx, a.Store, r.Workspace, check); err != nil {
		return err
	}
	steps, _ := check.Steps(r)
	a.Log.Info("provider was tested", "provider", r.Provider, "runner", r.ID, "passed", muster.Passed(steps), "reason", r.Reason, "trace_id", r.TraceID)
	if r.LaunchedAt.IsZero() {
		return nil
	}
	return a.roomMade(ctx, r)
}

// lookTimeout is how long a platform may take to list its machines.
const lookTimeout = 30 * time.Second

// nothingLeft looks for a runner's machine wherever it was asked for.
func (a *Activities) nothingLeft(ctx context.Context, r muster.Runner) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	for _, z := range a.Backends[r.Provider].asked(r) {
		if z.Provider == nil {
			continue // the provider is not configured any more
		}
		if in, err := z.Get(ctx, r.ID); !errors.Is(err, provider.ErrNotFound) {
			if err == nil {
				err = fmt.Errorf("instance %s, %s", in.ID, in.State)
			}
			return fmt.Errorf("it was said to be gone, and asked for it the provider answers: %w", err)
		}
		for in, err := range z.List(ctx) {
			if err != nil {
				return fmt.Errorf("the provider's list broke off: %w", err)
			}
			if in.Runner == r.ID {
				return fmt.Errorf("it was said to be gone, and the provider lists instance %s", in.ID)
			}
		}
	}
	return nil
}

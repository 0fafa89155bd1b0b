package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/api"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/fleet"
	"github.com/muster-ci/muster/internal/github"
	"github.com/muster-ci/muster/internal/metrics"
	"github.com/muster-ci/muster/provider"
)

// fleetOwner tags the machines of fleets' runs. Each run has directories of its
// own, so that two of them on one machine do not meet.
const fleetOwner = "fleet"

// FleetProgram returns what `muster github-runner run` runs: the pools of a fleets
// file, without a control plane, until ctx ends.
func FleetProgram(version string) func(ctx context.Context, run config.FleetRun) error {
	return func(ctx context.Context, run config.FleetRun) error {
		return RunFleet(ctx, run, FleetOptions{Version: version})
	}
}

// FleetOptions are what a caller in process may set beyond what the command line
// can. The zero value is right.
type FleetOptions struct {
	Version   string
	LogOutput io.Writer   // nil means standard error
	Times     fleet.Times // Check is overridden by FleetRun.Interval
	// VMs replaces the provider that FleetRun names.
	VMs provider.Provider
	// Listening is told the address, once there is one. May be nil.
	Listening func(addr string)
}

// RunFleet joins a fleet with the GitHub client, a provider and a listener, and
// runs it.
func RunFleet(ctx context.Context, run config.FleetRun, opts FleetOptions) (err error) {
	logger, err := metrics.NewLogger(cmp.Or[io.Writer](opts.LogOutput, os.Stderr), metrics.LogConfig{})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(run.DataDir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	unlock, err := lockDir(run.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	key, err := fleetKey(filepath.Join(run.DataDir, "key"))
	if err != nil {
		return fmt.Errorf("key of the fleet: %w", err)
	}
	pools := func() ([]muster.Pool, error) { return config.FleetPools(run.File, run.Kind) }
	if opts.VMs == nil {
		if opts.VMs, err = fleetProvider(run, pools, logger); err != nil {
			return err
		}
		if c, ok := provider.As[io.Closer](opts.VMs); ok {
			defer func() { _ = c.Close() }() // lets go of its machines, and ends none
		}
	}
	gh, err := github.New(github.Config{Name: "GITHUB_TOKEN", Token: run.Token, URL: run.APIURL, Logger: logger})
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", run.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w; is a control plane or another fleet running there? Name a free address by --listen", run.Listen, err)
	}
	defer func() { _ = l.Close() }() // closed already by Shutdown; harmless
	if opts.Listening != nil {
		opts.Listening(l.Addr().String())
	}
	times := opts.Times
	times.Check = cmp.Or(run.Interval, times.Check)
	f, err := fleet.New(fleet.Config{
		Pools: pools, GitHub: gh, Queue: gh, VMs: opts.VMs, Owner: fleetOwner, URL: cmp.Or(run.URL, "http://"+l.Addr().String()), Key: key,
		Memory: fleet.File(filepath.Join(run.DataDir, "state.json")), Times: times, Force: run.Force, Logger: logger,
	})
	if err != nil {
		return err
	}
	srv := serveFleet(ctx, l, f, gh, run, opts.Version, logger)
	logger.Info("fleet is ready", "file", run.File, "pools", len(f.Pools()), "listen", l.Addr().String(), "provider", run.Kind, "every", times.Check)
	if len(f.Pools()) == 0 {
		logger.Warn("the file has no fleets yet: muster github-runner enable writes one, and it is taken up within one interval", "file", run.File)
	}
	if run.Once {
		err = f.Once(ctx)
	} else {
		_, err = f.Run(ctx)
	}
	if muster.CodeOf(err) == muster.CodeUnauthenticated {
		err = fmt.Errorf("GitHub refuses the token in GITHUB_TOKEN; make a new one that may administer the repositories' runners: %w", err)
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	return errors.Join(err, srv.shutdown(stop))
}

// fleetServer is the listener of a fleet's run.
type fleetServer struct {
	http     *http.Server
	stopping chan struct{}
	ended    chan error
}

func serveFleet(ctx context.Context, l net.Listener, f *fleet.Fleet, gh *github.Client, run config.FleetRun, version string, logger *slog.Logger) *fleetServer {
	s := &fleetServer{stopping: make(chan struct{}), ended: make(chan error, 1)}
	mux := http.NewServeMux()
	api.New(api.Config{
		Store: fleetStore{f: f}, Commands: fleetCommands{f}, Agents: f, Monitor: fleetMonitor{f, gh, time.Now()},
		OperatorToken: run.OperatorToken, Workspace: workspace, Stopping: s.stopping, Version: version, Logger: logger,
	}).RegisterFleet(mux)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") })
	s.http = &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		// Requests outlast ctx: at the end, agents are still told to drain.
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	go func() { s.ended <- s.http.Serve(l) }()
	return s
}

func (s *fleetServer) shutdown(ctx context.Context) error {
	close(s.stopping)
	err := s.http.Shutdown(ctx)
	if served := <-s.ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// fleetProvider builds the provider that the command line names.
func fleetProvider(run config.FleetRun, pools func() ([]muster.Pool, error), logger *slog.Logger) (provider.Provider, error) {
	kind, ok := kindNamed(run.Kind)
	if !ok {
		return nil, muster.Errorf(muster.CodeInvalid, "provider %q is unknown: use one of %s", run.Kind, kindNames())
	}
	data, err := filepath.Abs(run.DataDir)
	if err != nil {
		return nil, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	section, err := withRoom(run, pools)
	if err != nil {
		return nil, err
	}
	build, err := kind.Read(section, provider.Env{Name: run.Kind, Owner: fleetOwner, DataDir: data, Dir: dir, Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("provider %s: %w", run.Kind, err)
	}
	made, err := build()
	if err != nil {
		return nil, fmt.Errorf("provider %s: %w", run.Kind, err)
	}
	return made, nil
}

// withRoom lets the process provider have as many runners as the fleets may want,
// unless its section says otherwise: the fleets file is where limits are set.
func withRoom(run config.FleetRun, pools func() ([]muster.Pool, error)) (json.RawMessage, error) {
	if run.Kind != "process" {
		return run.Provider, nil
	}
	section := map[string]json.RawMessage{}
	if len(run.Provider) > 0 {
		if err := json.Unmarshal(run.Provider, &section); err != nil {
			return nil, fmt.Errorf("provider %s: %w", run.Kind, err)
		}
	}
	if _, set := section["max"]; set {
		return run.Provider, nil
	}
	all, err := pools()
	if err != nil {
		return nil, err
	}
	most := 20
	for _, p := range all {
		most += p.Scaling.MaxRunners
	}
	section["max"] = json.RawMessage(fmt.Sprint(most))
	return json.Marshal(section)
}

// fleetKey reads the key of a data directory, or makes one.
func fleetKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, 32)
		_, _ = rand.Read(key) // never fails (crypto/rand)
		return key, os.WriteFile(path, key, 0o600)
	}
	if err != nil {
		return nil, err
	}
	if len(key) < 32 {
		return nil, fmt.Errorf("%s is damaged: remove it, and what an earlier run left is no longer found by it", path)
	}
	return key, nil
}

// fleetStore lets the API read a fleet. The methods of api.Store that it has not
// are those of services that a fleet does not serve.
type fleetStore struct {
	api.Store
	f *fleet.Fleet
}

func (s fleetStore) Pools(context.Context, string) ([]muster.Pool, error) { return s.f.Pools(), nil }

func (s fleetStore) Pool(_ context.Context, _, name string) (muster.Pool, error) {
	for _, p := range s.f.Pools() {
		if p.Name == name {
			return p, nil
		}
	}
	return muster.Pool{}, muster.Errorf(muster.CodeNotFound, "there is no pool %q in the fleets file", name)
}

func (s fleetStore) Offering(_ context.Context, _, name string) (muster.Offering, error) {
	return muster.Offering{}, muster.Errorf(muster.CodeNotFound, "there is no offering %q", name)
}

func (s fleetStore) Offerings(context.Context, string) ([]muster.Offering, error) { return nil, nil }

func (s fleetStore) PoolSnapshot(_ context.Context, _, pool string) (muster.Snapshot, error) {
	return s.f.Snapshot(pool)
}

func (s fleetStore) Decisions(_ context.Context, _, pool string, limit int) ([]muster.DecisionRecord, error) {
	return s.f.Decisions(pool, limit)
}

func (s fleetStore) LastDecision(_ context.Context, _, pool string) (muster.DecisionRecord, bool, error) {
	all, err := s.f.Decisions(pool, 1)
	if err != nil || len(all) == 0 {
		return muster.DecisionRecord{}, false, err
	}
	return all[0], true, nil
}

func (s fleetStore) Runners(_ context.Context, _ string, f api.RunnerFilter) (out []muster.Runner, err error) {
	for _, r := range s.f.Runners() {
		switch {
		case f.Pool != "" && r.Pool != f.Pool, f.Live && !r.State.Live(), len(f.States) > 0 && !slices.Contains(f.States, r.State):
		case f.Limit > 0 && len(out) == f.Limit:
			return out, nil
		default:
			out = append(out, r)
		}
	}
	return out, nil
}

func (s fleetStore) find(what string, is func(muster.Runner) bool) (muster.Runner, error) {
	all := s.f.Runners()
	if i := slices.IndexFunc(all, is); i >= 0 {
		return all[i], nil
	}
	return muster.Runner{}, muster.Errorf(muster.CodeNotFound, "there is no runner %q", what)
}

func (s fleetStore) Runner(_ context.Context, _ string, id muster.RunnerID) (muster.Runner, error) {
	return s.find(string(id), func(r muster.Runner) bool { return r.ID == id })
}

func (s fleetStore) RunnerByName(_ context.Context, _, name string) (muster.Runner, error) {
	return s.find(name, func(r muster.Runner) bool { return r.Name == name })
}

func (s fleetStore) RunnerEvents(_ context.Context, _ string, id muster.RunnerID) ([]muster.RunnerEvent, error) {
	events, _ := s.f.History(id)
	return events, nil
}

func (s fleetStore) RunnerLog(_ context.Context, _ string, id muster.RunnerID) ([]byte, error) {
	_, log := s.f.History(id)
	return log, nil
}

func (s fleetStore) JobCounts(ctx context.Context, ws string) (map[muster.JobState]int, error) {
	counts := map[muster.JobState]int{}
	for _, p := range s.f.Pools() {
		snap, err := s.f.Snapshot(p.Name)
		if err != nil {
			return nil, err
		}
		for _, j := range snap.Jobs {
			counts[j.State]++
		}
	}
	return counts, nil
}

// Subscribe never tells of a change: a fleet has no feed.
func (s fleetStore) Subscribe(ctx context.Context) <-chan muster.Change {
	none := make(chan muster.Change)
	context.AfterFunc(ctx, func() { close(none) })
	return none
}

var errNoMachines = muster.Errorf(muster.CodeNotFound, "a fleet keeps no machines")

// fleetCommands is what operators may ask of a fleet.
type fleetCommands struct{ f *fleet.Fleet }

func (c fleetCommands) DrainRunner(_ context.Context, _ string, id muster.RunnerID, reason string) error {
	return c.f.DrainRunner(id, reason)
}

func (c fleetCommands) SetPool(_ context.Context, _, pool string, o muster.PoolOverride) error {
	return c.f.SetPool(pool, o)
}

func (c fleetCommands) StartMachine(context.Context, string, muster.MachineID) (muster.MachineAnswer, error) {
	return muster.MachineAnswer{}, errNoMachines
}

func (c fleetCommands) StopMachine(context.Context, string, muster.MachineID, int64) (muster.MachineAnswer, error) {
	return muster.MachineAnswer{}, errNoMachines
}

func (c fleetCommands) RedispatchDelivery(context.Context, string) error {
	return muster.Errorf(muster.CodeInvalid, "a fleet takes no deliveries")
}

func (c fleetCommands) Healthy(ctx context.Context, _ string, id muster.RunnerID) bool {
	return c.f.Healthy(ctx, id)
}

func (c fleetCommands) ProviderRefusal(context.Context, string, string) (string, time.Time) {
	return "", time.Time{}
}

// CheckProvider implements api.Commands: a fleet runs on this machine and has no providers.
func (c fleetCommands) CheckProvider(context.Context, string, string, string) (muster.ProviderCheck, muster.Runner, error) {
	return muster.ProviderCheck{}, muster.Runner{}, errNoMachines
}

// ProviderCheck implements api.Commands.
func (c fleetCommands) ProviderCheck(context.Context, string, muster.RunnerID) (muster.ProviderCheck, muster.Runner, error) {
	return muster.ProviderCheck{}, muster.Runner{}, errNoMachines
}

// fleetMonitor knows how a fleet is doing.
type fleetMonitor struct {
	f     *fleet.Fleet
	gh    *github.Client
	since time.Time
}

func (m fleetMonitor) Health(context.Context, string) (api.Health, error) {
	h := api.Health{Since: m.since, Problems: m.f.Problems()}
	for _, b := range m.gh.Budget() {
		h.Budgets = append(h.Budgets, api.Budget{App: b.App, Account: b.Account, Limit: b.Limit, Remaining: b.Remaining, ResetAt: b.ResetAt})
	}
	return h, nil
}

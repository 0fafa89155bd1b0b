package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"go.temporal.io/sdk/worker"
	"golang.org/x/sync/errgroup"

	"github.com/muster-ci/muster/internal/archive"
	"github.com/muster-ci/muster/internal/compat"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/engine"
	"github.com/muster-ci/muster/internal/github"
	"github.com/muster-ci/muster/internal/ingress"
	"github.com/muster-ci/muster/internal/inspect"
	"github.com/muster-ci/muster/internal/lifecycle"
	"github.com/muster-ci/muster/internal/metrics"
	"github.com/muster-ci/muster/internal/secretbox"
	"github.com/muster-ci/muster/internal/store"
	"github.com/muster-ci/muster/internal/usage"
	"github.com/muster-ci/muster/provider"
)

// Options are what a caller in process may set beyond the configuration.
type Options struct {
	// Version is shown to operators.
	Version string
	// LogOutput takes the log; nil means standard error.
	LogOutput io.Writer
	// MutationsPerMinute paces GitHub calls per route; 0 means GitHub's own limit,
	// negative none. Only the benchmarks change it.
	MutationsPerMinute int
}

// Server is a control plane. Open builds it, Run runs it once.
type Server struct {
	cfg       config.Config
	opts      Options
	logger    *slog.Logger
	registry  *metrics.Registry
	store     *store.Store
	archive   *archive.Archive // nil where no traces are kept, and with it inspector
	inspector *inspect.Inspector
	box       *secretbox.Box
	engine    *engine.Engine
	apps      map[string]*github.Client
	client    *lifecycle.Client
	worker    worker.Worker

	dispatcher   *ingress.Dispatcher
	redeliverers map[string]*ingress.Redeliverer
	pollers      map[string]*ingress.Poller           // by App
	listeners    map[string]*ingress.ScaleSetListener // by pool
	dashboard    *dashboard
	checks       *appChecks
	listener     net.Listener
	handler      http.Handler
	mux          *http.ServeMux
	gateway      *slurmGateway // nil unless this process is one as well
	stopping     chan struct{}
	closers      []func()
	ready        sync.Once
	readyFlag    chan struct{}
}

// Program returns what `muster serve` runs: Open and Run, until ctx ends.
func Program(version string) func(ctx context.Context, cfg config.Config) error {
	return func(ctx context.Context, cfg config.Config) error {
		if cfg.GatewayOnly {
			return RunGateway(ctx, cfg, Options{Version: version})
		}
		s, err := Open(ctx, cfg, Options{Version: version})
		if err != nil {
			return err
		}
		return s.Run(ctx)
	}
}

// Open builds a control plane: it opens the store and the engine, makes clients
// and providers, and binds the listener. Nothing runs yet. On error everything
// that was opened is closed again.
func Open(ctx context.Context, cfg config.Config, opts Options) (_ *Server, err error) {
	s := &Server{cfg: cfg, opts: opts, stopping: make(chan struct{}), readyFlag: make(chan struct{})}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.logger, err = newLogger(cfg, opts.LogOutput); err != nil {
		return nil, err
	}
	if err := Check(cfg); err != nil {
		return nil, err
	}
	s.registry = metrics.New(opts.Version)
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	box, err := secretbox.Load(cfg.SecretKeyFile)
	if err != nil {
		return nil, fmt.Errorf("secret key: %w", err)
	}
	s.box = box
	if err := s.openStore(ctx, box); err != nil {
		return nil, err
	}
	if err := s.openArchive(ctx); err != nil {
		return nil, err
	}
	if err := s.openInspector(); err != nil {
		return nil, err
	}
	// Problems of providers and Apps are told before the engine takes its seconds.
	back, err := backends(cfg, s.registry, s.logger)
	if err != nil {
		return nil, err
	}
	for _, b := range back {
		made := []provider.Provider{b.Provider}
		for _, z := range b.Zones {
			made = append(made, z.Provider)
		}
		for _, p := range made {
			if c, ok := provider.As[io.Closer](p); ok {
				s.closers = append(s.closers, func() { _ = c.Close() }) // lets go of its machines, and ends none
			}
		}
	}
	if s.apps, err = gitHubs(cfg, s.registry, s.logger, opts.MutationsPerMinute); err != nil {
		return nil, err
	}
	if err := s.openEngine(ctx, box); err != nil {
		return nil, err
	}
	boot, err := secretbox.NewTokens(box)
	if err != nil {
		return nil, fmt.Errorf("token keys: %w", err)
	}
	deps := s.deps(back, tokens{boot: boot, audience: cfg.PublicURL})
	s.client = lifecycle.NewClient(deps, s.engine.Client(), s.logger)
	s.worker = lifecycle.NewWorker(s.engine.Client(), deps, s.client, s.logger)
	s.registry.CountRunners(s.store.LiveRunners)
	s.registry.CountBudgets(s.budgets)
	s.checks = newAppChecks(cfg, s.apps, s.logger)
	s.dashboard = &dashboard{store: s.store, client: s.client, apps: s.apps, checks: s.checks, platforms: platforms{cfg, s.store, s.client, back}, cfg: cfg}
	if err := s.openIngress(); err != nil {
		return nil, err
	}
	if s.listener, err = listen(ctx, cfg); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() { _ = s.listener.Close() }) // closed already by Run; harmless
	if s.handler, err = s.routes(); err != nil {
		return nil, err
	}
	compat.NewGHA(s.client, boot.PublicKeys(), s.logger).Register(s.mux)
	if cfg.SlurmGateway != nil {
		if s.gateway, err = openGateway(ctx, cfg, s.logger); err != nil {
			return nil, err
		}
		s.closers = append(s.closers, s.gateway.close)
		s.handler = s.gateway.Dispatch(s.handler, compat.SecretHeader)
	}
	return s, nil
}

func newLogger(cfg config.Config, out io.Writer) (*slog.Logger, error) {
	if out == nil {
		out = os.Stderr
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); cfg.Log.Level != "" && err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	return metrics.NewLogger(out, metrics.LogConfig{Format: metrics.LogFormat(cfg.Log.Format), Level: level})
}

func (s *Server) openStore(ctx context.Context, box *secretbox.Box) (err error) {
	if s.store, err = store.Open(ctx, store.Config{URL: s.cfg.Database.DSN().Reveal(), Secrets: box}); err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	s.closers = append(s.closers, func() {
		if err := s.store.Close(); err != nil {
			s.logger.Error("close database", "error", err)
		}
	})
	if err := s.store.SyncPools(ctx, workspace, s.cfg.Pools, s.cfg.Offerings); err != nil {
		return fmt.Errorf("record pools: %w", err)
	}
	if err := noteFirstStart(ctx, s.store, time.Now()); err != nil {
		return fmt.Errorf("record the first start: %w", err)
	}
	return nil
}

func (s *Server) openEngine(ctx context.Context, box *secretbox.Box) (err error) {
	tlsConfig, err := engineTLS(s.cfg.Engine)
	if err != nil {
		return err
	}
	s.engine, err = engine.Open(ctx, engine.Config{
		Address: s.cfg.Engine.Address, Namespace: s.cfg.Engine.Namespace, Dir: s.cfg.DataDir,
		TLS: tlsConfig, APIKey: s.cfg.Engine.APIKey.Reveal(), Sealer: box, Logger: s.logger,
	})
	if err != nil {
		return fmt.Errorf("open engine: %w", err)
	}
	s.closers = append(s.closers, s.engine.Close)
	if s.cfg.Engine.UIListen == "" {
		return nil
	}
	ui, err := engine.StartUI(ctx, s.cfg.Engine.UIListen, s.engine.Address(), s.cfg.Engine.Namespace)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, ui.Stop)
	return nil
}

func (s *Server) deps(back map[string]lifecycle.Backend, t tokens) lifecycle.Deps {
	apps := map[string]lifecycle.GitHub{}
	for name, c := range s.apps {
		apps[name] = c
	}
	c := s.cfg.Times
	return lifecycle.Deps{
		Store: s.store, Tokens: t, GitHub: apps, Backends: back,
		Book:  book(s.cfg.PriceBook),
		Times: lifecycle.Times{Sweep: c.Sweep, Health: c.Health, SweepGrace: c.SweepGrace, Heartbeat: c.Heartbeat, AgentLost: c.AgentLost, Poll: c.Poll, SealedAfter: s.cfg.Traces.SealDeadline},
		Reach: gitHubAddresses(s.cfg.Apps),
		URL:   s.cfg.PublicURL, Owner: s.cfg.Name, TrackUnmatched: s.cfg.TrackUnmatched,
		Budgets: s.cfg.Budgets, DemandKnown: s.demandKnown,
		Observer: s.registry, Now: time.Now, WebURL: webURLs(s.cfg.Apps), Tracing: s.tracing(),
	}
}

// gitHubAddresses are where the Apps' GitHubs answer, each once.
func gitHubAddresses(apps []config.App) (out []string) {
	for _, a := range apps {
		if !slices.Contains(out, a.APIURL) {
			out = append(out, a.APIURL)
		}
	}
	return out
}

// webURLs are the bases of GitHub's pages, by App.
func webURLs(apps []config.App) map[string]string {
	out := map[string]string{}
	for _, a := range apps {
		out[a.Name] = a.WebURL
	}
	return out
}

// book is the configured price book; offerings carry their own prices.
func book(p config.PriceBook) usage.Book {
	b := usage.Book{Currency: p.Currency, Rounding: usage.PerMinute}
	if p.Rounding == time.Second {
		b.Rounding = usage.PerSecond
	}
	return b
}

func (s *Server) openIngress() error {
	s.dispatcher = ingress.NewDispatcher(ingress.DispatcherConfig{Inbox: s.store, Sink: s.client, Observer: s.registry, Logger: s.logger})
	s.openSenses()
	s.redeliverers = map[string]*ingress.Redeliverer{}
	for _, a := range s.cfg.Apps {
		if !hears(a) {
			continue // no webhook, or not an App: nothing to redeliver
		}
		s.redeliverers[a.Name] = ingress.NewRedeliverer(ingress.RedelivererConfig{
			App: a.Name, Hooks: s.apps[a.Name], Inbox: s.store, Every: s.cfg.Times.RedeliveryScan, Observer: s.registry, Logger: s.logger,
			Unnamed: s.busyUnnamed, Open: s.oldestOpen, Patience: endsTold(s.cfg),
		})
	}
	return nil
}

// listen binds the one listener, with TLS where it is configured.
func listen(ctx context.Context, cfg config.Config) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w; is another control plane running there? Set listen to a free address", cfg.Listen, err)
	}
	if !cfg.TLS.Enabled() {
		return l, nil
	}
	cert, err := tls.LoadX509KeyPair(cfg.TLS.CertFile, cfg.TLS.KeyFile)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load TLS certificate: %w", err), l.Close())
	}
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}), nil
}

// Addr is where the control plane listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Store is the control plane's database, for callers in process that report on it.
func (s *Server) Store() *store.Store { return s.store }

// Apps are the control plane's GitHub clients by configured name.
func (s *Server) Apps() map[string]*github.Client { return s.apps }

// Ready is closed once the control plane takes work.
func (s *Server) Ready() <-chan struct{} { return s.readyFlag }

// drainTimeout is how long requests and steps under way may take at the end.
const drainTimeout = 15 * time.Second

// Run runs the control plane until ctx ends or a role fails, and then ends in
// order: no new requests, no new work, the engine, the database. What was under
// way is either finished or goes on at the next start.
func (s *Server) Run(ctx context.Context) error {
	defer s.close()
	shutdownTracing, err := metrics.Tracing(ctx, s.cfg.Telemetry.OTLPEndpoint, s.opts.Version)
	if err != nil {
		return fmt.Errorf("start tracing: %w", err)
	}
	defer func() {
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := shutdownTracing(flush); err != nil {
			s.logger.Warn("flush traces", "error", err)
		}
	}()
	if err := s.worker.Start(); err != nil {
		return fmt.Errorf("start workers: %w", err)
	}
	defer s.worker.Stop()
	if err := s.client.Start(ctx); err != nil {
		return fmt.Errorf("start workflows: %w", err)
	}
	roles, ctx := errgroup.WithContext(ctx)
	roles.Go(func() error { return s.serve(ctx) })
	if s.gateway != nil {
		roles.Go(func() error { return s.gateway.run(ctx) })
	}
	roles.Go(func() error { return s.dispatcher.Run(ctx) })
	roles.Go(func() error { return s.dashboard.probe(ctx) })
	roles.Go(func() error { return s.checks.run(ctx) })
	roles.Go(func() error { return housekeeping(ctx, s.store, s.archive, s.cfg.Times.DeliveryRetention, s.logger) })
	for _, r := range s.redeliverers {
		roles.Go(func() error { return r.Run(ctx) })
	}
	for _, p := range s.pollers {
		roles.Go(func() error { return p.Run(ctx) })
	}
	for _, l := range s.listeners {
		roles.Go(func() error { return l.Run(ctx) })
	}
	s.ready.Do(func() { close(s.readyFlag) })
	s.logger.Info("control plane is ready", "listen", s.Addr(), "public_url", s.cfg.PublicURL, "engine", s.engine.Address(), "embedded", s.engine.Embedded(), "pools", len(s.cfg.Pools))
	err = roles.Wait()
	s.logger.Info("control plane has stopped", "error", err)
	return err
}

// serve answers requests until ctx ends, then lets those under way finish.
func (s *Server) serve(ctx context.Context) error {
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(s.listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	close(s.stopping) // ends live streams, which would otherwise hold the end up
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err := srv.Shutdown(stop)
	<-ended //nolint:errcheck // it was told to end
	return err
}

// close undoes Open, last first. It is safe to call more than once.
func (s *Server) close() {
	for len(s.closers) > 0 {
		last := len(s.closers) - 1
		s.closers[last]()
		s.closers = s.closers[:last]
	}
}

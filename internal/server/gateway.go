package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/gateway"
	"github.com/muster-ci/muster/provider/slurm"
)

// slurmGateway is the role slurm-gateway on its own listener.
type slurmGateway struct {
	*gateway.Gateway
	listener net.Listener
	log      *slog.Logger
}

// RunGateway runs a process that is a Slurm gateway and nothing else, until ctx ends.
// It opens no database, no engine and no client of GitHub.
func RunGateway(ctx context.Context, cfg config.Config, opts Options) error {
	logger, err := newLogger(cfg, opts.LogOutput)
	if err != nil {
		return err
	}
	g, err := openGateway(ctx, cfg, logger)
	if err != nil {
		return err
	}
	defer g.close()
	return g.run(ctx)
}

// gatewaySlurm reads how the gateway reaches Slurm. The error is config.Problems.
func gatewaySlurm(cfg config.Config, logger *slog.Logger) (slurm.Config, error) {
	section, err := cfg.SlurmGateway.Slurm.JSON()
	c := slurm.Defaults()
	c.Transport = slurm.TransportREST
	if err == nil {
		err = c.Decode(section)
	}
	if err == nil && c.Transport == slurm.TransportGateway {
		err = errors.New("transport: a gateway needs rest or commands")
	}
	var problems config.Problems
	for _, one := range each(err) {
		if ps, ok := errors.AsType[config.Problems](cfg.SlurmGateway.Slurm.Problem("", "slurm_gateway.slurm: %s", one)); ok {
			problems = append(problems, ps...)
		}
	}
	if len(problems) > 0 {
		return c, problems
	}
	c.SubmitAs, c.Logger, c.StateDir = true, logger, filepath.Join(cfg.DataDir, "slurm-gateway")
	return c, nil
}

func openGateway(ctx context.Context, cfg config.Config, logger *slog.Logger) (*slurmGateway, error) {
	logger = logger.With("role", config.RoleSlurmGateway)
	f := cfg.SlurmGateway
	sc, err := gatewaySlurm(cfg, logger)
	if err != nil {
		return nil, err
	}
	cluster, err := slurm.Open(sc)
	if err != nil {
		return nil, fmt.Errorf("open Slurm: %w", err)
	}
	var repositories []gateway.Repository
	for _, r := range f.Repositories {
		repositories = append(repositories, gateway.Repository{GitHubURL: r.GitHubURL, SlurmUser: r.SlurmUser})
	}
	g := &slurmGateway{log: logger}
	if g.Gateway, err = gateway.New(gateway.Config{
		AppURL: f.AppURL, AuthToken: f.AuthToken, Previous: f.AuthTokenPrevious, KeysFile: f.KeysFile, Repositories: repositories, Slurm: cluster,
		MaxCPUs: f.MaxCPUs, MaxMemoryMiB: f.MaxMemoryMiB, MaxGPUs: f.MaxGPUs, Logger: logger,
	}); err != nil {
		return nil, fmt.Errorf("slurm_gateway: %w", err)
	}
	if g.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", f.Listen); err != nil {
		return nil, fmt.Errorf("the Slurm gateway listens on %s: %w", f.Listen, err)
	}
	if f.TLS.Enabled() {
		cert, err := tls.LoadX509KeyPair(f.TLS.CertFile, f.TLS.KeyFile)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("load the Slurm gateway's certificate: %w", err), g.listener.Close())
		}
		g.listener = tls.NewListener(g.listener, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	}
	return g, nil
}

func (g *slurmGateway) close() { _ = g.listener.Close() } // closed already by run; harmless

// run answers until ctx ends, and lets requests under way finish.
func (g *slurmGateway) run(ctx context.Context) error {
	srv := &http.Server{
		Handler: g, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(g.listener) }()
	g.log.Info("Slurm gateway is ready", "listen", g.listener.Addr().String())
	select {
	case err := <-ended:
		return fmt.Errorf("serve the Slurm gateway: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err := srv.Shutdown(stop)
	<-ended //nolint:errcheck // it was told to end
	g.log.Info("Slurm gateway has stopped")
	return err
}

package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/lifecycle"
	"github.com/muster-ci/muster/internal/metrics"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/process"
)

// kinds are the providers that this program knows. A new one is a line here.
var kinds = map[string]func(section json.RawMessage, env providerEnv) (provider.Provider, error){
	"process": newProcess,
}

// providerEnv is what a provider gets besides its own section.
type providerEnv struct {
	name    string
	owner   string
	dataDir string
	// dir is the configuration file's, absolute: relative paths start there.
	dir    string
	logger *slog.Logger
}

func newProcess(section json.RawMessage, env providerEnv) (provider.Provider, error) {
	cfg := process.Defaults()
	cfg.Root = filepath.Join(env.dataDir, "runners", env.name)
	err := provider.DecodeConfig(section, &cfg)
	for _, path := range []*string{&cfg.Agent, &cfg.RunnerDir, &cfg.Root} {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(env.dir, *path)
		}
	}
	if err := errors.Join(err, cfg.Validate()); err != nil {
		return nil, err
	}
	cfg.Owner, cfg.Logger = env.owner, env.logger
	return process.New(cfg)
}

// defaultConnectTimeout is for a provider that does not say how long its machines
// take to start: a virtual machine's time (design §7).
const defaultConnectTimeout = 5 * time.Minute

// backends builds every configured provider and reports every problem at once.
func backends(cfg config.Config, reg *metrics.Registry, logger *slog.Logger) (map[string]lifecycle.Backend, error) {
	out := map[string]lifecycle.Backend{}
	dir, err := filepath.Abs(filepath.Dir(cfg.File))
	if err != nil {
		return nil, fmt.Errorf("directory of the configuration: %w", err)
	}
	var errs []error
	for _, p := range cfg.Providers {
		build, ok := kinds[p.Kind]
		if !ok {
			errs = append(errs, p.Config.Problem("use process", "provider %s: kind %q is unknown", p.Name, p.Kind))
			continue
		}
		section, err := p.Config.JSON()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		made, err := build(section, providerEnv{name: p.Name, owner: cfg.Name, dataDir: cfg.DataDir, dir: dir, logger: logger.With("provider", p.Name)})
		if err != nil {
			errs = append(errs, fmt.Errorf("provider %s: %w", p.Name, err))
			continue
		}
		b := lifecycle.Backend{Name: p.Name, ConnectTimeout: defaultConnectTimeout}
		if d, ok := made.(provider.Described); ok {
			b.ConnectTimeout = d.Describe().ConnectTimeout
		}
		b.Provider = reg.Provider(p.Name, made)
		out[p.Name] = b
	}
	return out, errors.Join(errs...)
}

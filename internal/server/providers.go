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

// kinds are the providers that this program knows. A new one is a line here. Each
// reads its section and tells every problem of it; what it returns then makes the
// provider, which may touch the platform.
var kinds = map[string]func(section json.RawMessage, env providerEnv) (func() (provider.Provider, error), error){
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

func newProcess(section json.RawMessage, env providerEnv) (func() (provider.Provider, error), error) {
	cfg := process.Defaults()
	cfg.Root = filepath.Join(env.dataDir, "runners", env.name)
	err := provider.DecodeConfig(section, &cfg)
	for _, path := range []*string{&cfg.Agent, &cfg.RunnerDir, &cfg.Root, &cfg.MachinesDir} {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(env.dir, *path)
		}
	}
	if err := errors.Join(err, cfg.Validate()); err != nil {
		return nil, err
	}
	cfg.Owner, cfg.Logger = env.owner, env.logger
	return func() (provider.Provider, error) { return process.New(cfg) }, nil
}

// defaultConnectTimeout is for a provider that does not say how long its machines
// take to start: a virtual machine's time (design §7).
const defaultConnectTimeout = 5 * time.Minute

// Check reports what is wrong with a configuration beyond what config.Load sees:
// providers that this program does not know, their own sections, and settings
// that this release does not act on. It touches no platform. The error is
// config.Problems, every one at once.
func Check(cfg config.Config) error {
	_, err := plans(cfg, slog.New(slog.DiscardHandler))
	return err
}

// plan is a provider whose section was read.
type plan struct {
	name string
	make func() (provider.Provider, error)
	// problem gives an error of make the section's position in the file.
	problem func(error) error
}

func plans(cfg config.Config, logger *slog.Logger) ([]plan, error) {
	dir, err := filepath.Abs(filepath.Dir(cfg.File))
	if err != nil {
		return nil, fmt.Errorf("directory of the configuration: %w", err)
	}
	var problems config.Problems
	note := func(err error) {
		if ps, ok := errors.AsType[config.Problems](err); ok {
			problems = append(problems, ps...)
		}
	}
	var out []plan
	for _, p := range cfg.Providers {
		problem := func(err error) error { return p.Config.Problem("", "provider %s: %s", p.Name, err) }
		read, ok := kinds[p.Kind]
		if !ok {
			note(p.Config.Problem("use process", "provider %s: kind %q is unknown", p.Name, p.Kind))
			continue
		}
		section, err := p.Config.JSON()
		if err != nil {
			note(problem(err))
			continue
		}
		build, err := read(section, providerEnv{name: p.Name, owner: cfg.Name, dataDir: cfg.DataDir, dir: dir, logger: logger.With("provider", p.Name)})
		for _, one := range each(err) {
			note(problem(one))
		}
		out = append(out, plan{p.Name, build, problem})
	}
	for _, one := range each(unsupported(cfg)) {
		problems = append(problems, config.Problem{File: cfg.File, What: one.Error()})
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return out, nil
}

// each takes joined errors apart.
func each(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range joined.Unwrap() {
			out = append(out, each(e)...)
		}
		return out
	}
	return []error{err}
}

// backends builds every configured provider and reports every problem at once.
func backends(cfg config.Config, reg *metrics.Registry, logger *slog.Logger) (map[string]lifecycle.Backend, error) {
	read, err := plans(cfg, logger)
	if err != nil {
		return nil, err
	}
	out := map[string]lifecycle.Backend{}
	var problems config.Problems
	for _, p := range read {
		made, err := p.make()
		for _, one := range each(err) {
			if ps, ok := errors.AsType[config.Problems](p.problem(one)); ok {
				problems = append(problems, ps...)
			}
		}
		if err != nil {
			continue
		}
		b := lifecycle.Backend{Name: p.name, ConnectTimeout: defaultConnectTimeout}
		if d, ok := made.(provider.Described); ok {
			b.ConnectTimeout = d.Describe().ConnectTimeout
		}
		b.Provider = reg.Provider(p.name, made)
		out[p.name] = b
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return out, nil
}

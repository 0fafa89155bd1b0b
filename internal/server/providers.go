package server

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/lifecycle"
	"github.com/muster-ci/muster/internal/metrics"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/container"
	"github.com/muster-ci/muster/provider/fault"
	"github.com/muster-ci/muster/provider/garm"
	"github.com/muster-ci/muster/provider/process"
	"github.com/muster-ci/muster/provider/qemu"
	"github.com/muster-ci/muster/provider/ssh"
)

// kinds are the platforms that this program knows. A new one is a line here.
var kinds = []provider.Kind{
	process.Kind(),
	qemu.Kind(),
	container.Kind(),
	ssh.Kind(),
	garm.Kind(),
}

// Kinds describes the platforms that this program knows, in the order of the
// documentation.
func Kinds() []provider.Description {
	out := make([]provider.Description, 0, len(kinds))
	for _, k := range kinds {
		out = append(out, k.Description)
	}
	return out
}

func kindNamed(name string) (provider.Kind, bool) {
	i := slices.IndexFunc(kinds, func(k provider.Kind) bool { return k.Kind == name })
	if i < 0 {
		return provider.Kind{}, false
	}
	return kinds[i], true
}

func kindNames() string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.Kind)
	}
	return strings.Join(names, ", ")
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
		kind, ok := kindNamed(p.Kind)
		if !ok {
			note(p.Config.Problem("use one of "+kindNames(), "provider %s: kind %q is unknown", p.Name, p.Kind))
			continue
		}
		section, err := p.Config.JSON()
		if err != nil {
			note(problem(err))
			continue
		}
		build, err := kind.Read(section, provider.Env{Name: p.Name, Owner: cfg.Name, DataDir: cfg.DataDir, Dir: dir, Logger: logger.With("provider", p.Name)})
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
	spoil, err := faults(logger)
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
			b.CreateTimeout = d.Describe().CreateTimeout
		}
		b.Provider = reg.Provider(p.name, spoil(made))
		out[p.name] = b
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return out, nil
}

// faultsVariable is an environment variable by which tests have a control plane's
// providers fail now and then; see package fault. It is no setting: nobody who sets
// it wants jobs to run.
const faultsVariable = "MUSTER_FAULTS"

// faults returns what stands before every provider: nothing, unless the environment
// asks for faults.
func faults(logger *slog.Logger) (spoil func(provider.Provider) provider.Provider, err error) {
	text := os.Getenv(faultsVariable)
	if text == "" {
		return func(p provider.Provider) provider.Provider { return p }, nil
	}
	cfg, err := fault.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", faultsVariable, err)
	}
	logger.Error("PROVIDERS FAIL ON PURPOSE: this control plane is for tests only", faultsVariable, text)
	return func(p provider.Provider) provider.Provider { return fault.New(p, cfg) }, nil
}

package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/lifecycle"
	"github.com/muster-ci/muster/internal/metrics"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/container"
	"github.com/muster-ci/muster/provider/fault"
	"github.com/muster-ci/muster/provider/garm"
	"github.com/muster-ci/muster/provider/kubernetes"
	"github.com/muster-ci/muster/provider/process"
	"github.com/muster-ci/muster/provider/qemu"
	"github.com/muster-ci/muster/provider/slurm"
	"github.com/muster-ci/muster/provider/ssh"
)

// kinds are the platforms that this program knows. A new one is a line here.
var kinds = []provider.Kind{
	process.Kind(),
	slurm.Kind(),
	qemu.Kind(),
	container.Kind(),
	kubernetes.Kind(),
	garm.Kind(),
	ssh.Kind(),
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
	if cfg.SlurmGateway != nil {
		if _, err := gatewaySlurm(cfg, slog.New(slog.DiscardHandler)); err != nil {
			return err
		}
	}
	if cfg.GatewayOnly {
		return nil
	}
	_, err := plans(cfg, slog.New(slog.DiscardHandler))
	_, rulesErr := detectionRules(cfg.Traces)
	return errors.Join(err, checkBucket(cfg), rulesErr)
}

// plan is a provider, or one zone of it, whose section was read.
type plan struct {
	name, zone string
	kind       provider.Description
	make       func() (provider.Provider, error)
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
		kind, ok := kindNamed(p.Kind)
		if !ok {
			note(p.Config.Problem("use one of "+kindNames(), "provider %s: kind %q is unknown", p.Name, p.Kind))
			continue
		}
		for _, z := range zonesOf(p) {
			problem := func(err error) error { return z.at.Problem("", "provider %s: %s", z.name(p.Name), err) }
			section, err := z.section()
			if err != nil {
				note(problem(err))
				continue
			}
			build, err := kind.Read(section, provider.Env{Name: z.name(p.Name), Owner: cfg.Name, DataDir: cfg.DataDir, Dir: dir, Logger: logger.With("provider", z.name(p.Name))})
			for _, one := range each(err) {
				note(problem(one))
			}
			out = append(out, plan{p.Name, z.zone, kind.Description, build, problem})
		}
	}
	for _, one := range each(errors.Join(unsupported(cfg), ungiven(cfg))) {
		problems = append(problems, config.Problem{File: cfg.File, What: one.Error()})
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return out, nil
}

// zone is where a part of a provider's sections is.
type zone struct {
	zone       string
	base, over config.Section
	at         config.Section
}

// zonesOf are the zones of a provider; one of no name for a provider without.
func zonesOf(p config.Provider) []zone {
	if len(p.Zones) == 0 {
		return []zone{{base: p.Config, at: p.Config}}
	}
	var out []zone
	for _, z := range p.Zones {
		out = append(out, zone{zone: z.Name, base: p.Config, over: z.Config, at: z.Config})
	}
	return out
}

// name is what the zone's provider is called: a name that no provider can have.
func (z zone) name(provider string) string {
	if z.zone == "" {
		return provider
	}
	return provider + "." + z.zone
}

// section lays the zone's keys over the provider's.
func (z zone) section() (json.RawMessage, error) {
	all := map[string]json.RawMessage{}
	for _, s := range []config.Section{z.base, z.over} {
		text, err := s.JSON()
		if err != nil {
			return nil, err
		}
		if z.zone == "" {
			return text, nil
		}
		var keys map[string]json.RawMessage
		if err := json.Unmarshal(text, &keys); err != nil {
			return nil, fmt.Errorf("config must be a list of keys and values: %w", err)
		}
		maps.Copy(all, keys)
	}
	return json.Marshal(all)
}

// ungiven names every pool that asks its provider for what it cannot give (S4-51, S4-76):
// a runner that silently lacks it would fail the job, or cost more than was thought.
func ungiven(cfg config.Config) error {
	var errs []error
	for _, p := range cfg.Pools {
		i := slices.IndexFunc(cfg.Providers, func(v config.Provider) bool { return v.Name == p.Provider })
		if i < 0 {
			continue
		}
		kind, ok := kindNamed(cfg.Providers[i].Kind)
		if !ok {
			continue
		}
		if p.Keeps() && len(cfg.Providers[i].Zones) > 0 {
			errs = append(errs, muster.Errorf(muster.CodeInvalid, "pool %s keeps a machine of provider %s, which has zones: name a provider without zones, and the machine's own zone in the pool", p.Name, p.Provider))
		}
		for _, o := range cfg.Offerings {
			if o.Name != p.Offering && o.Name != p.Canary.Offering {
				continue
			}
			if o.GPUs > 0 && kind.NoGPUs != "" {
				errs = append(errs, muster.Errorf(muster.CodeInvalid, "pool %s: offering %s asks for GPUs, which provider %s of kind %s does not give: %s", p.Name, o.Name, p.Provider, kind.Kind, kind.NoGPUs))
			}
			if o.Spot && kind.NoSpot != "" {
				errs = append(errs, muster.Errorf(muster.CodeInvalid, "pool %s: offering %s is spot, which provider %s of kind %s does not give: %s", p.Name, o.Name, p.Provider, kind.Kind, kind.NoSpot))
			}
		}
	}
	return errors.Join(errs...)
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
		b, ok := out[p.name]
		if !ok {
			b = lifecycle.Backend{Name: p.name, ConnectTimeout: defaultConnectTimeout}
			if d, ok := provider.As[provider.Described](made); ok {
				b.ConnectTimeout = d.Describe().ConnectTimeout
				b.Queues = d.Describe().Queues
				b.CreateTimeout = d.Describe().CreateTimeout
			}
		}
		if p.zone == "" {
			b.Provider = reg.Provider(p.name, spoil(made))
		} else {
			b.Zones = append(b.Zones, lifecycle.Zone{Name: p.zone, Provider: reg.Provider(p.name+"."+p.zone, spoil(made))})
		}
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

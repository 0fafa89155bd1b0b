package process

import (
	_ "embed"
	"encoding/json"
	"errors"
	"path/filepath"
	"time"

	"github.com/muster-ci/muster/provider"
)

//go:embed guide.md
var guide string

// Kind is this platform for the configuration and the documentation.
func Kind() provider.Kind { return provider.Kind{Description: description(), Read: read} }

func description() provider.Description {
	defaults := Defaults()
	defaults.Agent = "" // a path of this machine
	return provider.Description{
		Kind:      "process",
		Summary:   "Runners as processes of this machine, each with its own directory and session.",
		Isolation: "That of a process: runners share the kernel, the network and, unless `user` says otherwise, the user of the control plane. Use it for code that you trust.",
		Needs:     []string{"Linux.", "GitHub's runner unpacked in `runner_dir`, or the way to download it.", "Control groups for limits of memory and processes; without them runners start and nothing limits them."},
		// Design §7.
		ConnectTimeout: 10 * time.Second,
		NoGPUs:         "every runner sees the GPUs of this machine, and none is set aside for one; leave gpus out",
		NoSpot:         "this machine is there or not, and nobody takes it away; leave spot out",
		Settings: provider.Settings(defaults, map[string]string{
			"agent":        "the muster-agent program; by default the one beside this program",
			"runner_dir":   "a directory with GitHub's unpacked runner, `run.sh` at its top; empty lets every runner download the version that GitHub names",
			"root":         "where the directories of runners are made; by default `runners/NAME` in the data directory",
			"machines_dir": "the machines that are kept: `ZONE/NAME/run.sh` or `NAME/run.sh`, each registered by hand; empty keeps none",
			"max":          "how many instances may exist at once, those that ended and are not yet deleted included",
			"memory_mib":   "limits the memory of a runner with all its processes where its offering does not say; 0 means no limit",
			"pids":         "limits the processes and threads of a runner; 0 means no limit",
			"user":         "whom runners run as, by name or number; empty means the control plane's own user; another one needs root",
			"env":          "variables of the control plane that runners get to see, besides PATH and LANG",
			"grace":        "how long a runner may take to end after SIGTERM, before SIGKILL",
			"cgroup":       "the control group, below the root of each hierarchy, in which those of runners are made; `none` does without",
		}),
		Example: `providers:
  - name: local
    kind: process
    config:
      runner_dir: actions-runner
      max: 4

offerings:
  - {name: small, cpus: 2, memory_mib: 4096, price_usd_per_minute: "0"}

pools:
  - name: linux
    scope: your-organization
    labels: [muster]
    provider: local
    offering: small
    scaling: {max_runners: 4}
`,
		Guide: guide,
	}
}

func read(section json.RawMessage, env provider.Env) (func() (provider.Provider, error), error) {
	cfg := Defaults()
	cfg.Root = filepath.Join(env.DataDir, "runners", env.Name)
	err := provider.DecodeConfig(section, &cfg)
	for _, path := range []*string{&cfg.Agent, &cfg.RunnerDir, &cfg.Root, &cfg.MachinesDir} {
		*path = env.Path(*path)
	}
	if err := errors.Join(err, cfg.Validate()); err != nil {
		return nil, err
	}
	cfg.Owner, cfg.Logger = env.Owner, env.Logger
	return func() (provider.Provider, error) { return New(cfg) }, nil
}

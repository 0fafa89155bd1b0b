package container

import (
	_ "embed"
	"encoding/json"
	"errors"
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
		Kind:      "container",
		Summary:   "Runners in containers of Docker, Podman or another engine with Docker's interface.",
		Isolation: "That of the runtime that `isolation` demands: namespaces of a shared kernel (runc), a kernel in user space (gvisor), a virtual machine (kata). The engine is asked what a container got before it starts, and one that got less never starts.",
		Needs: []string{
			"An engine with Docker's interface of version 1.40 or later, on a socket that the control plane may use: Docker 20.10 and Podman 4.3 are tested.",
			"An image with a C library, a shell and, unless `runner_from` or `download` brings it, GitHub's runner, such as `ghcr.io/actions/actions-runner`.",
			"A `public_url` of the control plane that containers can reach.",
		},
		// Design §7.
		ConnectTimeout: time.Minute,
		NoSpot:         "containers are of this machine, and nobody takes it away; leave spot out",
		Settings: provider.Settings(defaults, map[string]string{
			"host":                       "the engine: `unix:///path` or `tcp://host:port`; empty means `DOCKER_HOST`, or the first socket of Docker or Podman that is there",
			"tls_dir":                    "a directory with `ca.pem`, `cert.pem` and `key.pem`, for an engine on another machine",
			"agent":                      "the muster-agent program, mounted into containers; by default the one beside this program",
			"image":                      "the image for offerings that name none",
			"pull":                       "when images are pulled: `always`, `missing` or `never`",
			"pull_timeout":               "how long a pull may take; runners that wait for it are tried again meanwhile",
			"registries":                 "credentials for private images: entries of `host`, `kind` (`gcp`, `aws`, `custom`) and `key_file`, `username`, `password_file`, `password_env` or `helper`",
			"runner_dir":                 "where the runner is in the container",
			"runner_from":                "a directory of the engine's machine with GitHub's unpacked runner, copied to `runner_dir` when a container starts; empty uses what the image has",
			"download":                   "lets every container download the runner that GitHub names",
			"user":                       "whom the agent and the runner run as, `USER` or `USER:GROUP`; empty means the image's own",
			"env":                        "variables for the container, which anybody on the engine can read",
			"cpus":                       "limits the processors where the offering does not say; 0 means no limit",
			"memory_mib":                 "limits the memory where the offering does not say; 0 means no limit",
			"pids":                       "limits the processes and threads of a container; 0 means no limit of ours",
			"read_only_root":             "mounts the image read-only, with `/tmp`, `/run` and `runner_dir` writable; by default on unless the runner comes with the image, which the engine would have to copy for every container",
			"capabilities":               "capabilities that containers keep, such as `NET_BIND_SERVICE`; all others are dropped",
			"allow_privilege_escalation": "lets programs such as sudo gain what their caller does not have",
			"network":                    "`none`, `bridge`, `host`, `workspace` (a network for every workspace) or the name of one of the engine's networks",
			"internal":                   "makes the networks of `workspace` without a way out",
			"hosts":                      "further names for addresses, `name:address`; `host-gateway` is the engine's machine",
			"isolation":                  "what containers must be isolated by: `runc` (also crun), `gvisor`, `kata` or `sysbox`",
			"runtime":                    "the engine's name for that runtime, where it is not the usual one",
			"gpus":                       "the GPUs to give away, each to one runner at a time: NVIDIA's ids (`0`, `GPU-…`) or CDI names (`nvidia.com/gpu=0`); Docker only",
			"sidecar":                    "gives every runner an engine of its own: `image`, `command`, `privileged`, `memory_mib`; see Trust",
			"max":                        "how many instances may exist at once, those that ended and are not yet deleted included",
			"grace":                      "how long a container may take to end before it is killed",
		}),
		Example: `providers:
  - name: engine
    kind: container
    config:
      image: ghcr.io/actions/actions-runner:latest
      network: workspace
      memory_mib: 4096
      max: 8

offerings:
  - {name: small, cpus: 2, memory_mib: 4096, price_usd_per_minute: "0"}

pools:
  - name: linux
    scope: your-organization
    labels: [muster]
    provider: engine
    offering: small
    scaling: {max_runners: 8}
`,
		Guide: guide,
	}
}

func read(section json.RawMessage, env provider.Env) (func() (provider.Provider, error), error) {
	cfg := Defaults()
	err := provider.DecodeConfig(section, &cfg)
	paths := []*string{&cfg.Agent, &cfg.RunnerFrom, &cfg.TLSDir}
	for i := range cfg.Registries {
		paths = append(paths, &cfg.Registries[i].KeyFile, &cfg.Registries[i].PasswordFile)
	}
	for _, path := range paths {
		*path = env.Path(*path)
	}
	if err := errors.Join(err, cfg.Validate()); err != nil {
		return nil, err
	}
	cfg.Owner, cfg.Logger = env.Owner, env.Logger
	return func() (provider.Provider, error) { return New(cfg) }, nil
}

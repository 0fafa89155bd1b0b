package ssh

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
func Kind() provider.Kind { return provider.Kind{Description: description(), Read: readSection} }

func description() provider.Description {
	defaults := Defaults()
	defaults.Agent = "" // a path of this machine
	return provider.Description{
		Kind:      "ssh",
		Summary:   "Runners on machines that exist already and are reached over SSH, each with its own directory and session.",
		Isolation: "That of a process: the runners of a host share its kernel, its network and the user that the control plane logs in as. Use it for code that you trust.",
		Needs: []string{
			"Linux hosts with an OpenSSH server, a POSIX shell, and `flock` and `setsid` (util-linux).",
			"A key that lets the control plane in, and the hosts' own keys.",
			"A way for the hosts to reach the control plane's address.",
		},
		// The agent is there; it connects before it downloads anything.
		ConnectTimeout: time.Minute,
		NoGPUs:         "a runner sees whatever GPUs its host has, and none is set aside for one; leave gpus out and name hosts that have them",
		NoSpot:         "the hosts are yours, and nobody takes them away; leave spot out",
		Settings: provider.Settings(defaults, map[string]string{
			"hosts":           "the machines: `address`, and where they differ from the rest of the section `name`, `port`, `user`, `host_key`, `slots`, `root`, `runner_dir`, `jump`; `zone`, which messages name; `offerings`, the only ones that the host serves (one with GPUs is served by hosts that name it)",
			"user":            "whom to log in as; runners run as this user",
			"port":            "where sshd listens",
			"slots":           "how many runners a host takes at once, those that ended and are not yet deleted included",
			"root":            "where a host keeps the directories of runners: absolute, or below the user's home",
			"runner_dir":      "a directory of the hosts with GitHub's unpacked runner, `run.sh` at its top; empty unpacks the version that GitHub offers for every runner, from an archive that a host downloads once",
			"download":        "lets a runner fetch the version that GitHub offers where `runner_dir` has another one",
			"jump":            "the host through which the others are reached: `address`, `port`, `user`, `host_key`",
			"identity_files":  "private keys to log in with, a certificate beside one in `FILE-cert.pub`; by default those in `~/.ssh`",
			"agent_socket":    "the socket of an ssh-agent with keys to log in with",
			"known_hosts":     "a file as OpenSSH's, for hosts without `host_key`; by default `~/.ssh/known_hosts`",
			"agent":           "the muster-agent program, for the hosts' architecture; by default the one beside this program",
			"own_engines":     "the container engines of the hosts, which have one slot each, work for runners alone: their containers are recorded as the job's, and held to its policy of egress",
			"env":             "variables of the user's session on the host that runners get to see, besides PATH and LANG",
			"grace":           "how long a runner may take to end after SIGTERM, before SIGKILL",
			"connect_timeout": "how long a host may take to let us in",
			"call_timeout":    "how long a host may take to answer",
			"retry_after":     "for how long a host is passed over that could not be reached; each further failure doubles it, up to 5 minutes",
			"keep_alive":      "how often an idle connection is tried",
		}),
		Example: `providers:
  - name: builders
    kind: ssh
    config:
      user: ci
      slots: 4
      identity_files: [keys/builders]
      hosts:
        - {address: build1.example.com, host_key: "SHA256:uNiVztksCsDhcc0u9e8BrrJXVGDjXlEdLpDxAFnrdBs"}
        - {address: build2.example.com, host_key: "SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8", slots: 8}

offerings:
  - {name: small, cpus: 2, memory_mib: 4096, price_usd_per_minute: "0"}

pools:
  - name: linux
    scope: your-organization
    labels: [muster]
    provider: builders
    offering: small
    scaling: {max_runners: 12}
`,
		Guide: guide,
	}
}

func readSection(section json.RawMessage, env provider.Env) (func() (provider.Provider, error), error) {
	cfg := Defaults()
	err := provider.DecodeConfig(section, &cfg)
	cfg.Agent, cfg.KnownHosts, cfg.AgentSocket = env.Path(cfg.Agent), env.Path(cfg.KnownHosts), env.Path(cfg.AgentSocket)
	for i := range cfg.IdentityFiles {
		cfg.IdentityFiles[i] = env.Path(cfg.IdentityFiles[i])
	}
	cfg.fromHome()
	if err := errors.Join(err, cfg.Validate()); err != nil {
		return nil, err
	}
	cfg.Owner, cfg.Logger = env.Owner, env.Logger
	return func() (provider.Provider, error) { return New(cfg) }, nil
}

package slurm

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
	return provider.Description{
		Kind:      "slurm",
		Summary:   "Runners as jobs of a Slurm cluster, asked for by a gateway inside the cluster, by slurmrestd or by sbatch.",
		Isolation: "That of Slurm: a job runs as the Slurm user that its repository is mapped to, on a node that it may share with other jobs; control groups and private directories are the site's to set up.",
		Needs: []string{
			"Slurm 22.05 or newer, with accounts for the users that runners run as.",
			"`muster-agent` on every node, and GitHub's runner there or a way to download it.",
			"Nodes that reach the control plane and GitHub by HTTPS; nothing has to reach the nodes.",
			"For the gateway: `muster serve --role slurm-gateway` on a machine inside the cluster.",
		},
		// From when the job runs; in the queue it may wait for as long as it takes.
		ConnectTimeout: 5 * time.Minute,
		Queues:         true,
		Settings: provider.Settings(Defaults(), map[string]string{
			"transport":          "`gateway` asks the Slurm gateway, and the control plane holds no credential of Slurm; `rest` calls slurmrestd; `commands` runs sbatch, squeue and scancel",
			"gateway_url":        "the gateway's address",
			"gateway_token_file": "the secret that the gateway has in its `auth_token_file`, readable by the control plane's user only",
			"url":                "slurmrestd's address: `http://127.0.0.1:6820`, `https://…` or `unix:/path`",
			"api_version":        "the version of slurmrestd's API, such as `v0.0.41`; empty takes the best that both sides know",
			"user":               "the Slurm user whom the token is for",
			"token_file":         "a token for slurmrestd that the site renews; it is read for every call",
			"token_command":      "a program and its arguments that print a token for slurmrestd, such as `scontrol token`",
			"token_lifetime":     "how long a token of `token_command` is used before it is run again",
			"commands":           "the directory of sbatch, squeue and scancel; empty finds them by PATH",
			"slurm_conf":         "the path of slurm.conf for those programs; empty is Slurm's own",
			"partition":          "the partition of jobs; empty is Slurm's default",
			"qos":                "the QOS of jobs",
			"account":            "the account of jobs",
			"constraint":         "features that a node must have",
			"reservation":        "the reservation that jobs use",
			"nice":               "how much jobs stand back in the queue",
			"time_limit":         "the time limit of every job, always given to Slurm; the pool's `max_age` if that is shorter",
			"gres":               "what a GPU of an offering is asked for as: `gpu`, or with a type `gpu:a100`",
			"agent":              "the path of muster-agent on the nodes",
			"runner_dir":         "the path of GitHub's unpacked runner on the nodes; empty lets every job download it",
			"cache_dir":          "a directory on the nodes that keeps downloaded runners; empty keeps none",
			"job_root":           "a directory on each node's own disk that every user may write to; each job gets a private one below it",
			"log":                "the file on the node that a job's script writes to, with `%j` for the job's number; one without an error in it is removed",
			"grace":              "how long a runner may take to end after it was told to; keep it below Slurm's KillWait",
			"max":                "how many jobs of this control plane there may be at once, those in the queue included",
		}),
		Example: `providers:
  - name: cluster
    kind: slurm
    config:
      gateway_url: https://slurm-login.example.com:5011
      gateway_token_file: gateway.token

offerings:
  - {name: cpu, cpus: 4, memory_mib: 8192, price_usd_per_minute: "0"}
  - {name: gpu, cpus: 8, memory_mib: 32768, gpus: 1, price_usd_per_minute: "0"}

pools:
  - name: hpc
    scope: your-organization/your-repository
    labels: [self-hosted, hpc]
    provider: cluster
    offering: cpu
    scaling: {max_runners: 20}
  - name: hpc-gpu
    scope: your-organization/your-repository
    labels: [self-hosted, hpc, gpu]
    provider: cluster
    offering: gpu
    scaling: {max_runners: 4}
`,
		Guide: guide,
	}
}

func read(section json.RawMessage, env provider.Env) (func() (provider.Provider, error), error) {
	cfg := Defaults()
	err := provider.DecodeConfig(section, &cfg)
	for _, path := range []*string{&cfg.GatewayTokenFile, &cfg.TokenFile} {
		*path = env.Path(*path)
	}
	if err := errors.Join(err, cfg.Validate()); err != nil {
		return nil, err
	}
	cfg.Owner, cfg.Logger = env.Owner, env.Logger
	cfg.StateDir = filepath.Join(env.DataDir, "slurm", env.Name)
	return func() (provider.Provider, error) { return New(cfg) }, nil
}

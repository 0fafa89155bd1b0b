package slurm

import (
	"context"
	"fmt"
	"strings"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// transport is a way to speak to Slurm.
type transport interface {
	// submit returns the id of the new job, and what Slurm warned of.
	submit(ctx context.Context, s submission) (id int64, warnings []string, err error)
	// jobs lists the jobs of ours that Slurm knows, those that have ended included.
	jobs(ctx context.Context) ([]job, error)
	// cancel asks for the end of a job. A job that Slurm does not know is no error.
	cancel(ctx context.Context, j job) error
}

// submission is a job to be.
type submission struct {
	user      string // whom it runs as; "" is the caller itself
	name      string
	comment   string
	partition string
	qos       string
	account   string
	features  string
	reserved  string
	output    string
	minutes   int64
	cpus      int64
	memoryMiB int64
	gres      string // "gpu:2"; "" for none
	nice      int64
	// environment is all that the job gets. It holds the token.
	environment map[string]muster.Secret
	script      string
}

// classify puts Slurm's own words into a class. Both slurmrestd and sbatch use
// those of slurm_strerror(3); the numbers behind them differ between versions.
func classify(words string) error {
	lower := strings.ToLower(words)
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(lower, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("temporarily unable to accept job", "resource temporarily unavailable", "requested partition configuration not available now"):
		return provider.ErrCapacity
	case has("policy", "limit reached", "job submit limit"):
		return provider.ErrQuota
	case has("protocol authentication", "connection", "timed out", "zero bytes", "unable to contact", "unspecified error", "communication"):
		return provider.ErrTransient
	case has("invalid", "not available", "no partition specified", "no default partition", "access/permission denied", "access denied", "not permitted",
		"more processors requested", "too many", "not in partition", "unknown key", "unrecognized", "unable to find", "environment", "does not exist", "unsupported", "unknown user", "is not a user"):
		return provider.ErrInvalid
	}
	return provider.ErrTransient
}

func classified(what, words string) error {
	return fmt.Errorf("%w: %s: %s", classify(words), what, strings.TrimSpace(words))
}

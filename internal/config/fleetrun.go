package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// FleetRun is what `muster github-runner run` was told.
type FleetRun struct {
	// File is the fleets file, DataDir what the run keeps: its key, its cooldowns,
	// and the directories of runners.
	File    string
	DataDir string
	// Kind is the provider's, Provider its section as JSON.
	Kind     string
	Provider json.RawMessage
	// Token is GITHUB_TOKEN, APIURL the GitHub that it is for; "" is github.com.
	Token  muster.Secret
	APIURL string
	// Listen is where agents and the command line reach the run, URL how machines
	// reach it, "" for Listen itself.
	Listen string
	URL    string
	// OperatorToken is what the command line has to show; "": callers on this
	// machine need none.
	OperatorToken muster.Secret
	// Interval is how often the queue is looked at.
	Interval time.Duration
	// Once ends the run after one look; Force ends busy runners with the run.
	Once, Force bool
}

// GitHubToken reads GITHUB_TOKEN: it comes from the environment and from nowhere
// else (S1-19, S1-97), and is looked at before it is used (S1-18, S1-99).
func GitHubToken(getenv func(string) string) (muster.Secret, error) {
	switch t := getenv("GITHUB_TOKEN"); {
	case t == "":
		return "", errors.New("the environment variable GITHUB_TOKEN is not set: export GITHUB_TOKEN=… with a token that may administer the repositories' runners")
	case !accessToken.MatchString(t):
		return "", errors.New("the environment variable GITHUB_TOKEN does not hold a token: copy the token again, without spaces and line ends")
	default:
		return muster.Secret(t), nil
	}
}

// FleetPools reads a fleets file for a run without a control plane. The error
// names every problem.
func FleetPools(path, provider string) ([]muster.Pool, error) {
	file, err := ReadFleets(path)
	if err != nil {
		return nil, err
	}
	var pools []muster.Pool
	var problems []error
	for _, name := range file.Names() {
		e, _, err := file.Fleet(name)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", path, err))
			continue
		}
		p := e.Pool(name)
		p.Provider = provider
		var wrong []error
		if err := p.Validate(); err != nil {
			wrong = joined(err)
		}
		if p.MaxJobCount != 1 {
			wrong = append(wrong, muster.Errorf(muster.CodeInvalid, "pool %q: max_job_count is %d, and every runner is registered for one job: leave it out", name, p.MaxJobCount))
		}
		for _, one := range wrong {
			problems = append(problems, fmt.Errorf("%s: %s", path, strings.TrimPrefix(muster.MessageOf(one), "pool ")))
		}
		pools = append(pools, p)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return pools, nil
}

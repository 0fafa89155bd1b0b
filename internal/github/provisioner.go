package github

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// RunnerConfig is what a runner of one repository registers with (S1-4).
type RunnerConfig struct {
	RepoOwner  string        `json:"repo_owner"`
	RepoName   string        `json:"repo_name"`
	RunnerName string        `json:"runner_name"`
	Labels     muster.Labels `json:"labels"`
	// RunnerGroup is a group's name, "" for none.
	RunnerGroup string `json:"runner_group,omitempty"`
}

// Validate refuses what must not reach a URL or a command line (S1-20).
func (c RunnerConfig) Validate() error {
	if _, err := repository(c.RepoOwner, c.RepoName); err != nil {
		return err
	}
	if !muster.ValidRunnerName(c.RunnerName) {
		return muster.Errorf(muster.CodeInvalid, "runner name %q is not one that GitHub takes: use letters, digits, '-', '_' and '.', 64 at most", clean(c.RunnerName))
	}
	if len(c.Labels) == 0 {
		return muster.Errorf(muster.CodeInvalid, "runner %s has no labels: give it at least one", c.RunnerName)
	}
	if strings.HasPrefix(c.RunnerGroup, "-") || strings.ContainsFunc(c.RunnerGroup, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return muster.Errorf(muster.CodeInvalid, "runner group %q is not a group's name", clean(c.RunnerGroup))
	}
	return c.Labels.Validate()
}

// RunnerRegistration is a runner that was registered with a token (S1-5). It is
// never stored: the token is a Secret and encodes as "***".
type RunnerRegistration struct {
	RunnerID          int64         `json:"runner_id"`
	RunnerName        string        `json:"runner_name"`
	RegistrationToken muster.Secret `json:"registration_token"`
	TokenExpiresAt    time.Time     `json:"token_expires_at"`
}

// RunnerInfo is what GitHub says of a runner (S1-6).
type RunnerInfo struct {
	RunnerID   int64  `json:"runner_id"`
	RunnerName string `json:"runner_name"`
	// Status is "online" or "offline"; any other word of GitHub's counts as offline.
	Status string        `json:"status"`
	Busy   bool          `json:"busy"`
	Labels muster.Labels `json:"labels"`
}

// Provisioner registers and removes runners of single repositories, for fleets
// that have a token and no App. It calls three routes of GitHub and no others
// (S1-16): registration token, look up, delete. Safe for concurrent use.
type Provisioner struct{ client *Client }

// NewProvisioner makes a Provisioner of a Client.
func NewProvisioner(c *Client) *Provisioner { return &Provisioner{client: c} }

// RegistrationToken returns a token for config.sh and when it ends, an hour after
// GitHub made it; the same one serves until five minutes before (S1-7, S1-8).
// Errors are of *RegistrationTokenError.
func (p *Provisioner) RegistrationToken(ctx context.Context, owner, name string) (token muster.Secret, expires time.Time, err error) {
	s, err := repository(owner, name)
	if err != nil {
		return "", time.Time{}, invalid(ErrRegistrationToken, err)
	}
	return p.client.RegistrationToken(ctx, s)
}

// Register gets a token, hands it to configure, which makes a machine register
// with it, and returns what came of it (S1-9). Configure returns the runner's id.
// A failure of it, or no id, is a *RunnerRegistrationError; no token is a
// *RegistrationTokenError, and then configure is not called.
func (p *Provisioner) Register(ctx context.Context, c RunnerConfig, configure func(ctx context.Context, c RunnerConfig, token muster.Secret) (int64, error)) (RunnerRegistration, error) {
	if err := c.Validate(); err != nil {
		return RunnerRegistration{}, invalid(ErrRegistration, err)
	}
	token, expires, err := p.RegistrationToken(ctx, c.RepoOwner, c.RepoName)
	if err != nil {
		return RunnerRegistration{}, err
	}
	id, err := configure(ctx, c, token)
	if err == nil && id <= 0 {
		err = fmt.Errorf("it reported no runner id")
	}
	if err != nil {
		code := muster.CodeOf(err)
		if code == muster.CodeInternal { // of a machine, which may answer the next time
			code = muster.CodeUnavailable
		}
		// The text came from a machine that knows the token.
		said := p.client.clean(strings.ReplaceAll(err.Error(), token.Reveal(), "***"), "")
		return RunnerRegistration{}, &muster.Error{Code: code, Message: "register runner " + c.RunnerName + ": " + said, Err: classed(ErrRegistration, 0, ctx.Err())}
	}
	return RunnerRegistration{RunnerID: id, RunnerName: c.RunnerName, RegistrationToken: token, TokenExpiresAt: expires}, nil
}

// RunnerInfo looks up a runner (S1-15); CodeNotFound if there is none (any more).
// Errors are of *RunnerProvisioningError.
func (p *Provisioner) RunnerInfo(ctx context.Context, owner, name string, id int64) (RunnerInfo, error) {
	s, err := repository(owner, name)
	if err != nil {
		return RunnerInfo{}, invalid(ErrProvisioning, err)
	}
	r, err := p.client.Runner(ctx, s, id)
	if err != nil {
		return RunnerInfo{}, err
	}
	info := RunnerInfo{RunnerID: r.ID, RunnerName: r.Name, Status: "offline", Busy: r.Busy, Labels: r.Labels}
	if r.Online {
		info.Status = "online"
	}
	return info, nil
}

// Deregister removes a runner (S1-14). CodeNotFound means that it is gone
// already, CodeBusy that it runs a job and stays. Errors are of
// *RunnerDeregistrationError.
func (p *Provisioner) Deregister(ctx context.Context, owner, name string, id int64) error {
	s, err := repository(owner, name)
	if err != nil {
		return invalid(ErrDeregistration, err)
	}
	return p.client.RemoveRunner(ctx, s, id)
}

// repository is the scope of one repository, checked.
func repository(owner, name string) (muster.Scope, error) {
	s := muster.Scope{Kind: muster.ScopeRepository, Owner: owner, Repo: name}
	return s, s.Validate()
}

// invalid is the error of input that no request was made for.
func invalid(class, err error) error {
	return &muster.Error{Code: muster.CodeInvalid, Message: muster.MessageOf(err), Err: classed(class, 0, nil)}
}

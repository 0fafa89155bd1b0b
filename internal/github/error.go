package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	gh "github.com/google/go-github/v88/github"

	"github.com/muster-ci/muster"
)

// Further classes of the errors of this package, for errors.Is, beside the codes:
// which part of a runner's registration went wrong. errors.As finds the types
// below in the same errors.
var (
	// ErrProvisioning is the class of the three below.
	ErrProvisioning      = errors.New("runner provisioning")
	ErrRegistrationToken = fmt.Errorf("%w: registration token", ErrProvisioning)
	ErrRegistration      = fmt.Errorf("%w: registration", ErrProvisioning)
	ErrDeregistration    = fmt.Errorf("%w: deregistration", ErrProvisioning)
)

// RunnerProvisioningError is in the chain of every error about a runner's
// registration (S1-22). It has no text of its own worth showing: the
// *muster.Error around it has.
type RunnerProvisioningError struct {
	// Status is what GitHub answered, 0 when the call failed otherwise.
	Status int

	class, cause error
}

// Error is the class and the cause.
func (e *RunnerProvisioningError) Error() string {
	if e.cause != nil {
		return e.class.Error() + ": " + e.cause.Error()
	}
	return e.class.Error()
}

// Unwrap returns the class and, if there is one, the cause.
func (e *RunnerProvisioningError) Unwrap() []error {
	if e.cause != nil {
		return []error{e.class, e.cause}
	}
	return []error{e.class}
}

// RegistrationTokenError says that no registration token could be had (S1-23).
type RegistrationTokenError struct{ RunnerProvisioningError }

// Unwrap returns the RunnerProvisioningError.
func (e *RegistrationTokenError) Unwrap() error { return &e.RunnerProvisioningError }

// RunnerRegistrationError says that a runner could not be registered (S1-24).
type RunnerRegistrationError struct{ RunnerProvisioningError }

// Unwrap returns the RunnerProvisioningError.
func (e *RunnerRegistrationError) Unwrap() error { return &e.RunnerProvisioningError }

// RunnerDeregistrationError says that a runner could not be deregistered (S1-25).
// Its *muster.Error has CodeNotFound when the runner is gone already.
type RunnerDeregistrationError struct{ RunnerProvisioningError }

// Unwrap returns the RunnerProvisioningError.
func (e *RunnerDeregistrationError) Unwrap() error { return &e.RunnerProvisioningError }

// classed is the cause with its further class around it; just the cause if there
// is no class.
func classed(class error, status int, cause error) error {
	base := RunnerProvisioningError{Status: status, class: class, cause: cause}
	switch {
	case class == nil:
		return cause
	case errors.Is(class, ErrRegistrationToken):
		return &RegistrationTokenError{base}
	case errors.Is(class, ErrRegistration):
		return &RunnerRegistrationError{base}
	case errors.Is(class, ErrDeregistration):
		return &RunnerDeregistrationError{base}
	}
	return &base
}

// maxText bounds what is quoted of GitHub's own words.
const maxText = 300

// failure is an error on its way out of the client, with what decides about a
// repetition.
type failure struct {
	err       *muster.Error
	status    int
	header    http.Header
	transient bool
}

func (f *failure) Error() string { return f.err.Error() }

func (f *failure) Unwrap() error { return f.err }

func asError(err error) *muster.Error {
	if e, ok := errors.AsType[*muster.Error](err); ok {
		return e
	}
	return &muster.Error{Code: muster.CodeInternal, Message: "the call could not be made", Err: err}
}

// fail classifies an answer that is not a success (4-16). The order matters: a
// 403 or 429 is a limit when it says so in any of GitHub's ways, and a missing
// permission only otherwise.
func (c *Client) fail(who *identity, credential muster.Secret, r request, resp *http.Response, err error) *failure {
	said := c.words(err, credential)
	f := &failure{status: resp.StatusCode, header: resp.Header}
	set := func(code muster.Code, format string, args ...any) *failure {
		f.err = muster.Errorf(code, "%s: GitHub answered %d: "+format, append([]any{r.what, resp.StatusCode}, args...)...)
		f.err.Err = classed(r.class, resp.StatusCode, nil)
		return f
	}
	if resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusTooManyRequests {
		if wait, why := c.limit(who, resp, err); why != "" {
			_ = set(muster.CodeUnavailable, "%s; no call is made for %s", why, wait.Round(time.Second))
			f.err.RetryAfter = wait
			return f
		}
	}
	if code, ok := r.refused[resp.StatusCode]; ok {
		return set(code, "%s", said)
	}
	switch s := resp.StatusCode; {
	case s == http.StatusUnauthorized:
		return set(muster.CodeUnauthenticated, "%s", said)
	case s == http.StatusForbidden:
		needs := ""
		if accepted := c.clean(resp.Header.Get("X-Accepted-GitHub-Permissions"), credential); accepted != "" {
			needs = "; it needs the permission " + accepted
		}
		return set(muster.CodeForbidden, "%s%s", said, needs)
	case s == http.StatusNotFound:
		return set(muster.CodeNotFound, "%s", said)
	case s == http.StatusGone:
		return set(muster.CodeGone, "%s", said)
	case s == http.StatusConflict:
		return set(muster.CodeConflict, "%s", said)
	case s >= 500:
		_ = set(muster.CodeUnavailable, "%s", said)
		f.err.RetryAfter = min(retryAfter(resp.Header), longestPause)
		f.transient = f.err.RetryAfter <= 2*time.Second
		return f
	}
	return set(muster.CodeInvalid, "%s", said)
}

// limit recognizes a rate limit and says how long to keep still: what Retry-After
// says; else, with nothing remaining, until the reset; else a minute, and twice
// as long each time it happens again. why is "" if it is no limit.
func (c *Client) limit(who *identity, resp *http.Response, err error) (wait time.Duration, why string) {
	primary := resp.Header.Get("X-RateLimit-Remaining") == "0"
	_, secondary := errors.AsType[*gh.AbuseRateLimitError](err)
	text := strings.ToLower(messageOf(err))
	secondary = secondary || strings.Contains(text, "secondary rate") || strings.Contains(text, "abuse detection")
	switch {
	case retryAfter(resp.Header) > 0:
		wait, why = retryAfter(resp.Header), "too many requests"
	case primary:
		wait, why = untilReset(resp.Header, time.Now()), "the rate limit is used up"
	case secondary || resp.StatusCode == http.StatusTooManyRequests || strings.Contains(text, "rate limit exceeded"):
		wait, why = who.nextStrike(), "too many requests"
	default:
		return 0, ""
	}
	wait = min(max(wait, time.Second), longestPause)
	who.pause(time.Now().Add(wait))
	return wait, why
}

// longestPause bounds what a wrong clock or a broken proxy can do: GitHub's
// limits are per hour.
const longestPause = 65 * time.Minute

func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseInt(h.Get("Retry-After"), 10, 32)
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// untilReset is measured by GitHub's clock where it tells.
func untilReset(h http.Header, now time.Time) time.Duration {
	reset, err := strconv.ParseInt(h.Get("X-RateLimit-Reset"), 10, 64)
	if err != nil {
		return time.Minute
	}
	return min(time.Unix(reset, 0).Sub(dateOf(h, now)), longestPause) + time.Second
}

// broken is the error of a call that got no usable answer.
func (c *Client) broken(caller context.Context, r request, err error) *muster.Error {
	e := &muster.Error{Code: muster.CodeUnavailable, Err: classed(r.class, 0, nil)}
	switch {
	case caller.Err() != nil:
		e.Message = r.what + ": given up before GitHub answered"
		e.Err = classed(r.class, 0, caller.Err())
	case errors.Is(err, context.DeadlineExceeded):
		e.Message = fmt.Sprintf("%s: GitHub did not answer within %s", r.what, c.cfg.Timeout)
		e.Err = classed(r.class, 0, context.DeadlineExceeded)
	default:
		// The address in a *url.Error can carry a signature; the cause cannot.
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		e.Message = fmt.Sprintf("%s: GitHub could not be reached: %s", r.what, c.clean(err.Error(), ""))
	}
	return e
}

// refuse is the error of a call that the client itself did not make.
func (c *Client) refuse(r request, err *muster.Error) *muster.Error {
	return &muster.Error{Code: err.Code, Message: r.what + ": " + err.Message, RetryAfter: err.RetryAfter, Err: classed(r.class, 0, nil)}
}

// messageOf is GitHub's own message in an error of go-github.
func messageOf(err error) string {
	if e, ok := errors.AsType[*gh.RateLimitError](err); ok {
		return e.Message
	}
	if e, ok := errors.AsType[*gh.AbuseRateLimitError](err); ok {
		return e.Message
	}
	if e, ok := errors.AsType[*gh.TwoFactorAuthError](err); ok {
		return e.Message
	}
	if _, ok := errors.AsType[*gh.RedirectionError](err); ok {
		return "it was moved"
	}
	e, ok := errors.AsType[*gh.ErrorResponse](err)
	if !ok {
		return ""
	}
	text := e.Message
	for _, d := range e.Errors {
		if detail := strings.TrimSpace(strings.Join([]string{d.Resource, d.Field, d.Code, d.Message}, " ")); detail != "" {
			text += " (" + strings.Join(strings.Fields(detail), " ") + ")"
		}
	}
	return text
}

// words is what GitHub said, fit to be shown: without the credential that was
// sent, without anything that looks like one, and short.
func (c *Client) words(err error, credential muster.Secret) string {
	if text := c.clean(messageOf(err), credential); text != "" {
		return text
	}
	return "without a message"
}

// clean is the function of that name after the client's own secrets are removed,
// whatever they look like.
func (c *Client) clean(text string, credential muster.Secret) string {
	for _, secret := range []muster.Secret{credential, c.cfg.Token} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret.Reveal(), "***")
		}
	}
	return clean(text)
}

// secretText matches GitHub's tokens in all their shapes, JWTs, registration
// tokens and long runs of base64, such as a JIT configuration.
var secretText = regexp.MustCompile(`gh[a-z]_[A-Za-z0-9._-]{10,}|github_pat_\w{10,}|eyJ[\w-]+\.[\w-]+(\.[\w-]+)?|\b[A-Z0-9]{29}\b|[A-Za-z0-9+/=_-]{80,}`)

// clean makes foreign text fit for an error: one short line, and nothing in it
// that looks like a credential.
func clean(text string) string {
	text = secretText.ReplaceAllString(text, "***")
	text = strings.Join(strings.FieldsFunc(text, func(c rune) bool { return c <= ' ' || c == 0x7f }), " ")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}

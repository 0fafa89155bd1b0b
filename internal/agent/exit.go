package agent

import "fmt"

// Exit codes of muster-agent. Everything that ends as it should is 0, so that a
// batch system does not count it as a failure.
const (
	// ExitDone: the runner ran its job, had none in time, or was told to end.
	ExitDone = 0
	// ExitInternal: the agent itself failed.
	ExitInternal = 1
	// ExitUsage: flags or environment are wrong.
	ExitUsage = 2
	// ExitDeprecated: GitHub refuses this version of the runner; the same number
	// as run.sh uses (4-44).
	ExitDeprecated = 7
	// ExitUnauthenticated: 401, the boot token is malformed, forged or expired.
	ExitUnauthenticated = 10
	// ExitForbidden: 403, the boot token belongs elsewhere.
	ExitForbidden = 11
	// ExitConflict: 409, the boot token was already used.
	ExitConflict = 12
	// ExitGone: 410, the runner is no longer needed.
	ExitGone = 13
	// ExitRefused: any other refusal, which repeating does not change.
	ExitRefused = 14
	// ExitUnreachable: no answer from the control plane in time.
	ExitUnreachable = 15
	// ExitRunnerDir: there is no usable runner directory.
	ExitRunnerDir = 20
	// ExitDownload: the runner could not be downloaded, verified or unpacked.
	ExitDownload = 21
	// ExitRunner: the runner did not start, or failed before or during its job.
	ExitRunner = 22
)

// exitHelp is shown by --help.
const exitHelp = `Exit codes:
   0  the runner ran its job, had none in time, or was told to end
   1  internal error
   2  flags or environment are wrong
   7  GitHub refuses this version of the runner
  10  boot token malformed, forged or expired (401)
  11  boot token belongs elsewhere (403)
  12  boot token was already used (409)
  13  the runner is no longer needed (410)
  14  the control plane refused for another reason
  15  the control plane did not answer in time
  20  no usable runner directory
  21  the runner could not be downloaded, verified or unpacked
  22  the runner did not start, or failed
`

// exitError is an error that knows the agent's exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func exitf(code int, format string, args ...any) error {
	return &exitError{code, fmt.Errorf(format, args...)}
}

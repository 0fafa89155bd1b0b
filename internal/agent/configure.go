package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
)

// RunnerRegistrationError says that config.sh did not register the runner.
type RunnerRegistrationError struct {
	Name  string // of the runner
	Cause error
}

// Error names the runner and the cause, in which no token is shown.
func (e *RunnerRegistrationError) Error() string {
	return fmt.Sprintf("RunnerRegistrationError: register runner %s: %v", e.Name, e.Cause)
}

// Unwrap returns the cause.
func (e *RunnerRegistrationError) Unwrap() error { return e.Cause }

// configureTimeout is how long config.sh may take. It asks GitHub four or five
// times, and each of its own retries is shorter.
const configureTimeout = 5 * time.Minute

// configure registers the runner with config.sh and forgets the token. It returns
// a reason, and no error, when it was told to end meanwhile. What config.sh had
// registered by then, or before it failed, is the control plane's to remove: it
// knows the name.
func (w *watch) configure(ctx context.Context) (told string, err error) {
	reg := w.boot.Registration
	defer func() {
		// Used once, and then gone: the job's own processes run beside this one.
		reg.Token = ""
		if err != nil {
			err = &RunnerRegistrationError{w.boot.Name, err}
		}
	}()
	args, err := configArgs(w.boot.Name, *reg)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(w.cfg.RunnerDir, "config.sh")); err != nil {
		return "", fmt.Errorf("there is no config.sh in %s: unpack GitHub's runner there", w.cfg.RunnerDir)
	}
	cmd := command{dir: w.cfg.RunnerDir, program: "config.sh", args: args, env: runnerEnviron(w.cfg.Environ, os.Getuid() == 0)}
	// Arguments can be read by every user of the machine; the runner takes this
	// variable in place of --token (4-14).
	cmd.env = append(cmd.env, "ACTIONS_RUNNER_INPUT_TOKEN="+reg.Token)
	limit := configureTimeout
	if age := w.maxAge(); age > 0 {
		limit = min(limit, time.Until(w.agent.born.Add(age)))
	}
	var said tail
	hide := w.redactor(func(p []byte) {
		said.write(p)
		w.output.write(p)
		_, _ = w.cfg.Output.Write(p) // a full disk must not end the runner
	})
	code, told, err := w.script(ctx, cmd, limit, hide.write)
	hide.end()
	switch {
	case err != nil || told != "":
		return told, err
	case code != 0:
		return "", fmt.Errorf("config.sh ended with code %d: %s", code, said.last())
	}
	id, err := registeredID(w.cfg.RunnerDir)
	if err != nil {
		return "", err
	}
	w.log.Info("runner registered", "name", w.boot.Name, "github_id", id)
	return "", nil
}

// script runs one of the runner's scripts to its end and passes its output on. told
// is why it was ended before, if somebody wanted that.
func (w *watch) script(ctx context.Context, c command, limit time.Duration, pass func([]byte)) (code int, told string, err error) {
	r, err := w.cfg.start(c)
	if err != nil {
		return 0, "", fmt.Errorf("start %s: %w", c.program, err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { readAll(r, pass) })
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case code = <-r.exited():
	case a := <-w.answers:
		told = "told to stop"
		if a.Command == wire.CommandDrain {
			told = "told to drain"
		}
	case <-ctx.Done():
		told = "told to stop"
	case <-late.C:
		err = fmt.Errorf("%s did not end within %s", c.program, limit.Round(time.Second))
	}
	r.kill()
	reading.Wait()
	return code, told, err
}

// version asks the runner that is there for its version; "" when it does not say.
func (w *watch) version(ctx context.Context) string {
	if _, err := os.Stat(filepath.Join(w.cfg.RunnerDir, "config.sh")); err != nil {
		return ""
	}
	var said tail
	cmd := command{dir: w.cfg.RunnerDir, program: "config.sh", args: []string{"--version"}, env: runnerEnviron(w.cfg.Environ, os.Getuid() == 0)}
	code, told, err := w.script(ctx, cmd, versionTimeout, said.write)
	if code != 0 || told != "" || err != nil || !versionText.MatchString(said.last()) {
		return ""
	}
	return said.last()
}

// versionTimeout is how long the runner may take to say its version.
const versionTimeout = 30 * time.Second

var versionText = regexp.MustCompile(`\A\d+\.\d+\.\d+\z`)

// readAll passes on what a script prints until it ends.
func readAll(r runner, pass func([]byte)) {
	buf := make([]byte, 4<<10)
	for {
		n, err := r.output().Read(buf)
		pass(buf[:n])
		if err != nil {
			return
		}
	}
}

// configArgs are the arguments of config.sh, each one by itself: nothing here ever
// passes through a shell, and nothing that could be taken for another option
// passes at all (4-32).
func configArgs(name string, reg wire.Registration) ([]string, error) {
	u, err := url.Parse(reg.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") == "" {
		return nil, fmt.Errorf("%q is not the address of a repository, organization or enterprise", reg.URL)
	}
	labels := muster.Labels(reg.Labels)
	switch {
	case reg.Token == "" || strings.ContainsAny(reg.Token, "\x00\r\n"):
		return nil, errors.New("the control plane gave no registration token")
	case !muster.ValidRunnerName(name) || name[0] == '-':
		return nil, fmt.Errorf("%q is not a runner's name", name)
	case len(labels) == 0 || strings.HasPrefix(labels[0], "-"):
		return nil, fmt.Errorf("the labels %q are not ones that config.sh takes: there must be some, and the first must not begin with '-'", labels.String())
	case strings.HasPrefix(reg.RunnerGroup, "-") || strings.ContainsFunc(reg.RunnerGroup, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return nil, fmt.Errorf("%q is not a runner group's name", reg.RunnerGroup)
	}
	if err := labels.Validate(); err != nil {
		return nil, err
	}
	// Without the default labels, so that the runner is good for the jobs of its
	// pool and no others, as with a JIT configuration.
	args := []string{
		"--unattended", "--url", reg.URL, "--name", name, "--labels", labels.String(), "--no-default-labels",
		"--work", "_work", "--disableupdate",
	}
	if reg.Ephemeral {
		args = append(args, "--ephemeral")
	}
	if reg.RunnerGroup != "" {
		args = append(args, "--runnergroup", reg.RunnerGroup)
	}
	return args, nil
}

// registeredID reads the registration's id from the settings that config.sh wrote.
func registeredID(dir string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(dir, ".runner"))
	if err != nil {
		return 0, fmt.Errorf("config.sh left no settings: %w", err)
	}
	var settings struct{ AgentID int64 } // whatever the case of its letters
	if err := json.Unmarshal(bytes.TrimPrefix(text, byteOrderMark), &settings); err != nil {
		return 0, fmt.Errorf("config.sh left settings that cannot be read: %w", err)
	}
	if settings.AgentID <= 0 {
		return 0, errors.New("config.sh left settings without the runner's id")
	}
	return settings.AgentID, nil
}

// writtenSecrets are the secrets in the files that config.sh wrote.
func writtenSecrets(dir string) []string {
	text, err := os.ReadFile(filepath.Join(dir, rsaParams))
	if err != nil {
		return nil // not written yet
	}
	return keySecrets(text)
}

// tail keeps the end of what was written.
type tail struct{ text []byte }

// maxTail is how much of an output its last line may take, in bytes.
const maxTail = 1 << 10

func (t *tail) write(p []byte) {
	t.text = append(t.text, p...)
	if over := len(t.text) - maxTail; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
}

// last is the last line with words in it.
func (t *tail) last() string {
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(t.text), "")), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if last == "" {
		return "it said nothing"
	}
	return last[:min(len(last), 300)]
}

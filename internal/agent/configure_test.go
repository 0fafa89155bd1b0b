//go:build linux

package agent

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/muster-ci/muster/internal/wire"
)

const registrationToken = "canary-registration-token-AQZ4"

// asks is a plane that gives a registration token.
func (s *stage) asks(change ...func(*wire.Registration)) *wire.Registration {
	reg := &wire.Registration{URL: "https://github.com/acme", Token: registrationToken, Labels: []string{"linux", "x.y_z-1"}, Ephemeral: true}
	for _, c := range change {
		c(reg)
	}
	s.plane.boot.JITConfig, s.plane.boot.Registration = "", reg
	return reg
}

func (s *stage) script(name, text string) {
	s.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte("#!/bin/bash\n"+text), 0o755); err != nil {
		s.Fatal(err)
	}
}

// configSh is a config.sh that notes how it was called; %s is what it does then.
const configSh = `
cd "$DIR"
[ "$1" = --version ] && { echo version >> order; echo 2.336.0; exit 0; }
echo config >> order
for a in "$@"; do printf '<%s>' "$a"; done > argv
tr '\0' '\n' < /proc/$$/cmdline > cmdline
printf '%s' "$ACTIONS_RUNNER_INPUT_TOKEN" > token
env > config-env
echo "registering with $ACTIONS_RUNNER_INPUT_TOKEN"
`

const (
	written = `printf '\xef\xbb\xbf{"agentId": 23, "agentName": "linux-test"}' > .runner
printf '{"d": "canary-private-exponent-0002"}' > .credentials_rsaparams
`
	runSh = `cd "$DIR"; echo run >> order; env > run-env; cat .credentials_rsaparams; echo
echo "$(date -u '+%Y-%m-%d %H:%M:%SZ'): Listening for Jobs"
`
)

// read reads a file that a script left, "" if there is none.
func (s *stage) read(name string) string {
	text, _ := os.ReadFile(filepath.Join(s.dir, name))
	return string(text)
}

// S1-9 S1-11 S1-12 S1-13 S1-65 S1-66 S1-67 S1-100 4-14 4-32 C4: config.sh with the values as arguments of their own, the
// token in no argument, output, log or later process; then run.sh.
func TestRegistersWithToken(t *testing.T) {
	t.Parallel()
	s := mount(t, runSh)
	s.script("config.sh", configSh+written)
	s.asks(func(r *wire.Registration) { r.RunnerGroup = "the $(touch pwned) group; rm -rf ~ $' `id`" })
	s.env("ACTIONS_RUNNER_INPUT_TOKEN=outer", "ACTIONS_RUNNER_INPUT_REPLACE=1")
	s.start()
	s.end(ExitDone, "started", "listening", "finished runner ended without a job")
	want := "<--unattended><--url><https://github.com/acme><--name><linux-test><--labels><linux,x.y_z-1><--no-default-labels>" +
		"<--work><_work><--disableupdate><--ephemeral><--runnergroup><the $(touch pwned) group; rm -rf ~ $' `id`>"
	if got := s.read("argv"); got != want {
		t.Errorf("arguments\n%s\nwant\n%s", got, want)
	}
	if s.read("token") != registrationToken || strings.Contains(s.read("cmdline"), registrationToken) {
		t.Errorf("token %q, command line %q", s.read("token"), s.read("cmdline"))
	}
	if got := s.read("order"); got != "config\nrun\n" {
		t.Errorf("order %q", got)
	}
	if env := s.read("run-env"); strings.Contains(env, "ACTIONS_RUNNER_INPUT") || strings.Contains(s.read("config-env"), "ACTIONS_RUNNER_INPUT_REPLACE") {
		t.Errorf("environments:\n%s\n%s", s.read("config-env"), env)
	}
	if s.read("pwned") != "" {
		t.Error("a shell read a value")
	}
	if !strings.Contains(string(s.plane.logs), "registering with ***") {
		t.Errorf("shipped %q", s.plane.logs)
	}
}

// S1-12 S1-13 S1-24 S1-68: what config.sh does wrong ends the runner with a reason, and run.sh is never started.
func TestRegistrationFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ script, reason string }{
		"Refused":     {"echo A runner exists with the same name linux-test. >&2; exit 1", "config.sh ended with code 1: A runner exists with the same name linux-test."},
		"Quotes":      {"echo no: $ACTIONS_RUNNER_INPUT_TOKEN; exit 3", "config.sh ended with code 3: no: ***"},
		"Silent":      {"exec > /dev/null; exit 4", "config.sh ended with code 4: registering with ***"},
		"NoSettings":  {"exit 0", "config.sh left no settings: "},
		"NoID":        {`echo '{"agentName": "linux-test"}' > .runner`, "config.sh left settings without the runner's id"},
		"Garbage":     {`echo 'agentId 23' > .runner`, "config.sh left settings that cannot be read: "},
		"NotAProgram": {"", "start config.sh: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := mount(t, runSh)
			s.script("config.sh", configSh+c.script)
			if name == "NotAProgram" {
				if err := os.Chmod(filepath.Join(s.dir, "config.sh"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			s.asks()
			s.start()
			s.end(ExitRunner)
			phases := s.plane.phases()
			want := "finished runner failed: RunnerRegistrationError: register runner linux-test: " + c.reason
			if len(phases) != 1 || !strings.HasPrefix(phases[0], want) {
				t.Errorf("reports %q, want %q", phases, want)
			}
			if strings.Contains(s.read("order"), "run") {
				t.Error("run.sh was started")
			}
		})
	}
}

// 4-32: what could be taken for another option, or for more than one value, reaches no program.
func TestHostileRegistration(t *testing.T) {
	good := wire.Registration{URL: "https://github.com/acme/web", Token: registrationToken, Labels: []string{"linux"}}
	if args, err := configArgs("linux-1", good); err != nil || slices.Contains(args, "--ephemeral") || slices.Contains(args, registrationToken) {
		t.Errorf("%q, %v", args, err)
	}
	for what, change := range map[string]func(name *string, r *wire.Registration){
		"an option for a label":   func(_ *string, r *wire.Registration) { r.Labels = []string{"--replace"} },
		"two labels in one":       func(_ *string, r *wire.Registration) { r.Labels = []string{"a,b"} },
		"a command for a label":   func(_ *string, r *wire.Registration) { r.Labels = []string{"$(id)"} },
		"a pattern for a label":   func(_ *string, r *wire.Registration) { r.Labels = []string{"$'"} },
		"no label":                func(_ *string, r *wire.Registration) { r.Labels = nil },
		"an option for a name":    func(n *string, _ *wire.Registration) { *n = "--replace" },
		"a command for a name":    func(n *string, _ *wire.Registration) { *n = "a;id" },
		"no name":                 func(n *string, _ *wire.Registration) { *n = "" },
		"an option for a group":   func(_ *string, r *wire.Registration) { r.RunnerGroup = "--replace" },
		"two lines for a group":   func(_ *string, r *wire.Registration) { r.RunnerGroup = "a\nb" },
		"an option for a URL":     func(_ *string, r *wire.Registration) { r.URL = "--replace" },
		"a URL of nothing":        func(_ *string, r *wire.Registration) { r.URL = "https://github.com/" },
		"a file for a URL":        func(_ *string, r *wire.Registration) { r.URL = "file:///etc/passwd" },
		"no token":                func(_ *string, r *wire.Registration) { r.Token = "" },
		"two variables for token": func(_ *string, r *wire.Registration) { r.Token = "a\nB=c" },
	} {
		name, reg := "linux-1", good
		change(&name, &reg)
		if args, err := configArgs(name, reg); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %q, %v", what, args, err)
		}
	}
}

// S1-68: an agent that is told to end while config.sh runs ends with it, and starts nothing more.
func TestToldToEndWhileItRegisters(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]wire.Command{"Drain": wire.CommandDrain, "Stop": wire.CommandStop} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := mount(t, runSh)
			s.script("config.sh", configSh+"sleep 600")
			s.asks()
			s.plane.boot.HeartbeatSeconds = 1
			s.plane.answer = on(wire.PhaseHeartbeat, command)
			s.start()
			s.end(ExitDone, "finished told to "+strings.ToLower(name))
			if got := s.read("order"); got != "config\n" {
				t.Errorf("order %q", got)
			}
		})
	}
}

// S1-10: a runner of another version is replaced before it registers, one of the right version is
// asked for its version and left alone.
func TestRegistersWithTheRightVersion(t *testing.T) {
	t.Parallel()
	text, sum := good(t)
	for name, c := range map[string]struct {
		offered string
		calls   int
		order   string
	}{"Right": {"2.336.0", 0, "version\nconfig\nrun\n"}, "Wrong": {"2.337.1", 1, "version\nconfig\n"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				calls++
				_, _ = w.Write(text)
			}))
			t.Cleanup(srv.Close)
			s := mount(t, runSh)
			s.script("config.sh", configSh+written)
			s.asks()
			s.plane.boot.Download = &wire.Download{URL: srv.URL, Filename: "actions-runner-linux-x64-" + c.offered + ".tar.gz", SHA256: sum}
			s.env("MUSTER_DOWNLOAD=1")
			s.start()
			code := ExitDone
			if c.calls > 0 {
				code = ExitRunner // the archive's run.sh does nothing
			}
			s.end(code)
			if got := s.read("order"); got != c.order || calls != c.calls || !s.plane.boots[0].Download {
				t.Errorf("order %q, %d downloads, asked %+v", got, calls, s.plane.boots)
			}
		})
	}
}

package agent

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/agent/bpf"
	"github.com/muster-ci/muster/internal/guest"
)

// Config is what an agent needs to know before it speaks to the control plane.
type Config struct {
	// URL is the base URL of the control plane.
	URL string
	// Token is the boot token.
	Token muster.Secret
	// RunnerDir holds run.sh, or will after a download. It must be this runner's
	// own: the runner writes its registration there.
	RunnerDir string
	// WorkDir, if set, is where _work of the runner points to.
	WorkDir string
	// CacheDir keeps downloaded archives; "" means none are kept.
	CacheDir string
	// Download allows RunnerDir to be without run.sh, or with a runner of another
	// version than GitHub offers.
	Download bool
	// JITArgument passes the configuration as --jitconfig, where every user of the
	// machine can read it, because runners before 2.293 do not take it otherwise.
	JITArgument bool
	// MaxAge is the longest that the agent may live, whatever the control plane
	// says; 0 means no limit.
	MaxAge time.Duration
	// StopGrace is how long the runner may take to end after it was interrupted.
	StopGrace time.Duration
	// BootTimeout is how long the agent asks for its configuration.
	BootTimeout time.Duration
	// FlushTimeout is how long the agent tries to deliver its last words.
	FlushTimeout time.Duration
	// TraceSocket is where the node's recorder listens; "" means that the agent records
	// by itself, and asks the node's in its usual place where it cannot.
	TraceSocket string
	// Engines are the container engines that work for this runner's jobs alone, and are recorded
	// and held to the policy of egress with them.
	Engines bpf.Engines
	// Environ is the environment for the runner, before cleaning.
	Environ []string
	// Output gets the runner's output, redacted. nil discards.
	Output io.Writer
	// Logger gets the agent's own words. nil discards.
	Logger *slog.Logger
	// HTTP calls the control plane; nil means a client of its own.
	HTTP *http.Client

	// warm is a recorder that is open already; nil for none.
	warm recorder
	// start starts the runner; tests replace it.
	start func(command) (runner, error)
	// record opens the recorder, and so do tests.
	record func(context.Context, recordOptions) (recorder, error)
	// continued yields when this program goes on after it was stopped.
	continued <-chan os.Signal
}

// Default times. 30 s is the runner's own budget for a graceful end
// (reference/github.md §9.4).
const (
	defaultStopGrace    = 30 * time.Second
	defaultBootTimeout  = 10 * time.Minute
	defaultFlushTimeout = time.Minute
)

var errHelp = errors.New("help was asked for")

// load reads flags and environment. It reports every problem at once. The token
// is read by takeToken.
func load(args, environ []string, help io.Writer) (Config, error) {
	env := map[string]string{}
	for _, e := range environ {
		name, v, _ := strings.Cut(e, "=")
		env[name] = v
	}
	var problems []error
	duration := func(name string, otherwise time.Duration) time.Duration {
		v := env[name]
		if v == "" {
			return otherwise
		}
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 {
			problems = append(problems, fmt.Errorf("%s: %q must be a duration such as 90s", name, v))
		}
		return d
	}
	flagged := func(name string) bool {
		on, err := strconv.ParseBool(cmp.Or(env[name], "0"))
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %q must be 1 or 0", name, env[name]))
		}
		return on
	}
	c := Config{
		URL: env["MUSTER_URL"], RunnerDir: env["MUSTER_RUNNER_DIR"], WorkDir: env["MUSTER_WORK_DIR"], CacheDir: env["MUSTER_CACHE_DIR"],
		TraceSocket: env["MUSTER_TRACE_SOCKET"], Engines: bpf.Engines(cmp.Or(env["MUSTER_ENGINES"], string(usualEngines(env)))),
		Download: flagged("MUSTER_DOWNLOAD"), JITArgument: flagged("MUSTER_JIT_ARGV"),
		MaxAge:       duration("MUSTER_MAX_AGE", 0),
		StopGrace:    duration("MUSTER_STOP_GRACE", defaultStopGrace),
		BootTimeout:  duration("MUSTER_BOOT_TIMEOUT", defaultBootTimeout),
		FlushTimeout: duration("MUSTER_FLUSH_TIMEOUT", defaultFlushTimeout),
		Environ:      environ,
	}
	flags := flag.NewFlagSet("muster-agent", flag.ContinueOnError)
	flags.SetOutput(help)
	flags.StringVar(&c.URL, "url", c.URL, "base `URL` of the control plane (MUSTER_URL)")
	flags.StringVar(&c.RunnerDir, "runner-dir", c.RunnerDir, "`directory` that holds run.sh (MUSTER_RUNNER_DIR)")
	flags.StringVar(&c.WorkDir, "work-dir", c.WorkDir, "`directory` for the work of jobs; default: _work in the runner's (MUSTER_WORK_DIR)")
	flags.StringVar(&c.CacheDir, "cache-dir", c.CacheDir, "`directory` that keeps downloaded runners (MUSTER_CACHE_DIR)")
	flags.BoolVar(&c.Download, "download", c.Download, "download GitHub's runner if the directory has none, or another version (MUSTER_DOWNLOAD=1)")
	flags.Usage = func() {
		fmt.Fprint(help, "muster-agent runs one GitHub Actions runner for a Muster control plane.\n\n"+
			"The boot token comes from MUSTER_BOOT_TOKEN_FILE (a file, which is removed, or /dev/stdin)\n"+
			"or from MUSTER_BOOT_TOKEN. With \"record\" as its first argument it is a node's recorder instead;\n"+
			"\"muster-agent record --help\" says more.\n\nFlags:\n")
		flags.PrintDefaults()
		fmt.Fprint(help, "  -version\n    \tprint the version\n\n"+exitHelp)
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return c, errHelp
	} else if err != nil {
		return c, err
	}
	if flags.NArg() > 0 {
		problems = append(problems, fmt.Errorf("unexpected argument %q", flags.Arg(0)))
	}
	if strings.HasPrefix(c.URL, guest.URLScheme) {
		// The control plane is at the other end of a port of this machine.
	} else if u, err := url.Parse(c.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		problems = append(problems, errors.New("MUSTER_URL must be the http or https URL of the control plane"))
	}
	switch c.Engines {
	case enginesNone:
		c.Engines = bpf.EnginesNone
	case bpf.EnginesNone, bpf.EnginesNetwork, bpf.EnginesMachine:
	default:
		problems = append(problems, fmt.Errorf("MUSTER_ENGINES: %q must be none, network or machine", c.Engines))
	}
	if c.RunnerDir == "" {
		problems = append(problems, errors.New("MUSTER_RUNNER_DIR or --runner-dir must name the runner's directory"))
	} else if abs, err := filepath.Abs(c.RunnerDir); err == nil {
		c.RunnerDir = abs
	}
	return c, errors.Join(problems...)
}

// enginesNone is how MUSTER_ENGINES says that the container engines which jobs reach work for
// others too.
const enginesNone bpf.Engines = "none"

// usualEngines are those of a machine whose first process the agent is: it was made for this
// runner. Others have to be told.
func usualEngines(env map[string]string) bpf.Engines {
	if env[guest.Mark] != "" {
		return bpf.EnginesMachine
	}
	return bpf.EnginesNone
}

// maxToken is far more than any boot token has, in bytes.
const maxToken = 64 << 10

// takeToken returns the boot token and removes it from where it was: the file is
// unlinked, the pipe emptied and closed. The runner must not be able to find it (4-14).
func takeToken(path, value string, log *slog.Logger) (muster.Secret, error) {
	if path == "" {
		if value == "" {
			return "", errors.New("there is no boot token: set MUSTER_BOOT_TOKEN_FILE or MUSTER_BOOT_TOKEN")
		}
		return muster.Secret(value), nil
	}
	var f *os.File
	switch fd, isFd := strings.CutPrefix(path, "/dev/fd/"); {
	case path == "/dev/stdin":
		f = os.Stdin
	case isFd:
		// Not opened by name, which another user's pipe would refuse.
		n, err := strconv.Atoi(fd)
		if err != nil || n < 3 {
			return "", fmt.Errorf("MUSTER_BOOT_TOKEN_FILE: %q is no inherited file", path)
		}
		f = os.NewFile(uintptr(n), path)
	default:
		var err error
		if f, err = os.Open(path); err != nil {
			return "", fmt.Errorf("open boot token: %w", err)
		}
		if info, err := f.Stat(); err == nil && info.Mode().Perm()&0o077 != 0 {
			log.Warn("boot token was readable by others", "file", path, "mode", info.Mode().Perm().String())
		}
		if err := os.Remove(path); err != nil {
			// A read-only mount. The token works once, and is about to be used.
			log.Warn("boot token stays in its file", "error", err)
		}
	}
	defer f.Close()
	// One line: whoever holds the other end of a pipe may keep it open.
	line, err := bufio.NewReader(io.LimitReader(f, maxToken)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read boot token: %w", err)
	}
	token := strings.TrimSpace(line)
	if token == "" {
		return "", errors.New("the boot token is empty: whoever started the agent ended before handing it over")
	}
	return muster.Secret(token), nil
}

// runnerEnviron returns the runner's environment: without anything of the agent's
// that a job could use, and without what an outer workflow or operator left that
// would configure the runner or pass for the job's own.
func runnerEnviron(environ []string, root bool) []string {
	var kept []string
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		switch {
		case name == "MUSTER_INSTANCE" || name == "MUSTER_RUNNER":
			// Tags by which the provider finds stray processes; not secret.
		case strings.HasPrefix(name, "MUSTER_"),
			strings.HasPrefix(name, "ACTIONS_RUNNER_INPUT_"), strings.HasPrefix(name, "ACTIONS_RUNTIME_"),
			strings.HasPrefix(name, "ACTIONS_ID_TOKEN_"), strings.HasPrefix(name, "ACTIONS_CACHE_"), name == "ACTIONS_RESULTS_URL",
			strings.HasPrefix(name, "GITHUB_"), name == "RUNNER_TRACKING_ID", name == "RUNNER_MANUALLY_TRAP_SIG",
			name == "ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE", name == "RUNNER_ALLOW_RUNASROOT" && root:
			continue
		}
		kept = append(kept, e)
	}
	// Otherwise run.sh hides that GitHub refuses the version (4-44).
	kept = append(kept, "ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE=1")
	if root {
		kept = append(kept, "RUNNER_ALLOW_RUNASROOT=1")
	}
	return kept
}

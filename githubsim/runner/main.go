package runner

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Version is the version of GitHub's runner that this program imitates.
const Version = "2.336.0"

// Program is one call of the runner program.
type Program struct {
	// Args are the arguments behind the program's name: "run" (also when none is
	// given), "configure" or "remove" with their options, as the real listener has them.
	Args []string
	// Env is the environment, as of os.Environ. Variables ACTIONS_RUNNER_INPUT_*
	// are read and never passed on to a step.
	Env []string
	// Dir is the runner's root directory, which holds its files; empty: the working directory.
	Dir string
	// Stdin answers what config.sh asks without --unattended. nil: nothing.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Knobs are the times; see there.
	Knobs Knobs
}

// Knobs are the runner's times. The zero value is what the real runner does.
// Variables of the environment override them, all durations as time.ParseDuration
// reads them: GITHUBSIM_RUNNER_RENEW, _INTERRUPT, _TERMINATE, _RETRY, _CONFLICT,
// _FLUSH, _UNLOAD.
type Knobs struct {
	// Renew is how often the lease of a job is renewed (60 s).
	Renew time.Duration
	// Interrupt is how long a cancelled step has after SIGINT until SIGTERM (7.5 s),
	// Terminate how long after SIGTERM until it is killed (2.5 s).
	Interrupt, Terminate time.Duration
	// Retry is the wait between attempts to reach the server (30 s).
	Retry time.Duration
	// Conflict is how long a session conflict is retried (4 min).
	Conflict time.Duration
	// Flush is how long log lines are gathered before they are sent (250 ms).
	Flush time.Duration
	// Unload is how long a running job has when the runner is told to stop (30 s).
	Unload time.Duration
}

func (k Knobs) with(env environment) Knobs {
	for _, f := range []struct {
		knob  *time.Duration
		name  string
		value time.Duration
	}{
		{&k.Renew, "RENEW", time.Minute},
		{&k.Interrupt, "INTERRUPT", 7500 * time.Millisecond},
		{&k.Terminate, "TERMINATE", 2500 * time.Millisecond},
		{&k.Retry, "RETRY", 30 * time.Second},
		{&k.Conflict, "CONFLICT", 4 * time.Minute},
		{&k.Flush, "FLUSH", 250 * time.Millisecond},
		{&k.Unload, "UNLOAD", 30 * time.Second},
	} {
		if d, err := time.ParseDuration(env["GITHUBSIM_RUNNER_"+f.name]); err == nil && d > 0 {
			*f.knob = d
		}
		if *f.knob <= 0 {
			*f.knob = f.value
		}
	}
	return k
}

// Exit codes. run.sh turns nearly all of the real listener's codes into 0, so
// "run" gives 0 for everything that happens once it was understood.
const (
	exitOK    = 0
	exitError = 1
)

// Main runs the program and returns its exit code. Cancelling ctx is the signal
// to stop (SIGINT or SIGTERM for the process): a running job is then cancelled
// and reported, within Knobs.Unload. All goroutines are over when Main returns.
func Main(ctx context.Context, p Program) int {
	r := &program{env: parseEnviron(p.Env), in: bufio.NewReader(strings.NewReader("")), out: &syncWriter{w: p.Stdout}, errs: &syncWriter{w: p.Stderr}}
	if p.Stdin != nil {
		r.in = bufio.NewReader(p.Stdin)
	}
	root, err := filepath.Abs(cmp.Or(p.Dir, "."))
	if err != nil {
		fmt.Fprintln(r.errs, err)
		return exitError
	}
	r.root = root
	r.loadDotEnv()
	r.inputs = r.env.takeInputs()
	r.knobs = p.Knobs.with(r.env)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	r.http = &http.Client{Transport: transport}

	command, args := "run", p.Args
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		command, args = args[0], args[1:]
	}
	switch command {
	case "run":
		return r.run(ctx, args)
	case "configure", "config":
		if len(args) > 0 && args[0] == "remove" {
			return r.remove(ctx, args[1:])
		}
		return r.configure(ctx, args)
	case "remove":
		return r.remove(ctx, args)
	}
	fmt.Fprintf(r.errs, "Unrecognized command-line input arguments: '%s'. For usage refer to: ./config.sh --help or ./run.sh --help\n", command)
	return exitError
}

// program is one call under way.
type program struct {
	env    environment
	inputs map[string]string // ACTIONS_RUNNER_INPUT_*, names in lower case
	root   string
	in     *bufio.Reader
	out    *syncWriter
	errs   *syncWriter
	knobs  Knobs
	http   *http.Client
}

// run is "run.sh".
func (r *program) run(ctx context.Context, args []string) int {
	fs := r.flags("run")
	jit := fs.String("jitconfig", r.inputs["jitconfig"], "")
	once := fs.Bool("once", false, "")
	for _, ignored := range []string{"startuptype"} {
		fs.String(ignored, "", "")
	}
	version, help := fs.Bool("version", false, ""), fs.Bool("help", false, "")
	if err := fs.Parse(args); err != nil || fs.NArg() > 0 {
		fmt.Fprintf(r.errs, "Unrecognized command-line input arguments: '%s'. For usage refer to: ./config.sh --help or ./run.sh --help\n", strings.Join(args, " "))
		return exitError
	}
	switch {
	case *version:
		fmt.Fprintln(r.out, Version)
		return exitOK
	case *help:
		fmt.Fprint(r.out, usage)
		return exitOK
	}
	if *jit != "" {
		if err := r.writeJIT(*jit); err != nil {
			fmt.Fprintln(r.errs, err)
			return exitOK // the real listener ends with 1, which run.sh turns into 0
		}
	}
	conf, err := r.load()
	if errors.Is(err, os.ErrNotExist) {
		fmt.Fprintln(r.errs, "Not configured. Run config.(sh/cmd) to configure the runner.")
		return exitOK
	}
	if err != nil {
		fmt.Fprintln(r.errs, err)
		return exitOK
	}
	l := newListener(r, conf, *once)
	code := l.run(ctx)
	fmt.Fprintf(r.out, "Runner listener exited with error code %d\n", code)
	if code == exitOK {
		fmt.Fprintln(r.out, "Runner listener exit with 0 return code, stop the service, no retry needed.")
	} else {
		fmt.Fprintln(r.out, "Runner listener exit with terminated error, stop the service, no retry needed.")
	}
	fmt.Fprintln(r.out, "Exiting runner...")
	return exitOK
}

const usage = `
Commands:
 ./config.sh         Configures the runner
 ./config.sh remove  Unconfigures the runner
 ./run.sh            Runs the runner interactively

Options of config.sh: --url --token --name --labels --no-default-labels --runnergroup --work
  --ephemeral --unattended --replace --disableupdate; of config.sh remove: --token --local
Options of run.sh: --jitconfig --once --version --help
`

// flags makes a set that knows both - and -- and prints nothing by itself.
func (r *program) flags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return fs
}

// environment is the process environment by name.
type environment map[string]string

func parseEnviron(list []string) environment {
	env := environment{}
	for _, kv := range list {
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" {
			env[k] = v
		}
	}
	return env
}

func (e environment) list() []string {
	out := make([]string, 0, len(e))
	for k, v := range e {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// takeInputs removes the ACTIONS_RUNNER_INPUT_* variables, so that no step sees a credential.
func (e environment) takeInputs() map[string]string {
	const prefix = "ACTIONS_RUNNER_INPUT_"
	out := map[string]string{}
	for k, v := range e {
		if strings.HasPrefix(k, prefix) {
			out[strings.ToLower(strings.TrimPrefix(k, prefix))] = v
			delete(e, k)
		}
	}
	return out
}

// loadDotEnv reads the file .env of the runner's directory into the environment, as the real program does first.
func (r *program) loadDotEnv() {
	data, err := os.ReadFile(filepath.Join(r.root, ".env"))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "="); ok && k != "" && !strings.HasPrefix(k, "#") {
			r.env[k] = v
		}
	}
}

// osName and archName are runner.os and runner.arch.
func osName() string {
	return cmp.Or(map[string]string{"linux": "Linux", "darwin": "macOS", "windows": "Windows"}[runtime.GOOS], runtime.GOOS)
}

func archName() string {
	return cmp.Or(map[string]string{"amd64": "X64", "arm64": "ARM64", "386": "X86", "arm": "ARM"}[runtime.GOARCH], runtime.GOARCH)
}

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/muster-ci/muster/githubsim"
)

// TestStories tells in scripts what users type and what they see, with the real
// programs. Beside testscript's own commands there are those of storyCommands.
func TestStories(t *testing.T) {
	t.Parallel()
	bin := Programs(t)
	testscript.Run(t, testscript.Params{
		Dir:  "testdata",
		Cmds: storyCommands,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Setenv("BIN", bin)
			env.Setenv("HOME", env.WorkDir)
			// Of the machine that the test runs on nothing may show.
			for _, name := range []string{"MUSTER_SERVER", "MUSTER_TOKEN", "MUSTER_CONFIG", "GITHUB_TOKEN", "MUSTER_APP_ID"} {
				env.Setenv(name, "")
			}
			env.Values["story"] = &story{t: env.T().(testing.TB), dir: env.WorkDir}
			return nil
		},
	})
}

// story is one script's stand.
type story struct {
	t     testing.TB
	dir   string
	stand *Stand
	plane *Process
}

func storyOf(ts *testscript.TestScript) *story { return ts.Value("story").(*story) }

var storyCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	// stand [max=N] [machines=N] [pool=SETTINGS] [settings=FILE] makes a simulated GitHub and a
	// configuration, $CONFIG, and starts the control plane at $MUSTER_SERVER.
	"stand": func(ts *testscript.TestScript, _ bool, args []string) {
		st := storyOf(ts)
		o := Options{Settings: quick, Pool: "no_job_timeout: 5s", Sim: githubsim.Config{Seed: 1, RecordLinger: 100 * time.Millisecond}}
		for _, a := range args {
			name, value, _ := strings.Cut(a, "=")
			n, _ := strconv.Atoi(value)
			switch name {
			case "max":
				o.MaxRunners = n
			case "machines":
				o.Machines = n
			case "pool":
				o.Pool = value
			case "settings":
				o.Settings = ts.ReadFile(value) + quick // it may go on with pools
			default:
				ts.Fatalf("stand: unknown %q", a)
			}
		}
		st.stand = New(st.t, o)
		ts.Check(st.stand.Sim.CreateRepository("acme/gated", githubsim.RepositoryOptions{Private: true, Gates: []string{"production"}}))
		st.plane = st.stand.Serve(st.t)
		ts.Setenv("MUSTER_SERVER", st.stand.URL)
		ts.Setenv("CONFIG", st.stand.Config)
		ts.Setenv("SIM", st.stand.Sim.URL())
		ts.Setenv("ADDRESS", strings.TrimPrefix(st.stand.URL, "http://"))
		ts.Setenv("STAND", st.stand.Dir)
	},
	// stop ends the control plane in order.
	"stop": func(ts *testscript.TestScript, _ bool, _ []string) { ts.Check(storyOf(ts).plane.Stop()) },
	// inject VAR [n=N] [for=DURATION] [labels=A,B] [environment=E] [print=TEXT] queues jobs and sets
	// VAR to the id of the last.
	"inject": func(ts *testscript.TestScript, _ bool, args []string) {
		st := storyOf(ts)
		o := githubsim.JobOptions{Repo: Repo, Labels: Labels, Workflow: "CI"}
		n := 1
		for _, a := range args[1:] {
			name, value, _ := strings.Cut(a, "=")
			switch name {
			case "n":
				n, _ = strconv.Atoi(value)
			case "for":
				d, err := time.ParseDuration(value)
				ts.Check(err)
				o.Duration = d
			case "labels":
				o.Labels = strings.Split(value, ",")
			case "environment":
				o.Repo, o.Environment = "acme/gated", value
			default:
				ts.Fatalf("inject: unknown %q", a)
			}
		}
		for range n {
			id, err := st.stand.Sim.InjectJob(o)
			ts.Check(err)
			ts.Setenv(args[0], fmt.Sprint(id))
		}
	},
	// approve JOB lets a job through its gate.
	"approve": func(ts *testscript.TestScript, _ bool, args []string) {
		st := storyOf(ts)
		id, err := strconv.ParseInt(args[0], 10, 64)
		ts.Check(err)
		j, _ := st.stand.Sim.Truth().Job(id)
		ts.Check(st.stand.Sim.ApproveDeployment(j.Repo, j.RunID, "production"))
	},
	// await JOB STATE waits until GitHub has the job in that state.
	"await": func(ts *testscript.TestScript, _ bool, args []string) {
		st := storyOf(ts)
		id, err := strconv.ParseInt(args[0], 10, 64)
		ts.Check(err)
		eventually(st.t, 30*time.Second, func() (bool, string) {
			j, _ := st.stand.Sim.Truth().Job(id)
			return j.Status == args[1], fmt.Sprintf("job %d is %q", id, j.Status)
		})
	},
	// until REGEXP PROGRAM ARGS… runs a program until its output matches; the output
	// is then what stdout tests.
	"until": func(ts *testscript.TestScript, _ bool, args []string) {
		want, err := regexp.Compile("(?m)" + args[0])
		ts.Check(err)
		eventually(storyOf(ts).t, 30*time.Second, func() (bool, string) {
			err := ts.Exec(args[1], args[2:]...)
			out := ts.ReadFile("stdout")
			return err == nil && want.MatchString(out), fmt.Sprintf("%q never matched %s:\n%s%s", args[1:], args[0], out, ts.ReadFile("stderr"))
		})
	},
	// exits STATUS PROGRAM ARGS… runs a program that must end with that status.
	"exits": func(ts *testscript.TestScript, _ bool, args []string) {
		err := ts.Exec(args[1], args[2:]...)
		status := 0
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			status = e.ExitCode()
		} else {
			ts.Check(err)
		}
		if fmt.Sprint(status) != args[0] {
			ts.Fatalf("exit status %d, want %s", status, args[0])
		}
	},
	// json PATH [REGEXP] reads the last output as JSON, walks to PATH (a.0.b; "" is the
	// whole, a.len the length), demands that it is there and matches, and sets $JSON to it.
	"json": func(ts *testscript.TestScript, neg bool, args []string) {
		var v any
		if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &v); err != nil {
			ts.Fatalf("not JSON: %v\n%s", err, ts.ReadFile("stdout"))
		}
		there := true
		for key := range strings.SplitSeq(args[0], ".") {
			switch node := v.(type) {
			case map[string]any:
				if key != "" {
					v, there = node[key]
				}
			case []any:
				if i, err := strconv.Atoi(key); key == "len" {
					v = float64(len(node))
				} else if there = err == nil && i < len(node); there {
					v = node[i]
				}
			default:
				there = key == ""
			}
			if !there {
				ts.Fatalf("no %s in %s", args[0], ts.ReadFile("stdout"))
			}
		}
		text := fmt.Sprint(v)
		ts.Setenv("JSON", text)
		if len(args) > 1 {
			if ok, err := regexp.MatchString("^(?:"+args[1]+")$", text); err != nil || ok == neg {
				ts.Fatalf("%s is %q, want %s (%v)", args[0], text, args[1], err)
			}
		}
	},
	// key FILE writes a private key, for a configuration.
	"key": func(ts *testscript.TestScript, _ bool, args []string) {
		sim := githubsim.New(githubsim.Config{})
		defer sim.Close()
		app, err := sim.CreateApp(githubsim.AppOptions{Owner: "octo-apps"})
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(app.PEM), 0o600))
	},
	// private FILE makes a file readable by its owner only, as secrets must be.
	"private": func(ts *testscript.TestScript, _ bool, args []string) {
		for _, name := range args {
			ts.Check(os.Chmod(ts.MkAbs(name), 0o600))
		}
	},
}

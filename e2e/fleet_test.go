package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/runner"
)

// The commands of stories about fleets, which have a simulated GitHub and no
// control plane.
func init() {
	for name, command := range map[string]func(ts *testscript.TestScript, neg bool, args []string){
		// hub makes a simulated GitHub with a token, $GITHUB_TOKEN, and the directory of a
		// runner, $RUNNER_DIR. A run is to listen on $ADDRESS; commands ask it there.
		"hub": func(ts *testscript.TestScript, _ bool, _ []string) {
			st := storyOf(ts)
			sim := githubsim.New(githubsim.Config{Seed: 1, RecordLinger: 100 * time.Millisecond})
			ts.Defer(func() {
				killTagged(st.dir) // runners outlive a run on purpose, but not the story
				ts.Check(sim.Close())
			})
			_, err := sim.Start(st.t.Context(), "127.0.0.1:0")
			ts.Check(err)
			ts.Check(oneRepository(sim))
			token, err := sim.CreateToken("octocat", "repo", "admin:org")
			ts.Check(err)
			st.stand = &Stand{Sim: sim, Dir: st.dir}
			ts.Check(runner.WriteDir(filepath.Join(st.dir, "runner"), filepath.Join(ts.Getenv("BIN"), "actions-runner")))
			address := freeAddress(st.t)
			for name, value := range map[string]string{
				"GITHUB_TOKEN": token, "API": sim.URL() + "/api/v3", "RUNNER_DIR": filepath.Join(st.dir, "runner"), "ADDRESS": address, "MUSTER_SERVER": "http://" + address,
			} {
				ts.Setenv(name, value)
			}
		},
		// registered N [BUSY] waits until GitHub has that many registrations, of which so many have a job.
		"registered": func(ts *testscript.TestScript, _ bool, args []string) {
			st := storyOf(ts)
			eventually(st.t, 30*time.Second, func() (bool, string) {
				all, busy := 0, 0
				for _, r := range st.stand.Sim.Truth().Runners {
					all++
					if r.Busy {
						busy++
					}
				}
				ok := fmt.Sprint(all) == args[0] && (len(args) == 1 || fmt.Sprint(busy) == args[1])
				return ok, fmt.Sprintf("%d registrations, %d busy, want %v\n%s", all, busy, args, tail([]byte(ts.ReadFile("run.log")), 3000))
			})
		},
		// finished N CONCLUSION waits until so many jobs have ended, all of them so, once each.
		"finished": func(ts *testscript.TestScript, _ bool, args []string) {
			st := storyOf(ts)
			eventually(st.t, 60*time.Second, func() (bool, string) {
				n := 0
				for _, j := range st.stand.Sim.Truth().Jobs {
					if j.Status == "completed" {
						n++
					}
				}
				return fmt.Sprint(n) == args[0], fmt.Sprintf("%d have ended, want %s\n%s", n, args[0], tail([]byte(ts.ReadFile("run.log")), 3000))
			})
			truth := st.stand.Sim.Truth()
			for _, j := range truth.Jobs {
				if j.Conclusion != args[1] || j.Executions != 1 {
					ts.Fatalf("job %d: %s, executed %d times", j.ID, j.Conclusion, j.Executions)
				}
			}
			if len(truth.BusyKills) > 0 {
				ts.Fatalf("busy kills: %+v", truth.BusyKills)
			}
		},
		// nothing waits until no registration, no machine and no process is left.
		"nothing": func(ts *testscript.TestScript, _ bool, _ []string) {
			st := storyOf(ts)
			eventually(st.t, 30*time.Second, func() (bool, string) {
				machines, err := filepath.Glob(filepath.Join(st.dir, ".muster-fleet", "runners", "*", "owner-*", "r-*"))
				ts.Check(err)
				registrations, processes := st.stand.Sim.Truth().Runners, tagged(filepath.Join(st.dir, ".muster-fleet"))
				return len(machines)+len(registrations)+len(processes) == 0,
					fmt.Sprintf("left: machines %v, registrations %+v, processes %v\n%s", machines, registrations, processes, tail([]byte(ts.ReadFile("run.log")), 3000))
			})
		},
		// tokenless demands that no file of the story holds the token.
		"tokenless": func(ts *testscript.TestScript, _ bool, _ []string) {
			st := storyOf(ts)
			token := []byte(ts.Getenv("GITHUB_TOKEN"))
			ts.Check(filepath.WalkDir(st.dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return nil // it has gone meanwhile
				}
				if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, token) {
					return fmt.Errorf("the token is in %s", path)
				}
				return nil
			}))
		},
		// logged REGEXP waits until the run's log, run.log, has a line like it.
		"logged": func(ts *testscript.TestScript, _ bool, args []string) {
			want, err := regexp.Compile("(?m)" + args[0])
			ts.Check(err)
			eventually(storyOf(ts).t, 30*time.Second, func() (bool, string) {
				text := ts.ReadFile("run.log")
				return want.MatchString(text), "never logged " + args[0] + ":\n" + text
			})
		},
	} {
		storyCommands[name] = command
	}
}

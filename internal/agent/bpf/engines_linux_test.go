//go:build linux && (amd64 || arm64)

package bpf

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/provider/container/enginetest"
)

// asking is a job that asks an engine: a script of a shell, in which docker is the engine's tool.
type asking struct {
	scope  *Scope
	finish func() error
}

func ask(t *testing.T, r *Recorder, e *enginetest.Engine, f Follow, script string) asking {
	t.Helper()
	cmd := exec.Command("sh", "-c", "read go; docker() { "+strings.Join(e.Command(), " ")+" \"$@\"; }; "+script)
	cmd.Env, cmd.Dir = e.Environ(), t.TempDir()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.Root = cmd.Process.Pid
	s, err := r.Follow(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return asking{s, func() error {
		in.Close()
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%w: %s", err, &out)
		}
		return nil
	}}
}

// asked is what was recorded of a job that asks an engine.
func asked(t *testing.T, r *Recorder, e *enginetest.Engine, script string) []trace.Event {
	t.Helper()
	a := ask(t, r, e, Follow{Engines: EnginesNetwork}, script)
	if err := a.finish(); err != nil {
		t.Fatal(err)
	}
	if d := a.scope.Describe(); !strings.Contains(fmt.Sprint(d.Extras), enginesExtra) || d.Missing[enginesExtra] != "" {
		t.Errorf("recorder %+v", d)
	}
	return collect(t, a.scope)
}

// await waits until a socket is there.
func await(t *testing.T, socket string) {
	t.Helper()
	for range 1000 {
		if _, err := os.Stat(socket); err == nil {
			return
		}
		<-time.After(5 * time.Millisecond)
	}
	t.Fatalf("nobody listens on %s", socket)
}

// ran finds the container in which a line of arguments ran, and fails if it was in none.
func ran(t *testing.T, events []trace.Event, args string) string {
	t.Helper()
	for _, e := range events {
		if e.Type == trace.ProcessExec && strings.HasPrefix(strings.Join(e.Args, " "), args) && len(e.Container) == 64 {
			return e.Container
		}
	}
	t.Errorf("%q did not run in a container:\n%s", args, show(events))
	return ""
}

// own fails if an engine's own work was told, beyond its programs and connections.
func own(t *testing.T, events []trace.Event) {
	t.Helper()
	job := map[trace.Process]bool{}
	for _, e := range events {
		parent := trace.Process{PID: e.PPID, Start: e.ParentStart}
		if len(job) == 0 || job[parent] {
			job[e.Process()] = true
		}
		switch {
		case job[e.Process()] || e.Container != "":
		case e.Type == trace.ProcessExec, e.Type == trace.ProcessExit, e.Type == trace.NetConnect, e.Type == trace.NetListen, e.Type == trace.DNSQuery, e.Type == trace.TLSHello:
		default:
			text, _ := json.Marshal(e)
			t.Errorf("an engine's own work: %s", text)
		}
		if e.Type == trace.CgroupMove || e.Type == trace.Tamper || e.Type == trace.ModuleLoad || e.Type == trace.BPFLoad || e.Type == trace.RawSocket {
			text, _ := json.Marshal(e)
			t.Errorf("not the job's: %s", text)
		}
	}
}

// S0-20: what a container engine that works for one job alone does while the job runs is the
// job's: its containers, however they were asked for, with their ids.
func TestEngines(t *testing.T) {
	if !enginetest.IsolateOnNode(t) {
		return
	}
	e := enginetest.Docker(t, enginetest.Options{})
	r := open(t, Options{})

	run := func(options, program string) string {
		return "docker run --rm " + options + " " + enginetest.Image + " sh -c '" + program + "'; "
	}
	wrote := func(events []trace.Event, path, container string) bool {
		return slices.ContainsFunc(events, func(e trace.Event) bool {
			return e.Type == trace.FileWrite && e.Path == path && e.Bytes == 7 && (container == "" || e.Container == container)
		})
	}

	t.Run("Run", func(t *testing.T) {
		events := asked(t, r, e, run("", "echo inside > /tmp/inside; /bin/busybox ls /"))
		id := ran(t, events, "/bin/busybox ls /")
		if !wrote(events, "/tmp/inside", id) {
			t.Error("its file was not told of")
		}
		own(t, events)
	})
	t.Run("SharesTheMachine", func(t *testing.T) {
		events := asked(t, r, e, run("--pid host --network host", "echo inside > /tmp/shares"))
		if id := ran(t, events, "sh -c echo inside"); !wrote(events, "/tmp/shares", id) {
			t.Error("its file was not told of")
		}
		own(t, events)
	})
	t.Run("Exec", func(t *testing.T) {
		events := asked(t, r, e, "docker run -d --name lives "+enginetest.Image+" sleep 1000; docker exec lives sh -c 'echo inside > /tmp/again'; docker rm -f lives")
		id := ran(t, events, "sleep 1000")
		if !wrote(events, "/tmp/again", id) || ran(t, events, "sh -c echo inside") != id {
			t.Error("what ran in the container later was not told of")
		}
		own(t, events)
	})
	for name, kit := range map[string]string{"Build": "0", "BuildKit": "1"} {
		t.Run(name, func(t *testing.T) {
			events := asked(t, r, e, "echo built > built; printf 'FROM "+enginetest.Image+"\\nCOPY built /built\\nRUN echo inside > /tmp/"+name+"; /bin/busybox cat /built\\n' > Dockerfile; DOCKER_BUILDKIT="+kit+" docker build -t built .")
			if !wrote(events, "/tmp/"+name, "") || !slices.ContainsFunc(events, func(e trace.Event) bool {
				return e.Type == trace.ProcessExec && strings.Join(e.Args, " ") == "/bin/busybox cat /built"
			}) {
				t.Errorf("what was built was not told of:\n%s", show(events))
			}
			own(t, events)
		})
	}

	// It is the engine of the next job, too, and what the job before has left is the next one's.
	t.Run("Twice", func(t *testing.T) {
		asked(t, r, e, "docker run -d --name left "+enginetest.Image+" sh -c 'while [ ! -e /go ]; do sleep 0.1; done; echo inside > /tmp/left; sleep 1000'")
		for _, name := range []string{"tree", "cgroups", "engines"} {
			var key [32]byte
			m := r.maps[name]
			k := key[:m.KeySize()]
			if err := m.NextKey(nil, k); err == nil {
				t.Errorf("map %s still has %v", name, k)
			}
		}
		events := asked(t, r, e, "docker exec left touch /go; while ! docker exec left cat /tmp/left; do :; done; docker rm -f left")
		found := false
		for _, e := range events {
			found = found || e.Type == trace.ProcessExec && e.Method == "running" && len(e.Container) == 64 && strings.HasPrefix(strings.Join(e.Args, " "), "sh -c while")
		}
		if !found || !wrote(events, "/tmp/left", "") {
			t.Errorf("the container that was there was not told of:\n%s", show(events))
		}
		own(t, events)
	})

	// A daemon that begins while the job runs, as systemd starts it when somebody connects to
	// its socket, and one that begins again.
	t.Run("Late", func(t *testing.T) {
		e.Stop()
		a := ask(t, r, e, Follow{Engines: EnginesNetwork}, run("", "echo inside > /tmp/late"))
		e.Start(t)
		if err := a.finish(); err != nil {
			t.Fatal(err)
		}
		events := collect(t, a.scope)
		if id := ran(t, events, "sh -c echo inside"); !wrote(events, "/tmp/late", id) {
			t.Error("its file was not told of")
		}
		own(t, events)
	})

	// A daemon by another name is found by its socket: when the job begins, or when the job connects.
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("AnotherName,late=%v", late), func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "docker.sock")
			daemon := start(t, "engine", socket)
			if !late {
				daemon.begin(t)
				await(t, socket)
			}
			a := ask(t, r, e, Follow{Engines: EnginesNetwork}, "for i in $(seq 20); do "+e.Command()[0]+" -H unix://"+socket+" version; sleep 0.1; done; true")
			if late {
				daemon.begin(t)
				await(t, socket)
			}
			if err := a.finish(); err != nil {
				t.Fatal(err)
			}
			events, found := collect(t, a.scope), 0
			for _, e := range events {
				if e.Type == trace.ProcessExec && strings.Join(e.Args, " ") == "/bin/true asked" {
					found++
				}
			}
			if found == 0 || !late && found < 20 {
				t.Errorf("%d programs that the daemon has started were told of:\n%s", found, show(events))
			}
		})
	}

	// A container in a container: the inner one is the job's as well.
	t.Run("Nested", func(t *testing.T) {
		root := t.TempDir()
		events := asked(t, r, e, "mkdir -p "+root+"; docker run --rm --privileged=false --cap-add SYS_ADMIN --security-opt seccomp=unconfined -v /:/host "+enginetest.Image+
			" /bin/busybox chroot /host unshare --mount --pid --fork sh -c 'echo inside > "+root+"/nested'")
		if id := ran(t, events, "unshare --mount"); !wrote(events, "/host"+root+"/nested", id) {
			t.Errorf("its file was not told of:\n%s", show(events))
		}
		own(t, events)
	})

	// All of the machine's: others may have engines here now, so nothing is said of these.
	t.Run("Machine", func(t *testing.T) {
		a := ask(t, r, e, Follow{Engines: EnginesMachine}, run("", "echo inside > /tmp/machine"))
		if err := a.finish(); err != nil {
			t.Fatal(err)
		}
		events := collect(t, a.scope)
		if id := ran(t, events, "sh -c echo inside"); !wrote(events, "/tmp/machine", id) {
			t.Error("its file was not told of")
		}
	})

	// Where the machine is not the job's alone, neither are its engines.
	t.Run("Shared", func(t *testing.T) {
		a := ask(t, r, e, Follow{}, run("", "echo inside > /tmp/shared"))
		if err := a.finish(); err != nil {
			t.Fatal(err)
		}
		events := collect(t, a.scope)
		if wrote(events, "/tmp/shared", "") || len(events) == 0 {
			t.Errorf("a container of a shared engine was recorded:\n%s", show(events))
		}
	})
	t.Run("OneAtATime", func(t *testing.T) {
		a := ask(t, r, e, Follow{Engines: EnginesNetwork}, "true")
		b := ask(t, r, e, Follow{Engines: EnginesNetwork}, "true")
		if why := b.scope.Describe().Missing[enginesExtra]; !strings.Contains(why, "another job") {
			t.Errorf("two jobs have the engines of one machine: %q", why)
		}
		for _, job := range []asking{a, b} {
			if err := job.finish(); err != nil {
				t.Error(err)
			}
			collect(t, job.scope)
		}
	})
}

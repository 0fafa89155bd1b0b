//go:build linux

package agent

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/muster-ci/muster/internal/agent/bpf"
	"github.com/muster-ci/muster/internal/guest"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/provider/container/enginetest"
)

// Whose the engines are is told, and the default of a machine that was made for its agent.
func TestWhoseEngines(t *testing.T) {
	for name, c := range map[string]struct {
		env  []string
		want bpf.Engines
	}{
		"Shared":    {nil, bpf.EnginesNone},
		"Guest":     {[]string{guest.Mark + "=1"}, bpf.EnginesMachine},
		"GuestNone": {[]string{guest.Mark + "=1", "MUSTER_ENGINES=none"}, bpf.EnginesNone},
		"Sidecar":   {[]string{"MUSTER_ENGINES=network"}, bpf.EnginesNetwork},
		"Machine":   {[]string{"MUSTER_ENGINES=machine"}, bpf.EnginesMachine},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := load(nil, append(c.env, "MUSTER_URL=http://127.0.0.1:1", "MUSTER_RUNNER_DIR=/r"), io.Discard)
			if err != nil || got.Engines != c.want {
				t.Errorf("engines %q, %v, want %q", got.Engines, err, c.want)
			}
		})
	}
	if _, err := load(nil, []string{"MUSTER_URL=http://127.0.0.1:1", "MUSTER_RUNNER_DIR=/r", "MUSTER_ENGINES=all"}, io.Discard); err == nil || !strings.Contains(err.Error(), "MUSTER_ENGINES") {
		t.Errorf("a word that says nothing: %v", err)
	}
}

// askedFor is a recorder that notes for whose engines it was asked.
type askedFor struct {
	reel
	mu      sync.Mutex
	engines []bpf.Engines
}

func (r *askedFor) FollowEngines(ctx context.Context, root int, egress trace.Egress, engines bpf.Engines) (scope, error) {
	r.mu.Lock()
	r.engines = append(r.engines, engines)
	r.mu.Unlock()
	return r.Follow(ctx, root, egress)
}

// A node's recorder gives nobody the engines of the machine, unless it was started so; those of a
// network namespace the recorder looks for itself.
func TestLentEngines(t *testing.T) {
	for name, c := range map[string]struct {
		own  bool
		ask  bpf.Engines
		want []bpf.Engines
	}{
		"None":    {true, bpf.EnginesNone, nil},
		"Network": {false, bpf.EnginesNetwork, []bpf.Engines{bpf.EnginesNetwork}},
		"Refused": {false, bpf.EnginesMachine, nil},
		"Given":   {true, bpf.EnginesMachine, []bpf.Engines{bpf.EnginesMachine}},
	} {
		t.Run(name, func(t *testing.T) {
			rec := &askedFor{}
			socket := serving(t, lending{perUser: 1, scopes: 1, engines: c.own}, rec)
			r, err := dialRecorder(t.Context(), socket, recordOptions{agent: "test", engines: c.ask})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			s, err := r.Follow(t.Context(), child(t), trace.Egress{})
			if err != nil {
				t.Fatal(err)
			}
			rec.mu.Lock()
			defer rec.mu.Unlock()
			if !slices.Equal(rec.engines, c.want) || len(rec.roots) != 1 {
				t.Errorf("asked for %q, want %q", rec.engines, c.want)
			}
			_, refused := s.Describe().Missing["engines"]
			if want := c.ask == bpf.EnginesMachine && !c.own; refused != want {
				t.Errorf("that it is refused is told: %v", refused)
			}
		})
	}
}

// S0-20 S4-65: what the container engine of a machine does for the one job of it is in the job's
// trace, in the step that runs, and held to the policy; the engine goes on after the job.
func TestTraceOfContainers(t *testing.T) {
	if !enginetest.IsolateOnNode(t) {
		return
	}
	e := enginetest.Docker(t, enginetest.Options{})
	docker := strings.Join(e.Command(), " ")
	run := docker + ` run --rm ` + enginetest.Image
	s := mount(t, fmt.Sprintf(job, fmt.Sprintf(stepped,
		`'`+run+` sh -c "echo made > /tmp/made; /bin/busybox true one"'`,
		`'`+run+` nc -w 1 203.0.113.9 443; `+docker+` run -d --name stays `+enginetest.Image+` sleep 1000'`)))
	s.traced()
	s.plane.boot.Trace.Egress = trace.Egress{Mode: trace.EgressEnforce, Allow: []string{"192.0.2.1"}}
	s.env(append(e.Environ(), "MUSTER_ENGINES=network")...)
	s.start()
	s.end(ExitDone, "started", "listening", "running build", "result Succeeded", "finished job finished")
	events := s.plane.whole(t, 1)
	if in := ranIn(events); !slices.Equal(in["/bin/busybox true one"], []string{"one"}) || !slices.Equal(in["nc -w 1 203.0.113.9 443"], []string{"two"}) || !slices.Equal(in["sleep 1000"], []string{"two"}) {
		t.Errorf("containers ran in %v", in)
	}
	told := map[string]bool{}
	for _, e := range events {
		inside := len(e.Container) == 64
		switch {
		case e.Type == trace.TraceStart:
			told["engines"] = slices.Contains(e.Recorder.Extras, "engines") && len(e.Recorder.Missing) == 0
		case e.Type == trace.FileWrite && e.Path == "/tmp/made" && inside:
			told["file"] = true
		case e.Type == trace.NetConnect && e.Address == "203.0.113.9" && e.Verdict == trace.VerdictDenied && inside:
			told["refusal"] = true
		}
	}
	if !told["engines"] || !told["file"] || !told["refusal"] {
		t.Errorf("told: %v\n%s", told, strings.Join(story(events), "\n"))
	}
	if got := e.Containers(t); !slices.Equal(got, []string{"stays"}) {
		t.Errorf("after the job, the engine has %q", got)
	}
}

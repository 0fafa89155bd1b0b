package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/muster-ci/muster/internal/trace"
)

// A job whose egress cannot be enforced does not run, and it is said why.
func TestEgressIsEnforcedOrNothingRuns(t *testing.T) { // S4-65
	for name, prepare := range map[string]func(*tape, *scene){
		"NothingWorks": func(r *tape, _ *scene) { r.about.Missing = map[string]string{"all": "it has no right to"} },
		"NoFollowing":  func(r *tape, _ *scene) { r.refuse = errors.New("it has no right to") },
		"NoRecorder": func(_ *tape, s *scene) {
			s.cfg.record = func(context.Context, recordOptions) (recorder, error) { return nil, errors.New("it has no right to") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			var end *scene
			rec := newTape()
			play(t, traced(rec, func(s *scene) {
				s.plane.boot.Trace.Egress = trace.Egress{Mode: trace.EgressEnforce}
				prepare(rec, s)
				end = s
			}), nil)
			if said := strings.Join(end.plane.phases(), "\n"); strings.Contains(said, "started") || !strings.Contains(said, "the pool enforces its egress, which this machine cannot: it has no right to") {
				t.Errorf("reported:\n%s", said)
			}
		})
	}
}

func TestPlaneIsAlwaysAllowed(t *testing.T) {
	for base, want := range map[string]string{
		"https://muster.example/base": "muster.example:443", "http://192.0.2.1:8080": "192.0.2.1:8080",
		"http://[2001:db8::1]:8080": "[2001:db8::1]:8080", "http://plane": "plane:80", "": "", "unix:///run/x": "",
	} {
		if got := planeEntry(base); got != want {
			t.Errorf("%q: %q, want %q", base, got, want)
		}
	}
	tr := &tracer{plane: "plane:80"}
	if got := tr.policy(); got.Allow != nil {
		t.Errorf("without a policy: %+v", got)
	}
	tr.settings.Egress = trace.Egress{Mode: trace.EgressAudit, Allow: []string{"a.example"}}
	if got := tr.policy(); !slices.Equal(got.Allow, []string{"a.example", "plane:80"}) || len(tr.settings.Egress.Allow) != 1 {
		t.Errorf("with one: %+v", got)
	}
}

package api

import (
	"slices"
	"testing"

	"github.com/muster-ci/muster"
)

func TestPoolTraceAndEgress(t *testing.T) {
	if p := poolOf(muster.Pool{}); p.Trace != nil || p.Egress != nil {
		t.Errorf("defaults are shown: %v %v", p.Trace, p.Egress)
	}
	p := poolOf(muster.Pool{Trace: muster.PoolTrace{MaxEvents: -1, MaxBytes: 7}, Egress: muster.Egress{Mode: "enforce", Allow: []string{"a.com"}, NoGitHub: true}})
	if p.Trace.MaxEvents != 0 || p.Trace.MaxBytes != 7 || p.Trace.Off || p.Egress.Mode != "enforce" || !p.Egress.NoGithub || !slices.Equal(p.Egress.Allow, []string{"a.com"}) {
		t.Errorf("%v %v", p.Trace, p.Egress)
	}
}

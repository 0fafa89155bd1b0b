package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/api"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/wire"
)

// recordingAgents take traces as well.
type recordingAgents struct {
	api.Agents
	segment wire.TraceSegment
	seal    wire.TraceSeal
	err     error
}

func (a *recordingAgents) TraceSegment(_ context.Context, _ string, s wire.TraceSegment) (wire.Answer, error) {
	a.segment = s
	return wire.Answer{}, a.err
}

func (a *recordingAgents) TraceSeal(_ context.Context, _ string, s wire.TraceSeal) (wire.Answer, error) {
	a.seal = s
	return wire.Answer{}, a.err
}

// The largest segment fits into a request, and refusals have the statuses of the protocol. S0-24
func TestTraceRoutes(t *testing.T) {
	agents := &recordingAgents{}
	w := newWorld(t, func(c *api.Config, _ *world) { agents.Agents, c.Agents = c.Agents, agents })
	data := bytes.Repeat([]byte{0xff}, wire.MaxTraceSegment)
	body, err := json.Marshal(wire.TraceSegment{Trace: 1, Job: trace.Job{Name: strings.Repeat("n", 4096)}, Segment: trace.Segment{Seq: 7, Data: data}})
	if err != nil {
		t.Fatal(err)
	}
	if resp, text := post(t, w, "POST", wire.TracePath, "session", string(body)); resp.StatusCode != http.StatusOK || !bytes.Equal(agents.segment.Segment.Data, data) {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	if resp, _ := post(t, w, "POST", wire.TraceSealPath, "session", `{"trace":1,"seal":{"segments":7,"missing":""},"recorder":{"agent":"v1"}}`); resp.StatusCode != http.StatusOK || agents.seal.Seal.Segments != 7 {
		t.Errorf("%d %+v", resp.StatusCode, agents.seal)
	}
	for want, err := range map[int]error{
		http.StatusConflict: muster.Errorf(muster.CodeConflict, "3 is wanted"), http.StatusGone: muster.Errorf(muster.CodeGone, "sealed"),
		http.StatusServiceUnavailable: muster.Errorf(muster.CodeUnavailable, "away"), http.StatusUnauthorized: muster.Errorf(muster.CodeUnauthenticated, "who"),
	} {
		agents.err = err
		resp, text := post(t, w, "POST", wire.TracePath, "session", `{}`)
		if resp.StatusCode != want || !strings.Contains(text, muster.MessageOf(err)) || (want == http.StatusServiceUnavailable) != (resp.Header.Get("Retry-After") != "") {
			t.Errorf("%v: %d %s", err, resp.StatusCode, text)
		}
	}
	if resp, _ := post(t, w, "POST", wire.TracePath, "", `{}`); resp.StatusCode != http.StatusUnauthorized {
		t.Error(resp.StatusCode)
	}
	plain := newWorld(t, nil)
	if resp, _ := post(t, plain, "POST", wire.TracePath, "session", `{}`); resp.StatusCode == http.StatusOK {
		t.Error("a control plane without traces takes one")
	}
}

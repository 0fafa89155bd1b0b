package web_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/web"
)

// A pool that keeps a machine shows the machine, and no size.
func TestMachinePage(t *testing.T) {
	f := newFake().addKept()
	text := wants(t, f, "/pools/gpu-box-vision", "Machine gpu-box up, busy", "up for 47m 00s", "Runner busy, with evaluate resnet-50 of acme/vision GitHub was asked 40s ago", "Last job ended 26m ago",
		"Deadline in 20s", "then GitHub is asked whether its runner is idle, and it is stopped if so", "Stop asked for 40s ago", "Because job 61000000000 of acme/vision runs on it",
		"cloud, us-central1-a says RUNNING", "Shared by gpu-box-vision , gpu-box-ledger", "2 pools share it", "Registered as self-hosted Linux X64 gpu", "stopped after 15 minutes")
	for _, not := range []string{"at least 0", "Set limits", "Per runner", "provisioning"} {
		if strings.Contains(text, not) {
			t.Errorf("a pool without a size says %q:\n%s", not, text)
		}
	}
	wants(t, f, "/pools/build-box", "Machine build-box stopped", "5h 00m", "The platform's last error, at 2026-05-06 14:31:55 : ZONE_RESOURCE_POOL_EXHAUSTED", "Runner away", "Registered as not known yet")
	wants(t, f, "/pools", "machine gpu-box in us-central1-a", "up, busy", "stopped error stopped for 5h 00m")
	f.machines = nil
	wants(t, f, "/pools/build-box", "not looked at yet", "Deadline none")
}

func TestMachineWords(t *testing.T) {
	for _, c := range []struct {
		status             muster.MachineStatus
		work               muster.MachineWork
		word, tone, runner string
	}{
		{muster.MachineProvisioning, "", "starting", "wait", "away"},
		{muster.MachineRepairing, "", "repairing", "wait", "away"},
		{muster.MachineRunning, "", "up", "ok", "not asked about yet"},
		{muster.MachineRunning, muster.WorkIdle, "up", "ok", "idle"},
		{muster.MachineRunning, muster.WorkBusy, "up, busy", "info", "busy"},
		{muster.MachineRunning, muster.WorkMissing, "up", "ok", "not known to GitHub"},
		{muster.MachineRunning, muster.WorkUnknown, "up", "ok", "GitHub does not say, which counts as busy"},
		{muster.MachineStopping, "", "stopping", "wait", "away"},
		{muster.MachineTerminated, "", "stopped", "mute", "away"},
		{muster.MachineSuspended, "", "suspended", "wait", "away"},
		{"LOST", "", "LOST", "wait", "away"},
		{"", "", "not looked at yet", "mute", "away"},
	} {
		v := web.MachineView{Machine: muster.Machine{Status: c.status, Work: c.work, UpAt: fakeNow.Add(-time.Hour)}}
		if v.Word() != c.word || v.Tone() != c.tone || v.Runner() != c.runner {
			t.Errorf("%s %s: %q %q %q", c.status, c.work, v.Word(), v.Tone(), v.Runner())
		}
	}
}

// 4-33: only a kept pool's machine is started and stopped.
func TestMachineForms(t *testing.T) {
	f := newFake().addKept()
	h := web.New(config(f))
	for _, c := range []struct {
		pool, do, answer string
		status           int
		location         string
	}{
		{"build-box", "start", muster.MachineAnswerStarting, 303, "/pools/build-box?done=machine-starting"},
		{"gpu-box-ledger", "stop", muster.MachineAnswerBusy, 303, "/pools/gpu-box-ledger?done=machine-busy"},
		{"build-box", "stop", muster.MachineAnswerStopped, 303, "/pools/build-box?done=machine-already_stopped"},
		{"build-box", "explode", "", 400, ""},
		{"linux-small", "stop", "", 400, ""},
		{"nope", "stop", "", 404, ""},
	} {
		f.answer = muster.MachineAnswer{Status: c.answer}
		w := ask(t, h, request{path: "/pools/" + c.pool + "/machine", form: url.Values{"do": {c.do}}})
		if w.Code != c.status || w.Header().Get("Location") != c.location {
			t.Errorf("%s %s: %d %s", c.do, c.pool, w.Code, w.Header().Get("Location"))
		}
		if c.location != "" && !strings.Contains(get(t, h, c.location), `class="notice"`) {
			t.Errorf("%s says nothing", c.location)
		}
	}
	want := []string{"start cloud/us-central1-a/build-box", "stop cloud/us-central1-a/gpu-box", "stop cloud/us-central1-a/build-box"}
	if got := f.asked(); !slices.Equal(got, want) {
		t.Errorf("asked for %q", got)
	}
}

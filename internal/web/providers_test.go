package web_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/muster-ci/muster/internal/web"
)

// S4-71 S4-76: the page of providers shows their sizes, breakers with the platform's own words,
// and what their last test met.
func TestProvidersPage(t *testing.T) {
	f := newFake()
	h := web.New(config(f))
	page := get(t, h, "/providers")
	for _, want := range []string{
		"2 running", "small: 2 vCPU, 4096 MiB", "gpu: 8 vCPU, 65536 MiB, 2 GPU, spot, $0.052/min", "gpu: &lt;no&gt; capacity", "connection refused",
		`t-bad">unreachable`, "pool linux-large", "zone a, gpu", ">open<", "quota exceeded", `t-ok">passed`, `t-bad">failed`, "nothing left",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q on the page", want)
		}
	}
	for name, want := range map[string]int{"local": 303, "nowhere": 404} {
		w := ask(t, h, request{path: "/providers/" + name + "/check", form: url.Values{}})
		if w.Code != want {
			t.Errorf("test of %s: %d", name, w.Code)
		}
	}
	if got := f.asked(); !slices.Equal(got, []string{"check local"}) {
		t.Errorf("asked for %q", got)
	}
	if !strings.Contains(get(t, h, "/providers?done=check"), `class="notice"`) {
		t.Error("it says nothing of the test that was begun")
	}
}

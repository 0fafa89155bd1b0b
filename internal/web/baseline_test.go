package web_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace/detect"
	"github.com/muster-ci/muster/internal/web"
)

func baselinePath(name string) string { return "/baseline?name=" + url.QueryEscape(name) }

// newHost is the trace with findings of what its baseline did not know.
func (f *fake) newHost() *muster.Trace {
	i := slices.IndexFunc(f.tr.detections, func(d muster.Detection) bool { return d.Fact != "" })
	return f.tr.traces[slices.IndexFunc(f.tr.traces, func(t *muster.Trace) bool { return t.ID == f.tr.detections[i].Trace })]
}

// What a job usually does has a page, reached from its traces and from the findings.
func TestBaselinePages(t *testing.T) {
	f := newFake()
	tr := f.newHost()
	usual := baselinePath(tr.Baseline())
	for _, tab := range []string{"overview", "network", "diff"} {
		if page := get(t, web.New(config(f)), "/jobs/"+tr.Job.String()+"/trace/"+tab); !strings.Contains(page, strings.ReplaceAll(usual, "&", "&amp;")) {
			t.Errorf("%s has no link to %s", tab, usual)
		}
	}
	wants(t, f, "/findings", "What jobs usually do", "medium accepted")
	wants(t, f, "/baselines", tr.Baseline(), "acme/api/ci/build learning, 2 of 5", "mature 2 6 4 1")
	wants(t, f, "/baselines?q=API/release", "acme/api/release/Publish image")
	wants(t, f, usual, "What no run of this job did before is a finding.", "and not from 1, in which rules found something high or critical", "fonts.googleapis.com new 1", "cdn.fontshare.com accepted by operator: the new font 1", "registry.npmjs.org usual 10", "Expected: accept…", "Learn anew…", "muster trace baseline show")
	wants(t, f, baselinePath("acme/api/ci/build"), "2 runs were learnt of 5", "Accept as it is…")
	wants(t, f, baselinePath("acme/api/release/Publish image"), "Begun anew by operator", "learnt while the mirror was hijacked")
	wants(t, f, "/jobs/"+tr.Job.String()+"/trace/overview", "Expected: accept… The next runs of this job have no finding for it.", "host:fonts.googleapis.com")
	cfg := config(f)
	cfg.Commands = nil
	for _, path := range []string{usual, "/jobs/" + tr.Job.String() + "/trace/overview"} {
		if page := get(t, web.New(cfg), path); strings.Contains(page, "<form method=\"post\" action=\"/baseline") {
			t.Errorf("%s of a dashboard that only reads has forms", path)
		}
	}
}

// S4-61: forms say what is accepted and of what; what they cannot mean is refused.
func TestBaselineForms(t *testing.T) {
	f := newFake()
	tr := f.newHost()
	cfg := config(f)
	cfg.Logger = quiet()
	h := web.New(cfg)
	post := func(path string, form url.Values, code int, to string) {
		t.Helper()
		w := ask(t, h, request{path: path, form: form})
		if got := w.Header().Get("Location"); w.Code != code || got != to {
			t.Errorf("POST %s %v: %d %s, want %d %s", path, form, w.Code, got, code, to)
		}
	}
	name := tr.Baseline()
	back := baselinePath(name)
	long := "binary:/opt/" + strings.Repeat("x", 3000)
	post("/baseline/accept", url.Values{"trace": {tr.ID.String()}, "fact": {"host:fonts.googleapis.com"}, "reason": {" our fonts "}}, 303, "/jobs/"+tr.Job.String()+"/trace/overview?done=accept#r-findings")
	post("/baseline/accept", url.Values{"name": {name}, "fact": {"binary:/usr/bin/fc-cache", long}}, 303, back+"&done=accept")
	post("/baseline/accept", url.Values{"name": {name}, "all": {"1"}, "version": {"12"}}, 303, back+"&done=accept")
	post("/baseline/reset", url.Values{"name": {name}, "reason": {"moved"}}, 303, back+"&done=reset")
	want := []string{"accept [host:fonts.googleapis.com] all=false version=0 of " + name + ": our fonts", "accept [binary:/usr/bin/fc-cache " + long + "] all=false version=0 of " + name + ": on the dashboard", "accept [] all=true version=12 of " + name + ": on the dashboard", "reset " + name + ": moved"}
	if d := cmp.Diff(want, f.asked()); d != "" {
		t.Error(d)
	}
	for _, form := range []url.Values{{"name": {name}}, {"fact": {"host:x"}}, {"trace": {"!"}, "fact": {"host:x"}}, {"name": {name}, "fact": {"port:1"}}, {"name": {name}, "all": {"1"}, "version": {"-1"}}} {
		post("/baseline/accept", form, 400, "")
	}
	post("/baseline/accept", url.Values{"trace": {"r-nowhere"}, "fact": {"host:x"}}, 404, "")
	tr.Repository = ""
	post("/baseline/reset", url.Values{"trace": {tr.ID.String()}}, 404, "")
	f.broken = muster.Errorf(muster.CodeConflict, "the baseline has version 13 and not 12 any more")
	post("/baseline/accept", url.Values{"name": {name}, "all": {"1"}, "version": {"12"}}, 409, "")
	f.broken = nil
	if w := ask(t, h, request{path: "/baseline/accept", form: url.Values{"name": {name}, "all": {"1"}}, header: map[string]string{"Sec-Fetch-Site": "cross-site"}}); w.Code != http.StatusForbidden {
		t.Errorf("from another site: %d", w.Code)
	}
	if w := ask(t, h, request{path: baselinePath("acme/none/ci/build")}); w.Code != http.StatusNotFound {
		t.Errorf("%d", w.Code)
	}
}

// Jobs choose what stands in baselines.
func TestHostileBaselineStaysText(t *testing.T) {
	f := newFake()
	const evil = `x"><script>hacked=1</script>'` + "\u202e" + `$(id)`
	name := "acme/" + evil + "/ci/" + evil
	b := &detect.Baseline{Accepted: &detect.Act{By: evil, Reason: evil, At: fakeNow}}
	b.Learn(detect.Facts{Hosts: map[string]int{evil: 1}, Binaries: map[string]int{"/bin/" + evil: 1, "/bin/a\nb": 1}}, evil, fakeNow)
	f.tr.baselines[name] = b
	for _, path := range []string{baselinePath(name), "/baselines?q=" + url.QueryEscape(evil)} {
		page := get(t, web.New(config(f)), path)
		if strings.Contains(page, "<script>hacked") || strings.Contains(words(page), "\u202e") {
			t.Errorf("%s: %s", path, words(page))
		}
	}
	if page := get(t, web.New(config(f)), baselinePath(name)); strings.Contains(page, "muster trace baseline show") || strings.Contains(page, "value=\"binary:/bin/a") {
		t.Error("a name that cannot be seen is to be pasted, or a fact that a form would change is to be accepted")
	}
}

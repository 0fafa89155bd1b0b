package web_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace/view"
)

// incidentPath is the address of the trace of the fake's incident.
func incidentPath(f *fake) string {
	for _, d := range f.tr.detections {
		if d.Severity == muster.SeverityCritical {
			for _, t := range f.tr.traces {
				if t.ID == d.Trace {
					return "/jobs/" + t.Job.String() + "/trace"
				}
			}
		}
	}
	return ""
}

func TestBrowserTraces(t *testing.T) {
	browser := startBrowser(t)

	// A job of many processes and files: only what is looked at is fetched.
	t.Run("TreesUnfoldPieceByPiece", func(t *testing.T) {
		f := newFake()
		at := incidentPath(f)
		f.tr.views[f.tr.detections[0].Trace] = largeViews(f.tr.views[f.tr.detections[0].Trace])
		tb := openTab(t, browser, config(f))
		tb.open(at + "/execution")
		tb.settled()
		count := `document.querySelectorAll('#r-tree li[id]').length`
		if got := tb.js(count); got != "2" {
			t.Errorf("%s processes are there before anything was unfolded", got)
		}
		tb.js(`(window.same = true, document.querySelector('#pd-1 > summary').focus())`)
		tb.press(kb.Enter) // as by hand: a summary is a button
		tb.until(count + ` >= 102`)
		tb.do(chromedp.Click(chromedp.CSS(`#pd-1 a[data-more]`)))
		tb.until(count + ` >= 202`)
		if got := tb.js(`[...document.querySelectorAll('#r-tree li[id]')].map(e => e.id).filter((id, i, all) => all.indexOf(id) !== i).join()`); got != "" {
			t.Errorf("processes are there twice: %s", got)
		}
		if got := tb.js(`window.same + ' ' + location.search`); got != "true " {
			t.Errorf("the page was left: %s", got)
		}
		tb.open(at + "/files")
		tb.settled()
		tb.do(chromedp.Click(chromedp.Search(`//summary[.//a[starts-with(., "d3/")]]`)))
		tb.until(`document.querySelectorAll('#r-files .fileline.leaf').length === 200`)
		// What opens is what a reader of the screen is told.
		if got := tb.js(`document.querySelectorAll('#r-files details[open] [aria-busy]').length`); got != "0" {
			t.Errorf("%s parts say that they are still being fetched", got)
		}
	})

	t.Run("TreesByKeys", func(t *testing.T) {
		f := newFake()
		tb := openTab(t, browser, config(f))
		tb.open(incidentPath(f) + "/execution")
		tb.settled()
		at := func(want string) {
			t.Helper()
			tb.until(`document.activeElement.closest('li')?.id === '` + want + `'`)
		}
		tb.press("j", "j")
		at("p-1")
		tb.press("j")
		at("p-2")
		tb.press("k", kb.ArrowLeft)
		tb.until(`!document.getElementById('pd-1').open`)
		tb.press("j") // over what is folded away
		tb.until(`document.activeElement.closest('li')?.id !== 'p-1' && document.activeElement.checkVisibility()`)
		tb.press("k", kb.ArrowRight)
		tb.until(`document.getElementById('pd-1').open`)
	})

	t.Run("TheTabIsInSightOnAPhone", func(t *testing.T) {
		f := newFake()
		tb := openTab(t, browser, config(f))
		tb.do(screen(400, 850, 1))
		tb.open(incidentPath(f) + "/performance")
		tb.settled()
		tb.until(`(r => r.left >= 0 && r.right <= 400)(document.querySelector('.tabs [aria-current]').getBoundingClientRect())`)
	})

	t.Run("StepsAndFlamesWithoutReload", func(t *testing.T) {
		f := newFake()
		at := incidentPath(f)
		tb := openTab(t, browser, config(f))
		tb.open(at + "/timeline")
		tb.settled()
		tb.js(`window.same = true`)
		tb.do(chromedp.Click(chromedp.CSS(`#step-6 a.row`)))
		tb.until(`location.search === '?step=6' && document.querySelector('#r-events h2')?.textContent.includes('tj-actions')`)
		tb.do(chromedp.Click(chromedp.Search(`//section[@id="r-events"]//a[.="Connections"]`)))
		tb.until(`location.search.includes('type=net_connect') && [...document.querySelectorAll('#r-events .kind')].every(e => e.textContent === 'net connect')`)
		tb.until(`document.querySelectorAll('#r-timeline tr.this').length === 1`)
		if got := tb.js(`window.same`); got != "true" {
			t.Errorf("the page was loaded anew: %s", got)
		}
		tb.js(`history.back()`)
		tb.until(`location.search === '?step=6' && document.querySelector('#r-events h2') && window.same === undefined`)
		tb.open(at + "/execution?view=flame")
		tb.settled()
		tb.js(`window.same = true`)
		width := `+[...document.querySelectorAll('svg.flame a')].find(a => a.querySelector('title').textContent.startsWith('npm: ') && a.querySelector('text'))?.querySelector('rect').getAttribute('width')`
		if got := tb.js(width + ` < 1000`); got != "true" {
			t.Errorf("npm is as wide as all of the job: %s", tb.js(width))
		}
		tb.js(`[...document.querySelectorAll('svg.flame a')].find(a => a.querySelector('title').textContent.startsWith('npm: ')).focus()`)
		if got := tb.js(`getComputedStyle(document.activeElement.querySelector('rect')).stroke`); got == "none" {
			t.Error("the focused bar cannot be seen")
		}
		tb.press(kb.Enter)
		tb.until(`location.search.includes('zoom=') && ` + width + ` > 1100`)
		if got := tb.js(`window.same`); got != "true" {
			t.Error("the page was left")
		}
		tb.do(chromedp.Click(chromedp.Search(`//a[starts-with(., "Zoom out")]`)))
		tb.until(`!location.search.includes('zoom=') && ` + width + ` < 1000`)
	})

	t.Run("GraphShowsWhoReachedWhat", func(t *testing.T) {
		f := newFake()
		tb := openTab(t, browser, config(f))
		tb.open(incidentPath(f) + "/network")
		tb.settled()
		node := `[...document.querySelectorAll('svg.graph a')].find(a => a.textContent.includes('collector-7f2.xyz'))`
		tb.js(node + `.focus()`)
		if got := tb.js(`[...document.querySelectorAll('svg.graph path.on')].map(p => p.querySelector('title').textContent).join()`); got != "curl → ci-metrics.collector-7f2.xyz: 3 connections, some refused" {
			t.Errorf("lit: %s", got)
		}
		for what, find := range map[string]string{
			"text wider than its box": `[...document.querySelectorAll('svg.graph a')].filter(a => a.querySelector('text').getBBox().width > a.querySelector('rect').getBBox().width - 6).map(a => a.textContent)`,
			"boxes on each other":     `[...document.querySelectorAll('svg.graph rect')].map(r => r.getBBox()).filter((a, i, all) => all.some((b, j) => j > i && a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height)).map(b => b.y)`,
		} {
			if got := tb.js(`(` + find + `).join(' | ')`); got != "" {
				t.Errorf("the drawing has %s: %s", what, got)
			}
		}
		tb.press(kb.Enter)
		tb.until(`location.search.startsWith('?host=ci-metrics') && document.getElementById('r-host')`)
	})

	t.Run("AsksAndCopies", func(t *testing.T) {
		f := newFake()
		tb := openTab(t, browser, config(f))
		tb.open(incidentPath(f) + "/query")
		tb.settled()
		tb.press("/")
		tb.until(`document.activeElement.id === 'expr'`)
		tb.do(chromedp.SendKeys(chromedp.CSS(`#expr`), `type == "mem_read" && nothing == 1`))
		tb.js(`document.getElementById('expr').dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', ctrlKey: true, bubbles: true }))`)
		tb.until(`document.querySelector('.place mark')?.textContent === 'nothing'`)
		tb.settled()
		tb.do(chromedp.SetValue(chromedp.CSS(`#expr`), `type == "mem_read"`), chromedp.Click(chromedp.CSS(`button.primary`)))
		tb.until(`document.querySelectorAll('#r-answer .events tbody tr').length === 1`)
		tb.settled()
		tb.js(`(Object.defineProperty(navigator, 'clipboard', { value: { writeText: async (t) => { window.copied = t } } }), document.querySelector('button[data-copy]').click())`)
		tb.until(`window.copied?.startsWith('muster trace query \'type == "mem_read"\' --job ') && document.querySelector('button[data-copy]').textContent === 'Copied'`)
	})

	// A trace that is recorded grows on the page, and what was unfolded stays so.
	t.Run("RecordingIsLive", func(t *testing.T) {
		f := newFake()
		tr, at := f.traceIn(muster.TraceRecording)
		v := largeViews(f.tr.views[tr.ID])
		v.Ended = false
		f.tr.views[tr.ID] = v
		tb := openTab(t, browser, config(f))
		tb.open(at + "/execution")
		tb.settled()
		tb.do(chromedp.Click(chromedp.CSS(`#pd-1 > summary > .n`)))
		tb.until(`document.querySelectorAll('#pd-1 li').length > 100`)
		tb.js(`window.same = true`)
		f.change(muster.Change{Kind: "trace", ID: tr.ID.String()}, func() {
			tr.Events += 1234
			next := *v
			next.Processes = append(slices.Clone(v.Processes), view.Process{Parent: -1, PID: 77_777, Command: "latecomer"})
			f.tr.views[tr.ID] = &next
		})
		tb.until(`document.getElementById('r-tree').textContent.includes('latecomer')`)
		tb.until(`document.getElementById('pd-1').open && document.querySelectorAll('#pd-1 li').length > 100`)
		tb.until(`document.getElementById('r-state').textContent.includes('` + fmt.Sprintf("%d,%03d events", tr.Events/1000, tr.Events%1000) + `')`)
		if got := tb.js(`window.same`); got != "true" {
			t.Error("the page was loaded again")
		}
		// It ends: the job's page says so by itself.
		tb.open(at[:len(at)-len("/trace")])
		tb.settled()
		f.change(muster.Change{Kind: "trace", ID: tr.ID.String()}, func() { tr.State = muster.TraceComplete })
		tb.until(`document.getElementById('r-record').textContent.includes('Complete:')`)
	})

	// What is new is accepted where it was found, or where all of it stands, and says so then.
	t.Run("AcceptsWhatIsNew", func(t *testing.T) {
		f := newFake()
		tr := f.newHost()
		tb := openTab(t, browser, config(f))
		tb.open("/jobs/" + tr.Job.String() + "/trace/overview")
		tb.settled()
		tb.do(chromedp.Click(chromedp.CSS(`#r-findings details.confirm > summary`)), chromedp.WaitVisible(chromedp.CSS(`#r-findings details.confirm button`)))
		tb.do(chromedp.SendKeys(chromedp.CSS(`#r-findings input[name=reason]`), "our fonts"), chromedp.Click(chromedp.CSS(`#r-findings details.confirm button`)))
		tb.until(`location.search.includes('done=accept') && document.querySelector('#r-findings') && !document.querySelector('#r-findings details.confirm')`)
		if got := tb.js(`document.querySelectorAll('#r-findings .tag.t-ok').length + ' ' + document.body.textContent.includes('It is expected from now on')`); got != "2 true" {
			t.Errorf("two findings were accepted: %s", got)
		}
		tb.settled()
		tb.do(chromedp.Click(chromedp.Search(`//a[.="what this job usually does"]`)))
		tb.until(`location.pathname === '/baseline' && document.querySelector('#r-host')`)
		tb.settled()
		tb.do(chromedp.Click(chromedp.CSS(`#r-baseline details.confirm > summary`)), chromedp.WaitVisible(chromedp.CSS(`#r-baseline details.confirm[open] button`)), chromedp.Click(chromedp.CSS(`#r-baseline details.confirm[open] button`)))
		tb.until(`location.search.includes('done=accept') && !document.querySelector('#r-binary .tag.t-wait')`)
		tb.settled()
		// What somebody else does is seen without a reload.
		tb.js(`window.same = true`)
		if err := f.ResetBaseline(t.Context(), tr.Baseline(), "by hand"); err != nil {
			t.Fatal(err)
		}
		tb.until(`document.querySelector('#r-baseline').textContent.includes('by hand') && document.querySelector('#r-host').textContent.includes('None.')`)
		if got := tb.js(`window.same`); got != "true" {
			t.Error("the page was loaded again")
		}
		want := []string{"accept [host:fonts.googleapis.com] all=false version=0 of " + tr.Baseline() + ": our fonts", "accept [binary:/usr/bin/fc-cache] all=false version=0 of " + tr.Baseline() + ": on the dashboard", "reset " + tr.Baseline() + ": by hand"}
		if d := cmp.Diff(want, f.asked()); d != "" {
			t.Error(d)
		}
	})

	t.Run("WithoutScript", func(t *testing.T) {
		f := newFake()
		at := incidentPath(f)
		f.tr.views[f.tr.detections[0].Trace] = largeViews(f.tr.views[f.tr.detections[0].Trace])
		tb := openTab(t, browser, config(f))
		tb.do(call(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
		tb.open(at + "/execution")
		tb.do(chromedp.Click(chromedp.CSS(`#pd-1 > summary > .n`)), chromedp.WaitVisible(chromedp.CSS(`#pd-1 .more a`)), chromedp.Click(chromedp.CSS(`#pd-1 .more a`)), chromedp.WaitVisible(chromedp.CSS(`#r-process`)), chromedp.WaitVisible(chromedp.CSS(`a[data-more]`)), chromedp.Click(chromedp.CSS(`a[data-more]`)), chromedp.WaitVisible(chromedp.CSS(`#r-process`)))
		tb.open(at + "/timeline")
		tb.do(chromedp.Click(chromedp.CSS(`#step-6 a.row`)), chromedp.WaitVisible(chromedp.CSS(`#r-events table`)))
		tb.open(at + "/query")
		tb.do(chromedp.Click(chromedp.CSS(`.examples a`)), chromedp.WaitVisible(chromedp.CSS(`#r-answer`)))
		tb.open(at + "/execution?view=flame")
		tb.do(chromedp.Click(chromedp.CSS(`svg.flame a:nth-of-type(2) rect`)), chromedp.WaitVisible(chromedp.CSS(`svg.flame .f-above`)))
	})

	t.Run("HostileNamesStayText", func(t *testing.T) {
		f := newFake()
		at := incidentPath(f)
		for _, tr := range f.tr.traces {
			if tr.ID == f.tr.detections[0].Trace {
				spoil(f, tr)
			}
		}
		tb := openTab(t, browser, config(f))
		for _, width := range []int64{1360, 400} {
			tb.do(screen(width, 850, 1))
			for _, tab := range []string{"overview", "timeline?step=5", "execution", "execution?of=3", "execution?view=flame", "network", "files", "query?q=true", "diff", "performance"} {
				tb.open(at + "/" + tab)
				tb.settled()
				if got := tb.js(`window.hacked + ' ' + document.querySelectorAll('main script, main img').length`); got != "undefined 0" {
					t.Errorf("%s: %s", tab, got)
				}
				if got := tb.js(`document.documentElement.scrollWidth`); got != strconv.FormatInt(width, 10) {
					t.Errorf("%s is %s pixels wide on a screen of %d: %s", tab, got, width, tb.js(`[...document.querySelectorAll('main *')].filter(e => { e.style.display = 'none'; const ok = document.documentElement.scrollWidth < `+got+`; e.style.display = ''; return ok; }).map(e => e.tagName + ' ' + e.id + ' ' + e.className).join(' > ')`))
				}
			}
		}
	})

	t.Run("Screenshots", func(t *testing.T) {
		dir := os.Getenv("MUSTER_SCREENSHOTS")
		if dir == "" {
			return // as in TestBrowser
		}
		f := newFake()
		tb := openTab(t, browser, config(f))
		at := incidentPath(f)
		for _, s := range []struct {
			name, path, scheme string
			width, height      int64
		}{
			{"overview", at + "/overview", "light", 1360, 900}, {"timeline", at + "/timeline?step=6", "light", 1360, 0}, {"network", at + "/network", "light", 1360, 900}, {"execution", at + "/execution", "light", 1360, 900},
			{"flame", at + "/execution?view=flame", "dark", 1360, 0}, {"files", at + "/files", "light", 1360, 0}, {"query", at + "/query", "light", 1360, 0}, {"diff", at + "/diff", "dark", 1360, 0}, {"performance", at + "/performance", "light", 1360, 0},
			{"overview-phone", at + "/overview", "dark", 400, 0}, {"execution-phone", at + "/execution", "light", 400, 850}, {"network-phone", at + "/network", "dark", 400, 1100}, {"timeline-phone", at + "/timeline?step=6", "light", 400, 1100}, {"findings", "/findings", "light", 1360, 0}, {"baselines", "/baselines", "light", 1360, 0}, {"baseline", baselinePath(f.newHost().Baseline()), "light", 1360, 0}, {"baseline-young", baselinePath("acme/api/ci/build"), "dark", 1360, 0}, {"baseline-phone", baselinePath(f.newHost().Baseline()), "dark", 400, 0}, {"new-host", "/jobs/" + f.newHost().Job.String() + "/trace/overview", "light", 1360, 900}, {"egress", "/pools/linux-small/egress", "light", 1360, 0}, {"pool", "/pools/linux-small", "light", 1360, 0}, {"answer", at + "/query?q=" + url.QueryEscape(`type == "process_exec" && path.matches("/(curl|python3)$")`) + "&scope=workspace", "light", 1360, 0}, {"wrong", at + "/query?q=" + url.QueryEscape(`type == "dns_query" && hostnam.endsWith(".xyz")`), "dark", 1360, 0},
			{"runner", "/runners/" + f.tr.detections[0].Trace.String(), "light", 1360, 0}, {"process", at + "/execution?of=46", "light", 1360, 0}, {"job", at[:len(at)-len("/trace")], "light", 1360, 0},
		} {
			tb.shoot(filepath.Join(dir, "dashboard-trace-"+s.name+".png"), s.path, s.scheme, s.width, s.height)
		}
		id := f.tr.detections[0].Trace
		f.tr.views[id] = largeViews(f.tr.views[id])
		tb.shoot(filepath.Join(dir, "dashboard-trace-network-large.png"), at+"/network", "light", 1360, 2200)
		tb.shoot(filepath.Join(dir, "dashboard-trace-flame-large.png"), at+"/execution?view=flame", "light", 1360, 900)
		spoil(f, f.tr.traces[slices.IndexFunc(f.tr.traces, func(t *muster.Trace) bool { return t.ID == id })])
		tb.shoot(filepath.Join(dir, "dashboard-trace-hostile.png"), at+"/overview", "light", 1360, 0)
		tb.shoot(filepath.Join(dir, "dashboard-trace-hostile-network.png"), at+"/network", "light", 1360, 1400)
	})
}

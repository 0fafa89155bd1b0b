package web_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/web"
)

// startBrowser starts a real Chromium for the test and its subtests.
func startBrowser(t *testing.T) context.Context {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("no Chromium in PATH: apt-get install chromium")
		}
		t.Skip("no Chromium in PATH: apt-get install chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.DisableGPU,
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-quic", true), chromedp.Flag("no-proxy-server", true), chromedp.Flag("hide-scrollbars", true),
		// Whatever the pages may ask for, nothing but loopback resolves.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	alloc, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	browser, closeBrowser := chromedp.NewContext(alloc)
	t.Cleanup(closeBrowser)
	if err := chromedp.Do(browser); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	return browser
}

// tab is one page of the browser on one dashboard.
type tab struct {
	t    *testing.T
	ctx  context.Context //nolint:containedctx // chromedp's handle of one tab
	base string

	mu       sync.Mutex
	problems []string
}

// openTab serves cfg on a loopback port and opens an empty tab on it. At the end
// of the test it fails on any error of the page and on any request that left loopback.
func openTab(t *testing.T, browser context.Context, cfg web.Config) *tab {
	t.Helper()
	stopping := make(chan struct{})
	cfg.Stopping = stopping
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	srv := httptest.NewServer(web.New(cfg))
	t.Cleanup(func() { close(stopping); srv.Close() })
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext()) // cookies of its own
	t.Cleanup(cancel)
	tb := &tab{t: t, ctx: ctx, base: srv.URL}
	if err := chromedp.Listen(ctx, tb.listen); err != nil {
		t.Fatal(err)
	}
	tb.do(call(network.Enable, network.EnableParams{}), call(log.Enable, cdp.Empty{}), screen(1360, 900, 1))
	t.Cleanup(func() {
		tb.mu.Lock()
		defer tb.mu.Unlock()
		for _, p := range tb.problems {
			t.Errorf("browser: %s", p)
		}
	})
	return tb
}

func (tb *tab) listen(ev any) {
	problem := func(format string, args ...any) {
		tb.mu.Lock()
		defer tb.mu.Unlock()
		tb.problems = append(tb.problems, fmt.Sprintf(format, args...))
	}
	switch e := ev.(type) {
	case *runtime.EventExceptionThrown:
		problem("exception: %s", describe(e.ExceptionDetails))
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			problem("console: %s", e.Args[0].Value)
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError && !expected(e.Entry) {
			problem("log: %s (%s)", e.Entry.Text, e.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		u, err := url.Parse(e.Request.URL)
		if err != nil || (u.Scheme != "data" && u.Hostname() != "127.0.0.1") {
			problem("request left loopback: %s", e.Request.URL)
		}
	}
}

// expected are the entries that Chromium logs for pages that are errors on purpose.
func expected(e *log.Entry) bool {
	return e.Source == log.EntrySourceNetwork && (strings.Contains(e.URL, "/jobs/404404") || strings.HasSuffix(e.URL, "/login") || strings.HasSuffix(e.URL, "/events"))
}

func (tb *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, 30*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		tb.t.Fatal(err)
	}
}

func (tb *tab) open(path string) {
	tb.t.Helper()
	tb.do(chromedp.Navigate(tb.base + path))
}

// js evaluates an expression that yields a string.
func (tb *tab) js(expr string) string {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, 30*time.Second)
	defer cancel()
	out, err := chromedp.Run(ctx, chromedp.Evaluate[string]("String("+expr+")"))
	if err != nil {
		tb.t.Fatalf("%s: %v", expr, err)
	}
	return out
}

// until waits for an expression to become true.
func (tb *tab) until(expr string) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, time.Minute)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		// Between two pages there is nothing to ask: that is not an answer either.
		if ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("!!("+expr+")")); err == nil && ok {
			return
		}
		select {
		case <-ctx.Done():
			tb.t.Fatalf("never true: %s (at %s)", expr, tb.js("location.href + ' ' + document.title"))
		case <-again.C:
		}
	}
}

func (tb *tab) press(keys ...string) {
	tb.t.Helper()
	for _, k := range keys {
		if len(k) > 1 || k < " " {
			tb.do(chromedp.KeyEvent(k))
			continue
		}
		// As a keyboard does it: the text belongs to the key going down, so a page
		// that takes the key also takes the text.
		down := input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeKeyDown, Key: k, Text: k}
		tb.do(call(input.DispatchKeyEvent, down), call(input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeKeyUp, Key: k}))
	}
}

// settled waits for the page, its script and its stream.
func (tb *tab) settled() {
	tb.t.Helper()
	tb.until(`document.readyState === 'complete' && document.getElementById('live')?.dataset.state === 'on'`)
}

// paths are the pages of the fake organization that are worth a visit.
func paths(f *fake) []string {
	out := []string{"/", "/jobs", "/jobs?state=queued", "/runners", "/runners?state=destroyed", "/pools", "/providers", "/deliveries", "/usage", "/usage?by=day&period=30d", "/insights", "/insights?by=pool&period=30d", "/findings", "/about", "/jobs?q=nothing-like-this", "/jobs/404404"}
	seen := map[muster.JobState]bool{}
	for _, j := range f.jobs {
		if !seen[j.State] {
			seen[j.State] = true
			out = append(out, "/jobs/"+j.Key.String())
		}
	}
	states := map[muster.RunnerState]bool{}
	for id, r := range f.runners {
		if !states[r.State] {
			states[r.State] = true
			out = append(out, "/runners/"+string(id))
		}
	}
	for _, p := range f.pools {
		out = append(out, "/pools/"+p.Name)
	}
	out = append(out, fmt.Sprintf("/runs/%d", f.jobs[len(f.jobs)-1].RunID), fmt.Sprintf("/pools/%s/decisions/%d", f.decisions[0].Pool, f.decisions[0].ID))
	out = append(out, "/pools/linux-small/egress", "/findings/sweep", "/findings?severity=critical", "/baselines", "/baselines?q=nothing")
	for name := range f.tr.baselines {
		out = append(out, baselinePath(name))
	}
	if at := incidentPath(f); at != "" {
		for _, tab := range []string{"overview", "timeline?step=6", "execution", "execution?of=3", "execution?q=node", "execution?view=flame", "network", "network?host=github.com", "files", "files?q=chunk", "query?q=type+==", "query?q=type=='net_connect'", "query?q=pid>0&scope=workspace", "diff", "performance?step=4"} {
			out = append(out, at+"/"+tab)
		}
	}
	for _, t := range f.tr.traces { // of every state
		out = append(out, "/jobs/"+t.Job.String()+"/trace/overview")
	}
	return append(out, "/deliveries/"+f.deliveries[0].GUID, "/deliveries/"+f.deliveries[9].GUID)
}

func TestBrowser(t *testing.T) {
	browser := startBrowser(t)

	t.Run("EveryPageIsReachedByLinks", func(t *testing.T) {
		tb := openTab(t, browser, config(newFake()))
		for _, start := range []string{"Overview", "Jobs", "Runners", "Pools", "Deliveries", "Usage", "Insights", "Findings", "About"} {
			tb.open("/")
			tb.do(chromedp.Click(chromedp.Search(`//nav//a[span="` + start + `"]`)))
			tb.until(`document.querySelector('h1')?.textContent === '` + start + `'`)
			tb.settled()
			if got := tb.js(`document.querySelector('nav [aria-current] span').textContent`); got != start {
				t.Errorf("on %s the navigation marks %s", start, got)
			}
		}
		for _, list := range []string{"/jobs", "/runners", "/pools", "/deliveries"} {
			tb.open(list)
			name := tb.js(`document.querySelector('a.row').textContent`)
			tb.do(chromedp.Click(chromedp.CSS(`a.row`)))
			tb.until(`location.pathname.split('/').length > 2 && document.querySelector('h1')?.textContent.includes(` + fmt.Sprintf("%q", name) + `)`)
		}
	})

	t.Run("Keys", func(t *testing.T) {
		tb := openTab(t, browser, config(newFake()))
		tb.open("/")
		tb.settled()
		for key, path := range map[string]string{"j": "/jobs", "r": "/runners", "p": "/pools", "d": "/deliveries", "u": "/usage", "i": "/insights", "o": "/"} {
			tb.press("g", key)
			tb.until(`location.pathname === '` + path + `' && document.readyState === 'complete' && document.getElementById('live').dataset.state`)
		}
		tb.press("g", "j")
		tb.until(`location.pathname === '/jobs' && document.getElementById('live')?.dataset.state === 'on'`)
		tb.press("/")
		tb.until(`document.activeElement.name === 'q'`)
		tb.press("?", "j") // typed, not obeyed
		if got := tb.js(`document.activeElement.value + document.getElementById('help').open`); got != "?jfalse" {
			t.Errorf("keys in a field: %q", got)
		}
		tb.press(kb.Escape)
		tb.until(`document.activeElement === document.body`)
		tb.press("j", "j", "j", "k")
		tb.until(`document.activeElement === document.querySelectorAll('a.row')[1]`)
		if got := tb.js(`getComputedStyle(document.activeElement).outlineStyle`); got == "none" {
			t.Error("the focused row has no visible focus")
		}
		tb.press("?")
		tb.until(`document.getElementById('help').open`)
		tb.press(kb.Escape)
		tb.until(`!document.getElementById('help').open`)
		want := tb.js(`document.querySelectorAll('a.row')[1].pathname`)
		tb.do(chromedp.Focus(chromedp.Search(`(//a[@class="row"])[2]`)))
		tb.press(kb.Enter)
		tb.until(`location.pathname === '` + want + `'`)
	})

	t.Run("ChangesArriveWithoutReload", func(t *testing.T) {
		f := newFake()
		tb := openTab(t, browser, config(f))
		tb.open("/jobs?state=queued")
		tb.settled()
		tb.js(`(window.same = true, document.querySelector('a.row').focus())`)
		focused := tb.js(`document.activeElement.pathname`)
		j := f.jobs[0]
		j.Key.ID, j.Name, j.State, j.Pool, j.CreatedAt = 99_000_000_000, "brand new job", muster.JobQueued, "linux-small", fakeNow
		f.change(muster.Change{Kind: "job", Workspace: "default", ID: j.Key.String()}, func() { f.jobs = append([]muster.Job{j}, f.jobs...) })
		tb.until(`document.querySelector('a.row').textContent === 'brand new job'`)
		if got := tb.js(`window.same + ' ' + document.activeElement.pathname + ' ' + document.querySelector('tr').closest('table').querySelector('tr.fresh')?.id`); got != "true "+focused+" job-99000000000-1" {
			t.Errorf("after the change: %s; want the same page, focus on %s, the new row marked", got, focused)
		}
		// The same row again is news only if its state is.
		f.change(muster.Change{Kind: "job", ID: j.Key.String()}, func() { f.jobs[0].State = muster.JobInProgress; f.jobs[0].Name = "not in this list any more" })
		tb.until(`document.querySelector('a.row').textContent !== 'brand new job'`)
		if got := tb.js(`document.querySelectorAll('tr.fresh').length`); got != "0" {
			t.Errorf("%s rows are marked though nothing about them changed", got)
		}
		// Text that an operator has selected stays until it is let go.
		tb.js(`getSelection().selectAllChildren(document.querySelector('a.row'))`)
		f.change(muster.Change{Kind: "job"}, func() { f.jobs[0].State = muster.JobQueued })
		tb.until(`stale.has('r-jobs')`)
		if got := tb.js(`document.querySelector('a.row').textContent`); got == "not in this list any more" {
			t.Error("the selected row was replaced")
		}
		tb.js(`getSelection().removeAllRanges()`)
		tb.until(`document.querySelector('a.row').textContent === 'not in this list any more'`)
		// A region of a detail page follows its own thing.
		tb.open("/pools/linux-small")
		tb.settled()
		f.change(muster.Change{Kind: "decision", ID: "linux-small"}, func() {
			f.decisions[0].ID, f.decisions[0].Decision.Reason = 4242, "because the test said so"
		})
		tb.until(`document.getElementById('decision-4242')?.textContent.includes('because the test said so')`)
	})

	t.Run("StreamComesBack", func(t *testing.T) {
		f := newFake()
		tb := openTab(t, browser, config(f))
		tb.open("/")
		tb.settled()
		// The page lets go of its stream while nobody looks, and catches up when somebody does.
		tb.hide(true)
		waitFor(t, func() bool { return f.subscribers() == 0 })
		f.change(muster.Change{Kind: "usage"}, func() { f.health.Jobs = 31_337 })
		tb.hide(false)
		tb.until(`document.getElementById('r-promise').textContent.includes('31,337')`)
	})

	t.Run("NothingIsWiderThanAPhone", func(t *testing.T) {
		f := newFake().addKept()
		tb := openTab(t, browser, config(f))
		tb.do(screen(400, 850, 1))
		for _, p := range paths(f) {
			tb.open(p)
			if got := tb.js(`document.documentElement.scrollWidth`); got != "400" {
				t.Errorf("%s is %s pixels wide on a screen of 400: %s", p, got, tb.js(`[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > 401 && !e.closest('.tabs, pre, nav')).slice(0, 3).map(e => e.outerHTML.slice(0, 120)).join(' | ')`))
			}
		}
	})

	t.Run("EveryPageIsSound", func(t *testing.T) {
		f := newFake().addKept()
		tb := openTab(t, browser, config(f))
		for _, p := range paths(f) {
			tb.open(p)
			tb.settled()
			for what, find := range map[string]string{
				"an id twice":              `[...document.querySelectorAll('[id]')].map(e => e.id).filter((id, i, all) => all.indexOf(id) !== i)`,
				"an id with a space":       `[...document.querySelectorAll('[id*=" "]')].map(e => e.id)`,
				"a live region without id": `[...document.querySelectorAll('[data-live]:not([id])')].map(e => e.outerHTML.slice(0, 80))`,
				"a field without a label":  `[...document.querySelectorAll('input:not([type=hidden]), select, textarea')].filter(e => !e.labels.length).map(e => e.name)`,
				"a link without words":     `[...document.querySelectorAll('a, button, summary')].filter(e => !e.textContent.trim()).map(e => e.outerHTML.slice(0, 80))`,
				"a drawing without words":  `[...document.querySelectorAll('svg:not([aria-hidden])')].filter(e => !e.getAttribute('aria-label')).map(e => e.outerHTML.slice(0, 80))`,
				"a link in a link":         `[...document.querySelectorAll('a a, button button')].map(e => e.outerHTML.slice(0, 80))`,
				"a skipped heading":        `[...document.querySelectorAll('main h1, main h2, main h3')].map(e => +e.tagName[1]).filter((n, i, all) => n > (i ? all[i - 1] : 0) + 1)`,
			} {
				if got := tb.js(`(` + find + `).join(' | ')`); got != "" {
					t.Errorf("%s has %s: %s", p, what, got)
				}
			}
		}
		// The first stop of the tab key leads past the navigation.
		tb.open("/jobs")
		tb.settled()
		tb.press(kb.Tab, kb.Enter)
		tb.until(`location.hash === '#main' && document.activeElement.id === 'main'`)
	})

	t.Run("ScriptSaysTimesAsTheServerDoes", func(t *testing.T) {
		f := newFake()
		tb := openTab(t, browser, config(f))
		tb.open("/")
		tb.settled()
		for s, want := range map[int]string{0: "0s", 59: "59s", 60: "1m 00s", 192: "3m 12s", 3599: "59m 59s", 7500: "2h 05m", 356400: "4d 3h"} {
			if got := tb.js(fmt.Sprintf("duration(%d)", s)); got != want {
				t.Errorf("duration(%d) is %q, want %q", s, got, want)
			}
		}
		for s, want := range map[int]string{-5: "0s", 50: "50s", 180: "3m", 169200: "47h", 176400: "2d"} {
			if got := tb.js(fmt.Sprintf("coarse(%d)", s)); got != want {
				t.Errorf("coarse(%d) is %q, want %q", s, got, want)
			}
		}
	})

	t.Run("Themes", func(t *testing.T) {
		tb := openTab(t, browser, config(newFake()))
		ground := `getComputedStyle(document.documentElement).backgroundColor`
		tb.do(prefers("dark"))
		tb.open("/")
		dark := tb.js(ground)
		tb.do(prefers("light"))
		light := tb.js(ground)
		if dark == light {
			t.Errorf("dark and light have the same ground %s", dark)
		}
		tb.settled()
		tb.do(chromedp.Click(chromedp.CSS(`#theme`)), chromedp.Click(chromedp.CSS(`#theme`)))
		if got := tb.js(ground); got != dark {
			t.Errorf("chosen dark shows %s, want %s", got, dark)
		}
		tb.open("/jobs")
		if got := tb.js(ground); got != dark {
			t.Errorf("the choice is forgotten on the next page: %s, want %s", got, dark)
		}
	})

	t.Run("FormsWork", func(t *testing.T) {
		f := newFake()
		tb := openTab(t, browser, config(f))
		tb.open("/pools/linux-large")
		tb.do(chromedp.SetValue(chromedp.CSS(`input[name=max]`), "9"), chromedp.Click(chromedp.CSS(`button[value=scale]`)))
		tb.until(`location.search === '?done=scale' && document.querySelector('.notice')`)
		// S4-17: suspended and resumed by hand.
		tb.do(chromedp.Click(chromedp.Search(`//summary[starts-with(., "Suspend")]`)), chromedp.Click(chromedp.CSS(`button[value=suspend]`)))
		tb.until(`location.search === '?done=suspend' && document.querySelector('h1').textContent.includes('suspended')`)
		tb.do(chromedp.Click(chromedp.CSS(`button[value=resume]`)))
		tb.until(`location.search === '?done=resume' && document.querySelector('h1').textContent.includes('enabled')`)
		tb.do(chromedp.Click(chromedp.Search(`//summary[starts-with(., "Disable")]`)), chromedp.Click(chromedp.CSS(`button[value=disable]`)))
		tb.until(`location.search === '?done=disable' && document.querySelector('h1').textContent.includes('disabled')`)
		var busy muster.RunnerID
		for id, r := range f.runners {
			if r.Busy {
				busy = id
			}
		}
		tb.open("/runners/" + string(busy))
		tb.do(chromedp.Click(chromedp.CSS(`summary`)), chromedp.SendKeys(chromedp.CSS(`input[name=reason]`), "kernel update"), chromedp.Click(chromedp.CSS(`button.danger`)))
		tb.until(`document.querySelector('h1').textContent.includes('draining')`)
		want := []string{`set linux-large {"min_runners":0,"max_runners":9}`, `set linux-large {"suspended":true}`, `set linux-large {"suspended":false}`, `set linux-large {"enabled":false}`, "drain " + string(busy) + ": kernel update"}
		if got := f.asked(); strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("commands: %q, want %q", got, want)
		}
	})

	t.Run("KeptMachine", func(t *testing.T) {
		f := newFake().addKept()
		id := f.findPool("gpu-box-vision").MachineID()
		tb := openTab(t, browser, config(f))
		tb.open("/pools")
		tb.settled()
		if got := tb.js(`document.getElementById('pool-gpu-box-vision').querySelector('td.bars').textContent`); !strings.HasPrefix(got, "up, busy") || strings.Contains(got, "of 0") {
			t.Errorf("the list says %q of a machine that runs a job", got)
		}
		tb.open("/pools/gpu-box-vision")
		tb.settled()
		f.answer = muster.MachineAnswer{Status: muster.MachineAnswerRunning}
		tb.do(chromedp.Click(chromedp.CSS(`button[value=start]`)))
		tb.until(`location.search === '?done=machine-already_running' && document.querySelector('.notice')?.textContent.includes('up already')`)
		f.answer = muster.MachineAnswer{Status: muster.MachineAnswerBusy}
		tb.do(chromedp.Click(chromedp.Search(`//summary[starts-with(., "Stop machine")]`)), chromedp.Click(chromedp.CSS(`button[value=stop]`)))
		tb.until(`location.search === '?done=machine-busy' && document.querySelector('.notice')?.textContent.includes('at the first minute')`)
		if got := f.asked(); strings.Join(got, "|") != "start "+id.String()+"|stop "+id.String() {
			t.Errorf("commands: %q", got)
		}
		// What the machine does arrives without a reload.
		tb.settled()
		f.change(muster.Change{Kind: "machine", ID: id.String()}, func() {
			m := f.machines[id]
			m.Status, m.StoppedAt, m.Demand.Running, m.Deadline = muster.MachineStopping, fakeNow, nil, time.Time{}
			f.machines[id] = m
		})
		tb.until(`document.querySelector('#r-machine h2').textContent.includes('stopping')`)
	})

	t.Run("SignIn", func(t *testing.T) {
		cfg := config(newFake())
		cfg.Token = "correct-horse-battery"
		tb := openTab(t, browser, cfg)
		tb.open("/jobs?state=queued")
		tb.until(`location.pathname === '/login'`)
		tb.do(chromedp.SendKeys(chromedp.CSS(`input[name=token]`), "wrong"+kb.Enter))
		tb.until(`document.querySelector('.notice.bad')`)
		tb.do(chromedp.SendKeys(chromedp.CSS(`input[name=token]`), "correct-horse-battery"+kb.Enter))
		tb.until(`location.pathname + location.search === '/jobs?state=queued'`)
		tb.settled()
		if got := tb.js(`document.cookie`); got != "" {
			t.Errorf("the script can read the session: %q", got)
		}
		tb.do(chromedp.Click(chromedp.CSS(`form[action="/logout"] button`)))
		tb.until(`location.pathname === '/login'`)
	})

	t.Run("WithoutScript", func(t *testing.T) {
		f := newFake()
		tb := openTab(t, browser, config(f))
		tb.do(call(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
		tb.open("/jobs")
		tb.do(chromedp.SendKeys(chromedp.CSS(`input[name=q]`), "resnet"+kb.Enter))
		tb.do(chromedp.WaitVisible(chromedp.CSS(`a.clear`)), chromedp.Click(chromedp.CSS(`a.row`)), chromedp.WaitVisible(chromedp.CSS(`.timeline`)))
		tb.open("/pools/gpu-a100")
		tb.do(chromedp.Click(chromedp.CSS(`form[action$="/nudge"] button`)), chromedp.WaitVisible(chromedp.CSS(`.notice`)))
		if got := f.asked(); len(got) != 1 || got[0] != "nudge gpu-a100" {
			t.Errorf("commands: %q", got)
		}
	})

	t.Run("HostileNamesStayText", func(t *testing.T) {
		f := newFake()
		f.jobs[0].Name, f.jobs[0].HeadBranch, f.jobs[0].Labels = hostile, hostile, muster.Labels{hostile}
		f.jobs[0].URL = "javascript:window.hacked=1"
		tb := openTab(t, browser, config(f))
		for _, p := range []string{"/", "/jobs", "/jobs/" + f.jobs[0].Key.String()} {
			tb.open(p)
			tb.settled()
			if got := tb.js(`window.hacked + ' ' + document.body.textContent.includes('<script>')`); got != "undefined true" {
				t.Errorf("%s: %s", p, got)
			}
		}
	})

	t.Run("Screenshots", func(t *testing.T) {
		dir := os.Getenv("MUSTER_SCREENSHOTS")
		if dir == "" {
			return // pictures for the documentation are made on request, into an absolute path
		}
		f := newFake().addKept()
		tb := openTab(t, browser, config(f))
		done := ""
		for _, j := range f.jobs {
			if j.Conclusion == "failure" && j.Pool == "linux-large" {
				done = j.Key.String()
				break
			}
		}
		waits := ""
		for _, j := range f.jobs {
			if j.Pool == "gpu-a100" && j.State == muster.JobQueued {
				waits = j.Key.String()
			}
		}
		shots := []struct {
			name, path, scheme string
			width, height      int64
		}{
			{"overview-light", "/", "light", 1360, 0}, {"overview-dark", "/", "dark", 1360, 0}, {"overview-phone", "/", "light", 400, 850},
			{"jobs", "/jobs", "light", 1360, 900}, {"job", "/jobs/" + done, "light", 1360, 0}, {"job-waiting", "/jobs/" + waits, "dark", 1360, 0},
			{"pools", "/pools", "light", 1360, 720}, {"usage", "/usage?period=30d", "light", 1360, 0}, {"insights", "/insights", "light", 1360, 0},
			{"pool", "/pools/linux-large", "light", 1360, 0}, {"machine", "/pools/gpu-box-vision", "light", 1360, 0}, {"machine-refused", "/pools/build-box", "dark", 400, 0}, {"run", fmt.Sprintf("/runs/%d", f.jobs[40].RunID), "light", 1360, 0},
			{"decision", fmt.Sprintf("/pools/%s/decisions/%d", f.decisions[0].Pool, f.decisions[0].ID), "dark", 1360, 0},
		}
		for _, s := range shots {
			tb.shoot(filepath.Join(dir, "dashboard-"+s.name+".png"), s.path, s.scheme, s.width, s.height)
		}
	})
}

// shoot makes a picture of a page, of all of it if height is 0.
func (tb *tab) shoot(file, path, scheme string, width, height int64) {
	tb.t.Helper()
	tb.do(prefers(scheme), screen(width, cmp.Or(height, 900), 1.5))
	tb.open(path)
	tb.settled()
	if height == 0 {
		full, err := strconv.ParseInt(tb.js(`Math.ceil(document.querySelector('main').getBoundingClientRect().bottom)`), 10, 64)
		if err != nil {
			tb.t.Fatal(err)
		}
		tb.do(screen(width, max(full, 400), 1.5))
	}
	png, err := chromedp.Run(tb.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		tb.t.Fatal(err)
	}
	if err := os.WriteFile(file, png, 0o644); err != nil {
		tb.t.Fatal(err)
	}
}

const hostile = `"><script>window.hacked=1</script><img src=x onerror="window.hacked=1">`

// call makes an action of a command of the browser's protocol.
func call[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

func prefers(scheme string) chromedp.Action[chromedp.Void] {
	return call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
}

// screen is a screen of so many pixels; narrow ones behave as phones do.
func screen(width, height int64, scale float64) chromedp.Action[chromedp.Void] {
	return call(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: scale, Mobile: width < 500})
}

// hide makes the page believe that it went to the background, or came back.
func (tb *tab) hide(hidden bool) {
	tb.t.Helper()
	tb.js(fmt.Sprintf(`(Object.defineProperty(document, 'hidden', { value: %t, configurable: true }), document.dispatchEvent(new Event('visibilitychange')))`, hidden))
}

func describe(e *runtime.ExceptionDetails) string {
	if e.Exception != nil && e.Exception.Description != "" {
		return e.Exception.Description
	}
	return e.Text
}

// waitFor polls a condition on real processes.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	deadline := time.After(time.Minute)
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("never true")
		case <-again.C:
		}
	}
}

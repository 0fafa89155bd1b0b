package e2e

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/demo"
	"github.com/muster-ci/muster/githubsim/workflow"
)

// page is one page of a real Chromium on the stand's dashboard.
type page struct {
	t    *testing.T
	ctx  context.Context //nolint:containedctx // chromedp's handle of one tab
	base string

	mu       sync.Mutex
	problems []string
}

// browse starts a real Chromium. At the end the test fails on any error of a page
// and on any request that left loopback.
func browse(t *testing.T, base string) *page {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		const why = "no Chromium in PATH: apt-get install chromium"
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
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
	ctx, closeBrowser := chromedp.NewContext(alloc)
	t.Cleanup(closeBrowser)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	p := &page{t: t, ctx: ctx, base: base}
	if err := chromedp.Listen(ctx, p.listen); err != nil {
		t.Fatal(err)
	}
	p.do(call(network.Enable, network.EnableParams{}), call(cdplog.Enable, cdp.Empty{}), screen(1360, 900, 1))
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, s := range p.problems {
			t.Errorf("browser: %s", s)
		}
	})
	return p
}

func (p *page) listen(ev any) {
	problem := func(format string, args ...any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.problems = append(p.problems, fmt.Sprintf(format, args...))
	}
	switch e := ev.(type) {
	case *runtime.EventExceptionThrown:
		problem("exception: %s", e.ExceptionDetails.Text)
	case *cdplog.EventEntryAdded:
		if e.Entry.Level == cdplog.EntryLevelError {
			problem("log: %s (%s)", e.Entry.Text, e.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err != nil || u.Scheme != "data" && u.Hostname() != "127.0.0.1" {
			problem("request left loopback: %s", e.Request.URL)
		}
	}
}

// call makes an action of a command of the browser's protocol.
func call[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

func screen(width, height int64, scale float64) chromedp.Action[chromedp.Void] {
	return call(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: scale})
}

func prefers(scheme string) chromedp.Action[chromedp.Void] {
	return call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
}

func (p *page) do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.t.Fatal(err)
	}
}

// open goes to a page and waits until it follows changes.
func (p *page) open(path string) {
	p.t.Helper()
	p.do(chromedp.Navigate(p.base + path))
	p.until(`document.readyState === 'complete' && document.getElementById('live')?.dataset.state === 'on'`)
}

// js evaluates an expression as text.
func (p *page) js(expr string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	out, err := chromedp.Run(ctx, chromedp.Evaluate[string]("String("+expr+")"))
	if err != nil {
		p.t.Fatalf("%s: %v", expr, err)
	}
	return out
}

// click finds what is to be clicked and clicks it in one go: a page that follows changes may
// have put another in its place in between.
func (p *page) click(css string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`(found => found && (found.click(), true))(document.querySelector(%q))`, css))
}

// until waits for an expression to become true.
func (p *page) until(expr string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
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
			p.t.Fatalf("never true: %s (at %s)", expr, p.js("location.href + ' ' + document.querySelector('main')?.innerText"))
		case <-again.C:
		}
	}
}

// The main job as a person sees it in the dashboard of the real control plane.
func TestDashboard(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{MaxRunners: 1, Sim: githubsim.Config{Seed: 41}})
	s.Serve(t)
	p := browse(t, s.URL)

	// A job runs until it has been seen to.
	held := func() (id int64, release func()) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "seen")
		id, err := s.Sim.InjectJob(githubsim.JobOptions{Repo: Repo, Labels: Labels, Steps: []workflow.Step{{Name: "Work", Run: "until [ -e '" + file + "' ]; do sleep 0.1; done"}}})
		if err != nil {
			t.Fatal(err)
		}
		return id, func() {
			if err := os.WriteFile(file, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.open("/jobs")
	p.js(`window.same = true`)
	first, endFirst := held()
	row := func(id int64, state string) {
		t.Helper()
		p.until(fmt.Sprintf(`document.getElementById('job-%d-1')?.innerText.toLowerCase().includes('%s')`, id, state))
	}
	row(first, "running")
	second, endSecond := held() // waits: the pool takes one at a time
	row(second, "queued")
	p.click(fmt.Sprintf(`#job-%d-1 a.row`, second))
	p.until(`document.querySelector('main').innerText.includes('is at its limit: 1 of 1 runners live')`)
	p.open("/jobs")
	p.js(`window.same = true`)
	endFirst()
	row(first, "succeeded")
	row(second, "running")
	endSecond()
	row(second, "succeeded")
	if got := p.js(`window.same`); got != "true" {
		t.Errorf("the page was loaded again: %s", got)
	}

	// A finished job's page tells all of it.
	p.open(fmt.Sprintf("/jobs/%d/1", first))
	p.until(`document.getElementById('r-facts').innerText.includes('Billed')`)
	line := p.js(`document.getElementById('r-timeline').innerText`)
	for _, want := range []string{"webhook"} {
		p.until(fmt.Sprintf(`document.getElementById('r-timeline').innerText.toLowerCase().includes(%q)`, want))
	}
	t.Logf("timeline:\n%s", line)
	p.until(`document.getElementById('r-timeline').querySelectorAll('li').length >= 10`)
	p.until(`document.getElementById('r-steps').innerText.includes('Work')`)
	p.until(`document.getElementById('r-log').innerText.includes('Listening for Jobs')`)
	p.click(`#log a.button`)
	p.until(`document.getElementById('log').innerText.includes('sleep 0.1')`)

	// Disable the pool: a job waits and says why; enable it: the job runs.
	p.open("/pools/linux")
	p.click(`details.confirm:has(button[value=disable]) summary`)
	p.click(`button[value=disable]`)
	p.until(`document.getElementById('r-head')?.innerText.includes('disabled')`)
	third := s.Inject(t, 1, 0)[0]
	p.open("/jobs?state=queued")
	row(third, "queued")
	p.open(fmt.Sprintf("/jobs/%d/1", third))
	p.until(`document.querySelector('ol.causes')?.innerText.includes('pool linux is disabled')`)
	p.open("/pools/linux")
	p.click(`button[value=enable]`)
	p.until(`document.getElementById('r-head')?.innerText.includes('enabled')`)
	p.open("/jobs")
	row(third, "succeeded")

	// Deliveries say by which sense they came, and how soon they were acted on.
	p.open("/deliveries")
	p.until(`document.querySelectorAll('#r-deliveries tbody tr').length >= 9`)
	if text := p.js(`document.querySelector('#r-deliveries tbody').innerText`); len(text) == 0 {
		t.Error("no deliveries are shown")
	}
	p.until(`/webhook[\s\S]*\d+(\.\d+)?\s?(ms|s|µs)/i.test(document.querySelector('#r-deliveries tbody tr').innerText)`)
	truth, receipts := s.calm(t, 30*time.Second)
	once(t, truth, receipts, "success")
}

// Pictures for the documentation, of real data: MUSTER_SCREENSHOTS is the folder.
func TestScreenshots(t *testing.T) {
	dir := os.Getenv("MUSTER_SCREENSHOTS")
	if dir == "" {
		return // made on request, into an absolute path
	}
	s := stand(t, Options{MaxRunners: 8, Sim: githubsim.Config{Seed: 1}, World: demo.Setup, Settings: "track_unmatched: true\n" + quick, Pool: "no_job_timeout: 8s"})
	s.Serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := demo.Script(ctx, s.Sim, nil); err != nil {
		t.Fatal(err)
	}
	jobs := s.Sim.Truth().Jobs
	shown := jobs[0]
	for _, j := range jobs {
		if j.Executions == 1 && j.Conclusion == "success" && j.CompletedAt.Sub(j.StartedAt) > shown.CompletedAt.Sub(shown.StartedAt) {
			shown = j
		}
	}
	eventually(t, 30*time.Second, func() (bool, string) {
		return len(s.Machines(t)) == 0, fmt.Sprint(s.Machines(t))
	})
	p := browse(t, s.URL)
	for _, shot := range []struct{ name, path, scheme string }{
		{"overview-light", "/", "light"}, {"overview-dark", "/", "dark"}, {"jobs", "/jobs", "light"},
		{"job", fmt.Sprintf("/jobs/%d/%d", shown.ID, shown.Attempt), "light"}, {"pool", "/pools/linux", "light"}, {"usage", "/usage", "light"},
	} {
		p.do(prefers(shot.scheme), screen(1360, 900, 1.5))
		p.open(shot.path)
		height, err := strconv.ParseInt(p.js(`Math.ceil(document.querySelector('main').getBoundingClientRect().bottom)`), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		p.do(screen(1360, max(height, 400), 1.5))
		png, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, shot.name+".png"), png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

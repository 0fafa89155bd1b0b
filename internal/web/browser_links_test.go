package web_test

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/muster-ci/muster"
)

func TestBrowserTraceLinks(t *testing.T) {
	browser := startBrowser(t)

	// The page asks for what has changed, the operator chooses a step, and then the answer
	// comes: it is of the page before, and must not be shown.
	t.Run("ARefreshDoesNotUndoAClick", func(t *testing.T) {
		f := newFake()
		at := incidentPath(f)
		tb := openTab(t, browser, config(f))
		tb.open(at + "/timeline")
		tb.settled()
		tb.js(`(() => {
			const real = window.fetch;
			window.hold = true; window.held = []; window.answered = 0;
			window.fetch = async (url, options) => {
				const answer = await real(url, options);
				if (window.hold) await new Promise((go) => window.held.push(go));
				window.answered++;
				return answer;
			};
		})()`)
		id := f.tr.detections[0].Trace
		f.change(muster.Change{Kind: "trace", ID: id.String()}, func() { f.tr.views[id].Steps[0].Name = "Set up the job" })
		tb.until(`window.held.length === 1`)
		tb.js(`window.hold = false`)
		tb.do(chromedp.Click(chromedp.CSS(`#step-6 a.row`)))
		tb.until(`location.search === '?step=6' && document.querySelectorAll('#r-timeline tr.this').length === 1`)
		tb.js(`(new MutationObserver(() => { window.undone ||= !document.querySelector('#r-timeline tr.this') }).observe(document.querySelector('main'), { childList: true, subtree: true }), 0)`)
		tb.js(`window.held[0]()`)
		tb.until(`window.answered >= 3`) // the page asks again, for what it shows now
		tb.until(`document.getElementById('r-timeline').textContent.includes('Set up the job') && document.querySelectorAll('#r-timeline tr.this').length === 1`)
		if got := tb.js(`window.undone`); got == "true" {
			t.Error("what was chosen was undone by an answer for what had been left")
		}
		if got := tb.js(`document.querySelectorAll('[aria-busy]').length`); got != "0" {
			t.Errorf("%s parts still wait for something", got)
		}
	})

	// From a step to its processes, to one of them, and back.
	t.Run("FromAStepToAProcessAndBack", func(t *testing.T) {
		f := newFake()
		tb := openTab(t, browser, config(f))
		tb.open(incidentPath(f) + "/timeline")
		tb.settled()
		tb.do(chromedp.Click(chromedp.CSS(`#step-6 a[href*="/execution?step=6"]`)))
		tb.until(`document.querySelector('#r-tree h2')?.textContent.includes('tj-actions')`)
		tb.settled()
		tb.do(chromedp.Click(chromedp.Search(`//ul[contains(@class, "tree")]//a[contains(@class, "row")][.="python3"]`)))
		tb.until(`document.querySelector('#r-process .path b')?.textContent === 'python3'`)
		tb.js(`history.back()`)
		tb.until(`location.search === '?step=6' && document.querySelector('#r-tree h2')?.textContent.includes('tj-actions')`)
		tb.settled()
		// What does not fit into its line is told where the pointer rests.
		tb.do(screen(700, 900, 1))
		tb.js(`(window.cut = [...document.querySelectorAll('#r-tree .what')].find((e) => e.scrollWidth > e.clientWidth + 1 && !e.querySelector('[title]:not(.count)')), window.cut?.dispatchEvent(new PointerEvent('pointerover', { bubbles: true })))`)
		if got := tb.js(`window.cut?.title`); !strings.Contains(got, " ") {
			t.Errorf("a line that is cut says %q", got)
		}
	})

	t.Run("FlameSearch", func(t *testing.T) {
		f := newFake()
		tb := openTab(t, browser, config(f))
		tb.open(incidentPath(f) + "/execution?view=flame")
		tb.settled()
		tb.press("/")
		tb.until(`document.activeElement.name === 'q'`)
		tb.do(chromedp.SendKeys(chromedp.CSS(`input[name=q]`), "npm\r"))
		tb.until(`location.search.includes('q=npm') && document.querySelector('#r-flame .sub')?.textContent.includes('“npm” is in ')`)
		tb.settled()
		colour := `new Set([...document.querySelectorAll('svg.flame a')].filter((a) => a.querySelector('title').textContent.startsWith('npm') === %s && !a.classList.contains('f-step')).map((a) => getComputedStyle(a.querySelector('rect')).fill))`
		if lit, dim := tb.js(`[...`+strings.Replace(colour, "%s", "true", 1)+`]`), tb.js(`[...`+strings.Replace(colour, "%s", "false", 1)+`]`); lit == dim || strings.Contains(dim, lit) {
			t.Errorf("what was found is %s, and the others are %s", lit, dim)
		}
	})

	// On a phone nothing of what matters is cut off.
	t.Run("OnAPhone", func(t *testing.T) {
		f := newFake()
		at := incidentPath(f)
		tb := openTab(t, browser, config(f))
		tb.do(screen(390, 850, 1))
		for page, what := range map[string]string{
			at + "/timeline?step=6": `#r-events td.grow`, at + "/network": `#r-connections td.grow a.row`, at + "/files": `#r-secrets td.grow a.row`, "/findings": `#r-detections td.grow a.row`,
		} {
			tb.open(page)
			tb.settled()
			if got := tb.js(`[...document.querySelectorAll('` + what + `')].filter((e) => e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().width < 200 || e.getBoundingClientRect().right > 390).map((e) => e.textContent + ' ' + e.getBoundingClientRect().width).join()`); got != "" {
				t.Errorf("%s: cut off or squeezed: %s", page, got)
			}
			if got := tb.js(`document.querySelectorAll('` + what + `').length > 0`); got != "true" {
				t.Errorf("%s has no %s", page, what)
			}
		}
	})
}

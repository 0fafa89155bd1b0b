package web_test

import (
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/muster-ci/muster"
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
			{"overview", at + "/overview", "light", 1360, 0}, {"timeline", at + "/timeline?step=6", "light", 1360, 0}, {"network", at + "/network", "light", 1360, 0}, {"execution", at + "/execution", "light", 1360, 0},
			{"flame", at + "/execution?view=flame", "dark", 1360, 0}, {"files", at + "/files", "light", 1360, 0}, {"query", at + "/query", "light", 1360, 0}, {"diff", at + "/diff", "dark", 1360, 0}, {"performance", at + "/performance", "light", 1360, 0},
			{"overview-phone", at + "/overview", "dark", 400, 0}, {"execution-phone", at + "/execution", "light", 400, 0}, {"findings", "/findings", "light", 1360, 0}, {"egress", "/pools/linux-small/egress", "light", 1360, 0}, {"pool", "/pools/linux-small", "light", 1360, 0}, {"answer", at + "/query?q=" + url.QueryEscape(`type == "process_exec" && path.matches("/(curl|python3)$")`) + "&scope=workspace", "light", 1360, 0}, {"wrong", at + "/query?q=" + url.QueryEscape(`type == "dns_query" && hostnam.endsWith(".xyz")`), "dark", 1360, 0},
			{"runner", "/runners/" + f.tr.detections[0].Trace.String(), "light", 1360, 0}, {"process", at + "/execution?of=46", "light", 1360, 0}, {"job", at[:len(at)-len("/trace")], "light", 1360, 0},
		} {
			tb.shoot(filepath.Join(dir, "trace-"+s.name+".png"), s.path, s.scheme, s.width, s.height)
		}
	})
}

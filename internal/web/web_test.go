package web_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/muster-ci/muster/internal/web"
)

// get asks h for a page as a browser would.
func get(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
	r.Header.Set("Accept", "text/html")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestPages(t *testing.T) {
	f := newFake()
	h := web.New(config(f))
	var running, done, queued string
	_ = running
	for _, j := range f.jobs {
		p := "/jobs/" + j.Key.String()
		switch j.State {
		case "in_progress":
			running = p
		case "completed":
			done = p
		case "queued":
			queued = p
		}
	}
	runner := ""
	for id, r := range f.runners {
		if r.State == "active" {
			runner = "/runners/" + string(id)
		}
	}
	for _, p := range []string{"/", "/jobs", running, done, done + "?log=github", queued, "/runners", runner, "/pools", "/pools/linux-small", "/pools/windows-trial", "/deliveries", "/deliveries/" + f.deliveries[3].GUID, "/usage", "/usage?by=day&period=30d", "/findings", "/about"} {
		code, body := get(t, h, p)
		if code != 200 {
			t.Errorf("%s: %d %s", p, code, body)
		}
		if strings.Contains(body, "ZgotmplZ") || strings.Contains(body, "%!") {
			t.Errorf("%s: unsafe or misformatted value in page", p)
		}
	}
}

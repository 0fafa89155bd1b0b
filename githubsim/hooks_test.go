package githubsim_test

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

var uuid1 = regexp.MustCompile(`\A[0-9a-f]{8}-[0-9a-f]{4}-1[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\z`)

// Headers and both signatures.
func TestDeliveryHeaders(t *testing.T) {
	for _, contentType := range []string{"json", "form"} {
		t.Run(contentType, func(t *testing.T) {
			w := newWorldWith(t, githubsim.Config{}, githubsim.AppOptions{ContentType: contentType})
			id := w.inject("x")
			one := w.hook.find(t, 1, is("workflow_job", "queued"))[0]
			for name, want := range map[string]string{
				"X-GitHub-Event": "workflow_job", "Accept": "*/*", "X-GitHub-Hook-Installation-Target-ID": fmt.Sprint(w.app.ID),
				"X-GitHub-Hook-Installation-Target-Type": "integration", "X-GitHub-Enterprise-Host": "",
				"Content-Type": map[string]string{"json": "application/json", "form": "application/x-www-form-urlencoded"}[contentType],
			} {
				if got := one.header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			if !uuid1.MatchString(one.guid) || !strings.HasPrefix(one.header.Get("User-Agent"), "GitHub-Hookshot/") || one.header.Get("X-GitHub-Hook-ID") == "" {
				t.Errorf("%v", one.header)
			}
			for name, want := range map[string]string{
				"X-Hub-Signature-256": "sha256=" + hmacHex(sha256New, "It's a Secret to Everybody", one.body),
				"X-Hub-Signature":     "sha1=" + hmacHex(sha1New, "It's a Secret to Everybody", one.body),
			} {
				if got := one.header.Get(name); got != want {
					t.Errorf("%s: %s, want %s", name, got, want)
				}
			}
			if got := int64(one.json["workflow_job"].(map[string]any)["id"].(float64)); got != id {
				t.Errorf("job %d, want %d", got, id)
			}
		})
	}
}

func TestPingAndInstallationEvents(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	ping := w.hook.find(t, 1, is("ping", ""))[0]
	if ping.json["zen"] == "" || ping.json["hook"].(map[string]any)["type"] != "App" || strings.Contains(string(ping.body), "It's a Secret") {
		t.Errorf("%s", ping.body)
	}
	made := w.hook.find(t, 1, is("installation", "created"))[0]
	if repos := made.json["repositories"].([]any); len(repos) != 1 {
		t.Errorf("repositories %v", repos)
	}
	if err := w.CreateRepository("acme/new", githubsim.RepositoryOptions{}); err != nil {
		t.Fatal(err)
	}
	added := w.hook.find(t, 1, is("installation_repositories", "added"))[0]
	if n := len(added.json["repositories_added"].([]any)); n != 1 {
		t.Errorf("%s", added.body)
	}
	if err := w.SelectRepositories(w.inst, repo); err != nil {
		t.Fatal(err)
	}
	w.hook.find(t, 1, is("installation_repositories", "removed"))
	for _, act := range []struct {
		action string
		do     func() error
	}{
		{"suspend", func() error { return w.Suspend(w.inst, true) }},
		{"unsuspend", func() error { return w.Suspend(w.inst, false) }},
		{"new_permissions_accepted", func() error { return w.AcceptPermissions(w.inst, map[string]string{"actions": "read"}) }},
		{"deleted", func() error { return w.Uninstall(w.inst) }},
	} {
		if err := act.do(); err != nil {
			t.Fatal(err)
		}
		w.hook.find(t, 1, is("installation", act.action))
	}
	// Nobody is told about a repository whose installation is gone.
	w.inject("x")
	if got := w.Truth().Deliveries.Events; got != len(w.hook.find(t, got, func(received) bool { return true })) {
		t.Errorf("%d events", got)
	}
}

// What a receiver does wrong is in the log; nothing is sent again by itself.
func TestFailedDeliveries(t *testing.T) {
	w := newWorld(t, githubsim.Config{HookTimeout: 500 * time.Millisecond})
	w.until("ping and installation", func(t githubsim.Truth) bool { return t.Deliveries.Attempts == 2 })
	type logged struct {
		ID         int64
		GUID       string
		Status     string
		StatusCode int `json:"status_code"`
		Event      string
		Redelivery bool
	}
	last := func(n int) logged {
		t.Helper()
		w.until("a logged delivery", func(t githubsim.Truth) bool { return t.Deliveries.Attempts >= n })
		var list []logged
		w.must(200, w.rest("GET", "/app/hook/deliveries?per_page=1", w.jwt(nil), nil), &list)
		return list[0]
	}
	hang := make(chan struct{})
	for _, tt := range []struct {
		name   string
		handle func(http.ResponseWriter, *http.Request) bool
		status string
		code   int
	}{
		{"ClientError", func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(404); return true }, "Invalid HTTP Response: 404", 404},
		{"Redirect", func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "/else", http.StatusFound)
			return true
		}, "Invalid HTTP Response: 302", 302},
		{"BrokenConnection", func(w http.ResponseWriter, _ *http.Request) bool {
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				c.Close()
			}
			return true
		}, "failed to connect", 0},
		{"TooSlow", func(_ http.ResponseWriter, r *http.Request) bool {
			select {
			case <-r.Context().Done():
			case <-hang:
			}
			return true
		}, "timed out", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.hook.mu.Lock()
			w.hook.handle = tt.handle
			w.hook.mu.Unlock()
			before := w.Truth().Deliveries.Attempts
			if err := w.Suspend(w.inst, false); err != nil {
				t.Fatal(err)
			}
			if d := last(before + 1); d.Status != tt.status || d.StatusCode != tt.code {
				t.Errorf("%+v", d)
			}
		})
	}
	close(hang)
	// The filter goes by status code.
	var list []logged
	w.must(200, w.rest("GET", "/app/hook/deliveries?status=failure", w.jwt(nil), nil), &list)
	if len(list) != 1 || list[0].StatusCode != 404 {
		t.Errorf("failures %+v", list)
	}
	w.must(422, w.rest("GET", "/app/hook/deliveries?status=odd", w.jwt(nil), nil), nil)
	w.must(422, w.rest("GET", "/app/hook/deliveries?cursor=odd", w.jwt(nil), nil), nil)
	w.must(404, w.rest("GET", "/app/hook/deliveries/1", w.jwt(nil), nil), nil)
	w.must(404, w.rest("POST", "/app/hook/deliveries/1/attempts", w.jwt(nil), nil), nil)
	var detail struct {
		Request  struct{ Headers, Payload map[string]any }
		Response struct{ Headers map[string]any }
	}
	w.must(200, w.rest("GET", fmt.Sprintf("/app/hook/deliveries/%d", list[0].ID), w.jwt(nil), nil), &detail)
	if detail.Request.Payload["action"] != "unsuspend" || detail.Request.Headers["X-GitHub-Delivery"] == nil {
		t.Errorf("%+v", detail)
	}
	if n := w.Truth().Deliveries.Redelivered; n != 0 {
		t.Errorf("%d deliveries were sent again", n)
	}
}

func TestHookConfig(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	var got map[string]any
	w.must(200, w.rest("GET", "/app/hook/config", w.jwt(nil), nil), &got)
	if got["secret"] != "********" || got["content_type"] != "json" || got["insecure_ssl"] != "0" || got["url"] != w.hook.url {
		t.Errorf("%v", got)
	}
	w.must(200, w.rest("PATCH", "/app/hook/config", w.jwt(nil), map[string]any{"content_type": "form", "insecure_ssl": 1}), &got)
	if got["content_type"] != "form" || got["insecure_ssl"] != "1" {
		t.Errorf("%v", got)
	}
	w.must(422, w.rest("PATCH", "/app/hook/config", w.jwt(nil), map[string]any{"content_type": "xml"}), nil)
}

// Each fault of deliveries does what it says, and is booked.
func TestDeliveryFaults(t *testing.T) {
	fresh := func(t *testing.T) *world {
		w := newWorld(t, githubsim.Config{Seed: 7, HookConcurrency: 1})
		w.until("ping and installation", func(t githubsim.Truth) bool { return t.Deliveries.Attempts == 2 })
		return w
	}
	t.Run("Dropped", func(t *testing.T) {
		w := fresh(t)
		w.Faults().DropDeliveries(1)
		id := w.inject("x")
		w.until("logged", func(t githubsim.Truth) bool { return t.Faults["dropped delivery"] >= 3 })
		if got := w.hook.actions(id); len(got) != 0 {
			t.Errorf("arrived: %q", got)
		}
		var list []struct {
			ID    int64
			GUID  string
			Code  int `json:"status_code"`
			Event string
		}
		w.Faults().Off()
		w.must(200, w.rest("GET", "/app/hook/deliveries", w.jwt(nil), nil), &list)
		i := slices.IndexFunc(list, func(d struct {
			ID    int64
			GUID  string
			Code  int `json:"status_code"`
			Event string
		}) bool {
			return d.Code == 0 && d.Event == "workflow_job"
		})
		w.must(202, w.rest("POST", fmt.Sprintf("/app/hook/deliveries/%d/attempts", list[i].ID), w.jwt(nil), nil), nil)
		if one := w.hook.find(t, 1, is("workflow_job", "queued"))[0]; one.guid != list[i].GUID {
			t.Errorf("GUID %s, want %s", one.guid, list[i].GUID)
		}
	})
	t.Run("Lost", func(t *testing.T) {
		w := fresh(t)
		before := w.Truth().Deliveries
		w.Faults().LoseDeliveries(1)
		w.inject("x")
		w.Faults().Off()
		after := w.Truth().Deliveries
		if after.Lost == 0 || after.Attempts != before.Attempts {
			t.Errorf("%+v", after)
		}
	})
	t.Run("CompletedLost", func(t *testing.T) {
		w := fresh(t)
		w.Faults().LoseCompleted(1)
		id := w.inject("x")
		w.runOne(w.token(), "r", message.Success, "x")
		w.untilJob(id, "completed")
		if err := w.Suspend(w.inst, false); err != nil { // a marker behind everything
			t.Fatal(err)
		}
		w.hook.find(t, 1, is("installation", "unsuspend"))
		if got := w.hook.actions(id); !slices.Equal(got, []string{"queued", "in_progress"}) {
			t.Errorf("%q", got)
		}
	})
	t.Run("Duplicated", func(t *testing.T) {
		w := fresh(t)
		w.Faults().DuplicateDeliveries(1)
		w.inject("x")
		two := w.hook.find(t, 2, is("workflow_job", "queued"))
		if two[0].guid != two[1].guid {
			t.Error("the GUIDs differ")
		}
	})
	t.Run("OtherGUID", func(t *testing.T) {
		w := fresh(t)
		w.Faults().DuplicateOtherGUID(1)
		w.inject("x")
		two := w.hook.find(t, 2, is("workflow_job", "queued"))
		if two[0].guid == two[1].guid || string(two[0].body) != string(two[1].body) {
			t.Error("want the same body under two GUIDs")
		}
	})
	t.Run("Reordered", func(t *testing.T) {
		w := fresh(t)
		w.Faults().ReorderDeliveries(0.5, 100*time.Millisecond)
		var want []int64
		for range 20 {
			want = append(want, w.inject("x"))
		}
		var got []int64
		for _, r := range w.hook.find(t, 20, is("workflow_job", "queued")) {
			got = append(got, int64(r.json["workflow_job"].(map[string]any)["id"].(float64)))
		}
		if slices.Equal(got, want) {
			t.Error("everything arrived in order")
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%v, want %v in some order", got, want)
		}
	})
	t.Run("Throttled", func(t *testing.T) {
		w := fresh(t)
		w.Faults().ThrottleDeliveries(50)
		began := time.Now()
		for range 5 {
			w.inject("x")
		}
		w.hook.find(t, 5, is("workflow_job", "queued"))
		if took := time.Since(began); took < 4*20*time.Millisecond {
			t.Errorf("5 jobs took %s", took)
		}
		w.until("logged", func(t githubsim.Truth) bool { return t.Deliveries.Attempts >= 15 })
		a := w.rest("GET", "/app/hook/deliveries", w.jwt(nil), nil)
		if !strings.Contains(string(a.body), `"throttled_at":"2`) {
			t.Error("nothing is marked throttled")
		}
	})
	t.Run("Noise", func(t *testing.T) {
		w := fresh(t)
		w.Faults().CheckRunNoise(1)
		id := w.inject("x")
		w.runOne(w.token(), "r", message.Success, "x")
		for _, r := range w.hook.find(t, 2, is("workflow_job", "completed")) {
			j := r.json["workflow_job"].(map[string]any)
			if int64(j["id"].(float64)) != id && (j["runner_id"] != nil || len(j["labels"].([]any)) != 0 || j["conclusion"] != "success") {
				t.Errorf("%v", j)
			}
		}
	})
}

// At most so many deliveries of an App are under way.
func TestHookConcurrency(t *testing.T) {
	w := newWorld(t, githubsim.Config{HookConcurrency: 3})
	w.until("ping and installation", func(t githubsim.Truth) bool { return t.Deliveries.Attempts == 2 })
	var mu sync.Mutex
	now, most, enough := 0, 0, make(chan struct{})
	w.hook.mu.Lock()
	w.hook.handle = func(http.ResponseWriter, *http.Request) bool {
		mu.Lock()
		now++
		most = max(most, now)
		if now == 3 {
			select {
			case <-enough:
			default:
				close(enough)
			}
		}
		mu.Unlock()
		<-enough
		mu.Lock()
		now--
		mu.Unlock()
		return false
	}
	w.hook.mu.Unlock()
	for range 20 {
		w.inject("x")
	}
	w.hook.find(t, 20, is("workflow_job", "queued"))
	if most != 3 {
		t.Errorf("%d deliveries at once", most)
	}
}

// The log forgets what is too old and what is too much.
func TestDeliveryRetention(t *testing.T) {
	w := newWorld(t, githubsim.Config{HookLog: 5})
	for range 20 {
		w.inject("x")
	}
	w.until("all logged", func(t githubsim.Truth) bool { return t.Deliveries.Attempts >= 60 })
	var list []any
	w.must(200, w.rest("GET", "/app/hook/deliveries?per_page=100", w.jwt(nil), nil), &list)
	if len(list) > 6 {
		t.Errorf("%d deliveries are kept", len(list))
	}
}

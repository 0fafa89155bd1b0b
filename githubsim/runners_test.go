package githubsim_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"crypto/sha256"
	"encoding/hex"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// Every error of generate-jitconfig that production has seen.
func TestJITErrors(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	tok := w.token()
	w.jit(tok, "taken", "linux")
	many := make([]string, 101)
	for i := range many {
		many[i] = fmt.Sprint("l", i)
	}
	type body = map[string]any
	for _, tt := range []struct {
		name   string
		body   body
		status int
		text   string
	}{
		{"NoGroup", body{"name": "a", "labels": []string{"x"}}, 422, "Invalid input: object is missing required key: runner_group_id."},
		{"NoName", body{"runner_group_id": 1, "labels": []string{"x"}}, 422, "Invalid input: object is missing required key: name."},
		{"NoLabels", body{"name": "a", "runner_group_id": 1}, 422, "Invalid input: object is missing required key: labels."},
		{"EmptyLabels", body{"name": "a", "runner_group_id": 1, "labels": []string{}}, 422, ""},
		{"TooManyLabels", body{"name": "a", "runner_group_id": 1, "labels": many}, 422, ""},
		{"LongName", body{"name": strings.Repeat("n", 65), "runner_group_id": 1, "labels": []string{"x"}}, 422, ""},
		{"HostedGroup", body{"name": "a", "runner_group_id": 2, "labels": []string{"x"}}, 403, "Resource not accessible by integration"},
		{"NoSuchGroup", body{"name": "a", "runner_group_id": 99999, "labels": []string{"x"}}, 404, "Not Found"},
		{"NameTaken", body{"name": "TAKEN", "runner_group_id": 1, "labels": []string{"x"}}, 409, "Already exists - A runner with the name TAKEN already exists."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := w.rest("POST", "/orgs/acme/actions/runners/generate-jitconfig", tok, tt.body)
			if a.StatusCode != tt.status || tt.text != "" && a.message() != tt.text {
				t.Errorf("%s %q, want %d %q", a.Status, a.message(), tt.status, tt.text)
			}
		})
	}
	// The same name in another scope is free.
	w.must(201, w.rest("POST", "/repos/acme/web/actions/runners/generate-jitconfig", tok, body{"name": "taken", "runner_group_id": 1, "labels": []string{"x"}}), nil)
	if n := len(w.Truth().Runners); n != 2 {
		t.Errorf("%d runners are registered", n)
	}
}

// A lost answer leaves a runner behind, and the name taken.
func TestLostJITAnswer(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	tok := w.token()
	body := map[string]any{"name": "once", "runner_group_id": 1, "labels": []string{"x"}}
	w.Faults().LoseJITAnswers(1)
	w.must(502, w.rest("POST", "/orgs/acme/actions/runners/generate-jitconfig", tok, body), nil)
	w.Faults().Off()
	w.must(409, w.rest("POST", "/orgs/acme/actions/runners/generate-jitconfig", tok, body), nil)
	var list struct {
		Runners []struct {
			ID     int64
			Status string
			Busy   bool
		}
	}
	w.must(200, w.rest("GET", "/orgs/acme/actions/runners?name=once", tok, nil), &list)
	if len(list.Runners) != 1 || list.Runners[0].Status != "offline" || list.Runners[0].Busy {
		t.Fatalf("%+v", list)
	}
	at := fmt.Sprintf("/orgs/acme/actions/runners/%d", list.Runners[0].ID)
	w.must(204, w.rest("DELETE", at, tok, nil), nil)
	w.must(404, w.rest("DELETE", at, tok, nil), nil)
	w.must(201, w.rest("POST", "/orgs/acme/actions/runners/generate-jitconfig", tok, body), nil)
}

func TestJITBlob(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	got := w.jit(w.token(), "blob", "self-hosted", "gpu")
	b := w.bot(got.Config) // checks that all three files are there and the key is real
	if b.settings.AgentName != "blob" || b.settings.AgentID != got.Runner.ID || !b.settings.Ephemeral || !b.settings.UseV2Flow || b.settings.GitHubURL != "" ||
		b.settings.WorkFolder != "_work" || !strings.HasSuffix(b.settings.ServerURLV2, "/") || b.key.N.BitLen() != 2048 || b.cred.Scheme != "OAuth" {
		t.Errorf("%+v %+v", b.settings, b.cred)
	}
	raw, _ := base64.StdEncoding.DecodeString(got.Config)
	var files map[string]string
	if err := json.Unmarshal(raw, &files); err != nil || len(files) != 3 {
		t.Errorf("%d files, %v", len(files), err)
	}
	if l := got.Runner.Labels; l[0].Type != "read-only" || l[1].Type != "custom" || len(l) != 2 {
		t.Errorf("labels %+v", l)
	}
}

func TestLabels(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	tok := w.token()
	at := fmt.Sprintf("/orgs/acme/actions/runners/%d/labels", w.jit(tok, "l", "self-hosted", "one").Runner.ID)
	names := func(status int, method, path string, body any) []string {
		t.Helper()
		var out struct {
			Count  int `json:"total_count"`
			Labels []struct{ Name string }
		}
		a := w.rest(method, path, tok, body)
		w.must(status, a, nil)
		if status != 200 {
			return nil
		}
		w.must(200, a, &out)
		var all []string
		for _, l := range out.Labels {
			all = append(all, l.Name)
		}
		if len(all) != out.Count {
			t.Errorf("total_count %d of %d", out.Count, len(all))
		}
		return all
	}
	set := func(l ...string) any { return map[string]any{"labels": l} }
	for _, tt := range []struct {
		method, path string
		body         any
		status       int
		want         []string
	}{
		{"GET", at, nil, 200, []string{"self-hosted", "one"}},
		{"POST", at, set("two", "ONE"), 200, []string{"self-hosted", "one", "two"}},
		{"POST", at, map[string]any{"labels": []string{}}, 422, nil},
		{"DELETE", at + "/TWO", nil, 200, []string{"self-hosted", "one"}},
		{"DELETE", at + "/two", nil, 404, nil},
		{"DELETE", at + "/self-hosted", nil, 422, nil},
		{"PUT", at, set("three"), 200, []string{"self-hosted", "three"}},
		{"PUT", at, map[string]any{"labels": []string{}}, 200, []string{"self-hosted"}},
		{"POST", at, set("four"), 200, []string{"self-hosted", "four"}},
		{"DELETE", at, nil, 200, []string{"self-hosted"}},
		{"POST", at, map[string]any{}, 422, nil},
	} {
		if got := names(tt.status, tt.method, tt.path, tt.body); !slices.Equal(got, tt.want) {
			t.Errorf("%s %s: %q, want %q", tt.method, tt.path, got, tt.want)
		}
	}
}

var nextLink = regexp.MustCompile(`<([^>]+)>; rel="next"`)

// Clients follow Link; it is absent when there is one page only.
func TestPagination(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	tok := w.token()
	if a := w.rest("GET", "/orgs/acme/actions/runners", tok, nil); a.Header.Get("Link") != "" {
		t.Errorf("Link on one page: %s", a.Header.Get("Link"))
	}
	for i := range 7 {
		w.jit(tok, fmt.Sprint("r", i), "x")
	}
	next, seen := w.url+"/api/v3/orgs/acme/actions/runners?per_page=3", 0
	for next != "" {
		a := w.rest("GET", next, tok, nil)
		var page struct {
			Count   int `json:"total_count"`
			Runners []struct{ Name string }
		}
		w.must(200, a, &page)
		seen += len(page.Runners)
		if page.Count != 7 {
			t.Errorf("total_count %d", page.Count)
		}
		next = ""
		if m := nextLink.FindStringSubmatch(a.Header.Get("Link")); m != nil {
			next = m[1]
		}
	}
	if seen != 7 {
		t.Errorf("%d runners on all pages", seen)
	}
	link := w.rest("GET", "/orgs/acme/actions/runners?per_page=3&page=2", tok, nil).Header.Get("Link")
	for _, rel := range []string{"prev", "next", "last", "first"} {
		if !strings.Contains(link, `rel="`+rel+`"`) {
			t.Errorf("no %s in %s", rel, link)
		}
	}
}

func TestGroups(t *testing.T) {
	w := newWorld(t, githubsim.Config{DefaultGroupPrivate: true})
	if err := w.CreateRepository("acme/open", githubsim.RepositoryOptions{}); err != nil {
		t.Fatal(err)
	}
	tok := w.token()
	base := "/orgs/acme/actions/runner-groups"
	var g struct {
		ID         int64
		Name       string
		Visibility string
		Public     bool `json:"allows_public_repositories"`
		Default    bool
	}
	w.must(201, w.rest("POST", base, tok, map[string]any{"name": "gpu", "visibility": "selected"}), &g)
	if g.ID <= 2 || g.Default || g.Public || g.Visibility != "selected" {
		t.Errorf("%+v", g)
	}
	w.must(422, w.rest("POST", base, tok, map[string]any{}), nil)
	w.must(409, w.rest("POST", base, tok, map[string]any{"name": "GPU"}), nil)
	w.must(422, w.rest("DELETE", base+"/1", tok, nil), nil)
	w.must(404, w.rest("GET", base+"/77", tok, nil), nil)
	at := fmt.Sprintf("%s/%d", base, g.ID)

	var r jitAnswer
	w.must(201, w.rest("POST", "/orgs/acme/actions/runners/generate-jitconfig", tok, map[string]any{"name": "g1", "runner_group_id": g.ID, "labels": []string{"gpu"}}), &r)
	w.bot(r.Config).connect()
	private, public := w.inject("gpu"), func() int64 {
		id, err := w.InjectJob(githubsim.JobOptions{Repo: "acme/open", Labels: []string{"gpu"}})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}()
	busy := func() bool { return w.Truth().Runners[0].Busy }
	if busy() {
		t.Error("a selected group without repositories serves jobs")
	}
	var open struct{ ID int64 }
	w.must(200, w.rest("GET", "/repos/acme/open", tok, nil), &open)
	w.must(204, w.rest("PUT", fmt.Sprintf("%s/repositories/%d", at, open.ID), tok, nil), nil)
	if busy() {
		t.Error("a group that is closed to public repositories serves one")
	}
	var visible struct {
		Groups []struct{ ID int64 } `json:"runner_groups"`
	}
	w.must(200, w.rest("GET", base+"?visible_to_repository=open", tok, nil), &visible)
	if len(visible.Groups) != 0 {
		t.Errorf("visible to a public repository: %+v", visible)
	}
	w.must(200, w.rest("PATCH", at, tok, map[string]any{"allows_public_repositories": true}), nil)
	if got := w.Truth().Runners[0]; got.Job != public {
		t.Errorf("the runner has job %d, want %d", got.Job, public)
	}
	if j := w.job(private); j.Status != "queued" {
		t.Errorf("the private repository's job: %+v", j)
	}
	var runners struct {
		Count int `json:"total_count"`
	}
	w.must(200, w.rest("GET", at+"/runners", tok, nil), &runners)
	if runners.Count != 1 {
		t.Errorf("%d runners in the group", runners.Count)
	}
	w.must(204, w.rest("DELETE", fmt.Sprintf("%s/runners/%d", at, r.Runner.ID), tok, nil), nil)
	w.must(200, w.rest("GET", at+"/runners", tok, nil), &runners)
	if runners.Count != 0 {
		t.Errorf("%d runners in the group after a removal", runners.Count)
	}
	w.must(204, w.rest("DELETE", at, tok, nil), nil)
}

func TestRegistrationTokens(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	tok := w.token()
	for _, kind := range []string{"registration-token", "remove-token"} {
		var got struct {
			Token   string
			Expires string `json:"expires_at"`
		}
		w.must(201, w.rest("POST", "/repos/acme/web/actions/runners/"+kind, tok, nil), &got)
		at, err := time.Parse(time.RFC3339, got.Expires)
		if len(got.Token) != 29 || err != nil || !strings.Contains(got.Expires, ".") || time.Until(at).Round(time.Minute) != time.Hour {
			t.Errorf("%s: %+v %v", kind, got, err)
		}
	}
}

// The downloads route points to an archive that this server serves itself.
func TestDownloads(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho hello\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, githubsim.Config{RunnerProgram: func() (string, error) { return program, nil }})
	var got []struct {
		OS, Architecture, Filename string
		URL                        string `json:"download_url"`
		Sum                        string `json:"sha256_checksum"`
	}
	w.must(200, w.rest("GET", "/orgs/acme/actions/runners/downloads", w.token(), nil), &got)
	if len(got) != 1 || !strings.HasPrefix(got[0].Filename, "actions-runner-") {
		t.Fatalf("%+v", got)
	}
	a := w.rest("GET", got[0].URL, "", nil)
	sum := sha256.Sum256(a.body)
	if a.StatusCode != 200 || hex.EncodeToString(sum[:]) != got[0].Sum || got[0].OS != "linux" {
		t.Errorf("%s, sum %x, %+v", a.Status, sum, got)
	}
}

// The broker knows a deleted registration.
func TestDeletedRegistration(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	tok := w.token()
	r := w.jit(tok, "gone", "x")
	b := w.bot(r.Config)
	b.connect()
	polled := make(chan answer, 1)
	go func() { polled <- b.poll() }()
	w.until("polling", func(t githubsim.Truth) bool { return t.Runners[0].Connected })
	w.must(204, w.rest("DELETE", fmt.Sprintf("/orgs/acme/actions/runners/%d", r.Runner.ID), tok, nil), nil)
	a := <-polled
	var e message.ServiceError
	w.must(403, a, &e)
	if e.ErrorKind != message.KindRunnerNotFound {
		t.Errorf("%s", a.body)
	}
	if e := b.login(); e != "invalid_client" {
		t.Errorf("login of a deleted runner: %q", e)
	}
}

func TestSessionConflict(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	r := w.jit(w.token(), "twin", "x")
	first, second := w.bot(r.Config), w.bot(r.Config)
	w.must(200, first.connect(), nil)
	w.must(409, second.connect(), nil)
	w.must(204, w.rest("DELETE", first.settings.ServerURLV2+"session?sessionId="+first.session, first.access, nil), nil)
	w.must(200, second.connect(), nil)
}

func TestEmptyLongPoll(t *testing.T) {
	w := newWorld(t, githubsim.Config{LongPoll: 10 * time.Millisecond})
	b := w.bot(w.jit(w.token(), "idle", "x").Config)
	b.connect()
	if a := b.poll(); a.StatusCode != http.StatusAccepted || len(a.body) != 0 {
		t.Errorf("%s %s", a.Status, a.body)
	}
}

// The manifest flow as a browser and a client go through it.
func TestManifest(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	manifest := fmt.Sprintf(`{"name":"Made Here","url":"https://example.com","redirect_url":"http://127.0.0.1:1/back","hook_attributes":{"url":%q},
		"default_permissions":{"organization_self_hosted_runners":"write"},"default_events":["workflow_job"]}`, w.hook.url)
	form := url.Values{"manifest": {manifest}}.Encode()
	page := w.rest("POST", "/organizations/acme/settings/apps/new?state=abc", "", form, "Content-Type", "application/x-www-form-urlencoded")
	if page.StatusCode != 200 || !strings.Contains(string(page.body), "Create GitHub App") {
		t.Fatalf("%s %s", page.Status, page.body)
	}
	confirm := url.Values{"manifest": {manifest}, "state": {"abc"}, "owner": {"acme"}, "name": {"Made Here"}}.Encode()
	back := w.rest("POST", "/_pages/apps", "", confirm, "Content-Type", "application/x-www-form-urlencoded")
	to, err := url.Parse(back.Header.Get("Location"))
	if err != nil || back.StatusCode != 302 || to.Query().Get("state") != "abc" || len(to.Query().Get("code")) != 40 {
		t.Fatalf("%s %s", back.Status, to)
	}
	var made struct {
		ID       int64
		Slug     string
		ClientID string `json:"client_id"`
		Secret   string `json:"client_secret"`
		Hook     string `json:"webhook_secret"`
		PEM      string
	}
	at := "/app-manifests/" + to.Query().Get("code") + "/conversions"
	w.must(201, w.rest("POST", at, "", nil), &made)
	if made.Slug != "made-here" || made.Hook == "" || made.Secret == "" || !strings.HasPrefix(made.PEM, "-----BEGIN RSA PRIVATE KEY-----") {
		t.Errorf("%+v", made)
	}
	w.must(404, w.rest("POST", at, "", nil), nil)
	w.hook.find(t, 2, is("ping", ""))
	install := w.rest("POST", "/apps/made-here/installations", "", url.Values{"account": {"acme"}}.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	if install.StatusCode != 200 {
		t.Errorf("%s %s", install.Status, install.body)
	}
	w.hook.find(t, 2, is("installation", "created"))
}

func TestChecksAndContents(t *testing.T) {
	w := newWorld(t, githubsim.Config{})
	files, err := githubsim.Files(map[string]string{"docs/readme.md": "hello"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.CreateRepository("acme/files", githubsim.RepositoryOptions{Files: files}); err != nil {
		t.Fatal(err)
	}
	tok := w.token()
	var file struct {
		Type, Encoding, Content, SHA string
	}
	w.must(200, w.rest("GET", "/repos/acme/files/contents/docs/readme.md", tok, nil), &file)
	text, _ := base64.StdEncoding.DecodeString(strings.TrimSpace(file.Content))
	if file.Type != "file" || string(text) != "hello" || file.SHA != "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0" {
		t.Errorf("%+v", file)
	}
	var dir []struct{ Name, Type string }
	w.must(200, w.rest("GET", "/repos/acme/files/contents/docs", tok, nil), &dir)
	if len(dir) != 1 || dir[0].Name != "readme.md" {
		t.Errorf("%+v", dir)
	}
	w.must(404, w.rest("GET", "/repos/acme/files/contents/nothing", tok, nil), nil)

	var check struct {
		ID                 int64
		Status, Conclusion string
	}
	w.must(201, w.rest("POST", "/repos/acme/files/check-runs", tok, map[string]any{"name": "muster", "head_sha": "abc", "status": "in_progress"}), &check)
	at := fmt.Sprintf("/repos/acme/files/check-runs/%d", check.ID)
	w.must(422, w.rest("PATCH", at, tok, map[string]any{"status": "completed"}), nil)
	w.must(200, w.rest("PATCH", at, tok, map[string]any{"conclusion": "neutral", "output": map[string]any{"title": "t", "summary": "s"}}), &check)
	if check.Status != "completed" || check.Conclusion != "neutral" {
		t.Errorf("%+v", check)
	}
	w.must(200, w.rest("GET", at, tok, nil), nil)
	w.must(422, w.rest("POST", "/repos/acme/files/check-runs", tok, map[string]any{"name": "no commit"}), nil)
}

func TestLogsAreShortLived(t *testing.T) {
	w := newWorld(t, githubsim.Config{LogLinkLifetime: time.Nanosecond})
	tok, id := w.token(), w.inject("x")
	at := fmt.Sprintf("/repos/acme/web/actions/jobs/%d/logs", id)
	w.must(404, w.rest("GET", at, tok, nil), nil)
	b := w.bot(w.jit(tok, "logger", "x").Config)
	b.connect()
	job := b.take()
	for _, offset := range []int64{0, 0, 6} { // a repeated request is harmless
		line := []string{"first\n", "second\n"}[min(offset, 1)]
		w.must(200, b.call("log", message.LogRequest{PlanID: job.PlanID, JobID: job.JobID, Offset: offset, Data: line}), nil)
	}
	b.complete(job, message.Success)
	link := w.rest("GET", at, tok, nil)
	w.must(302, link, nil)
	if a := w.rest("GET", link.Header.Get("Location"), "", nil); a.StatusCode != 403 {
		t.Errorf("expired link: %s", a.Status)
	}
	if text, err := w.JobLog(id); err != nil || string(text) != "first\nsecond\n" {
		t.Errorf("%q %v", text, err)
	}
}

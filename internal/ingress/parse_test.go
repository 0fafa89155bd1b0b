package ingress_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/ingress"
)

func parse(t *testing.T, event, body string) (ingress.Event, error) {
	t.Helper()
	return ingress.Parse(muster.Delivery{GUID: "g", App: "main", Event: event, Body: []byte(body), Sense: muster.SenseWebhook, TraceID: "t"})
}

func TestParseMinimalJob(t *testing.T) { // S3-27 S3-28 S4-4
	event, err := parse(t, "workflow_job", minimal)
	if err != nil {
		t.Fatal(err)
	}
	want := &muster.JobEvent{
		Action: "queued", Delivery: "g", App: "main", Sense: muster.SenseWebhook, TraceID: "t",
		Repository: "org/example-repo", ID: 123456789, RunID: 987654321, Status: muster.JobQueued,
		Labels: muster.Labels{"self-hosted", "linux", "x64"},
	}
	if diff := cmp.Diff(want, event.Job); diff != "" {
		t.Error(diff)
	}
	if key := event.Job.Key(); key.Attempt != 1 { // run_attempt is missing
		t.Errorf("key %v", key)
	}
}

func TestParseJobBehindAnEnvironment(t *testing.T) { // 4-5
	event, err := parse(t, "workflow_job", `{"action":"queued",
		"workflow_job":{"id":12877621891,"run_id":4747967848,"workflow_name":"Env Test","head_branch":"main","run_attempt":2,
			"head_sha":"16c5286e8d9a0629956a28938386b36608707a71","html_url":"https://github.com/O/R/actions/runs/4747967848/jobs/8433573014",
			"status":"waiting","conclusion":null,"created_at":"2023-04-19T21:12:12Z","started_at":"2023-04-19T21:12:12Z","completed_at":null,
			"name":"test","steps":[],"labels":["self-hosted","k8s"],"runner_id":null,"runner_name":null},
		"deployment":{"id":1},"repository":{"id":5,"full_name":"O/R","private":true},"installation":{"id":23154469}}`)
	if err != nil {
		t.Fatal(err)
	}
	created := time.Date(2023, 4, 19, 21, 12, 12, 0, time.UTC)
	want := &muster.JobEvent{
		Action: "queued", Delivery: "g", App: "main", Sense: muster.SenseWebhook, TraceID: "t", InstallationID: 23154469,
		Repository: "O/R", RepositoryID: 5, ID: 12877621891, RunID: 4747967848, Attempt: 2, Workflow: "Env Test", Name: "test",
		HeadBranch: "main", HeadSHA: "16c5286e8d9a0629956a28938386b36608707a71",
		URL:    "https://github.com/O/R/actions/runs/4747967848/jobs/8433573014",
		Status: muster.JobWaiting, Labels: muster.Labels{"self-hosted", "k8s"}, HasDeployment: true, CreatedAt: created, StartedAt: created,
	}
	if diff := cmp.Diff(want, event.Job); diff != "" {
		t.Error(diff)
	}
	job, _, err := muster.Job{}.Apply(*event.Job)
	if err != nil || job.State != muster.JobWaiting {
		t.Errorf("the job is %s, %v; it must not get a runner yet", job.State, err)
	}
}

func TestParseOddJobs(t *testing.T) {
	body := func(job string) string {
		return `{"action":"completed","workflow_job":` + job + `,"repository":{"full_name":"o/r","private":false}}`
	}
	for name, c := range map[string]struct {
		body  string
		check func(t *testing.T, e ingress.Event, err error)
	}{
		"CheckRunIsNoJob": { // 4-3: it must not count as a completion
			body(`{"id":1,"conclusion":"success","runner_id":null,"labels":[]}`),
			func(t *testing.T, e ingress.Event, err error) {
				if err != nil || e.Job != nil || !strings.HasPrefix(e.Note, "ignored: ") {
					t.Errorf("%v, %v", e, err)
				}
			},
		},
		"CancelledBeforeStart": { // 4-6: runner_id is 0 or null, the names are empty
			body(`{"id":1,"conclusion":"cancelled","runner_id":0,"runner_name":"","steps":[],"labels":["x"],"started_at":"2026-01-01T00:00:00Z"}`),
			func(t *testing.T, e ingress.Event, err error) {
				if err != nil || e.Job == nil || e.Job.RunnerID != 0 || e.Job.Conclusion != "cancelled" || !e.Job.PublicRepo {
					t.Errorf("%v, %v", e, err)
				}
				if job, _, _ := (muster.Job{}).Apply(*e.Job); job.RanOnRunner() {
					t.Error("it counts as a job that ran")
				}
			},
		},
		"EpochTimes": {
			body(`{"id":1,"created_at":1767225600,"started_at":"1767225600","completed_at":"2026-01-01T00:00:00.123Z","labels":["x"]}`),
			func(t *testing.T, e ingress.Event, err error) {
				if err != nil || !e.Job.CreatedAt.Equal(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) || !e.Job.StartedAt.IsZero() || e.Job.CompletedAt.Nanosecond() != 123e6 {
					t.Errorf("%+v, %v", e.Job, err)
				}
			},
		},
		"WrongTypesCountAsAbsent": {
			body(`{"id":"77","run_id":{},"run_attempt":"x","name":["n"],"labels":["a",7,null,"b"],"runner_id":"","steps":[{"number":"1","name":null,"started_at":false}],"created_at":{}}`),
			func(t *testing.T, e ingress.Event, err error) {
				if err != nil || e.Job.ID != 77 || e.Job.RunID != 0 || !reflect.DeepEqual(e.Job.Labels, muster.Labels{"a", "b"}) || len(e.Job.Steps) != 1 {
					t.Errorf("%+v, %v", e.Job, err)
				}
			},
		},
		"NUL": {
			body(`{"id":1,"name":"a\u0000b","labels":["x\u0000"]}`),
			func(t *testing.T, e ingress.Event, err error) {
				if err != nil || e.Job.Name != "ab" || e.Job.Labels[0] != "x" {
					t.Errorf("%+v, %v", e.Job, err)
				}
			},
		},
		"UnknownAction": {
			`{"action":"requested","workflow_job":{"id":1},"repository":{"full_name":"o/r"}}`,
			func(t *testing.T, e ingress.Event, err error) {
				if err != nil || e.Job != nil || e.Note != "ignored: unknown action" {
					t.Errorf("%v, %v", e, err)
				}
			},
		},
		"WithoutID":            {body(`{"name":"x"}`), invalid},
		"NegativeID":           {body(`{"id":-5}`), invalid},
		"JobIsNoObject":        {body(`[1]`), invalid},
		"WithoutRepository":    {`{"action":"queued","workflow_job":{"id":1}}`, invalid},
		"RepositoryClimbs":     {`{"action":"queued","workflow_job":{"id":1},"repository":{"full_name":"../x"}}`, invalid},
		"RepositoryWithSpaces": {`{"action":"queued","workflow_job":{"id":1},"repository":{"full_name":"o/r\n"}}`, invalid},
		"NotJSON":              {`{"action":`, invalid},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := parse(t, "workflow_job", c.body)
			c.check(t, e, err)
		})
	}
}

func invalid(t *testing.T, e ingress.Event, err error) {
	if muster.CodeOf(err) != muster.CodeInvalid || e.Job != nil {
		t.Errorf("%v, %v", e, err)
	}
}

func TestParseTrustsNoTenant(t *testing.T) { // 4-40
	event, err := parse(t, "workflow_job", `{"action":"queued","workspace":"victim","workspace_id":"victim",
		"workflow_job":{"id":1,"workspace":"victim","labels":["x"]},"repository":{"full_name":"o/r"},"installation":{"id":7,"workspace":"victim"}}`)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(event.Job)
	if strings.Contains(string(text), "victim") {
		t.Errorf("the payload's workspace got into the event: %s", text)
	}
	if _, has := reflect.TypeFor[muster.JobEvent]().FieldByName("Workspace"); has {
		t.Error("a JobEvent can carry a workspace; it must come from the installation")
	}
}

func TestParseInstallation(t *testing.T) { // S4-3
	for name, c := range map[string]struct {
		event, body string
		want        *muster.InstallationEvent
	}{
		"Created": {"installation", `{"action":"created","installation":{"id":2,"account":{"login":"octo-org","type":"Organization"},"created_at":1557933565},
			"repositories":[{"full_name":"octo-org/a"},{"full_name":"octo-org/b"}]}`,
			&muster.InstallationEvent{Action: "created", ID: 2, Account: "octo-org", AccountType: "Organization", Added: []string{"octo-org/a", "octo-org/b"}}},
		"Deleted": {"installation", `{"action":"deleted","installation":{"id":2,"account":{"login":"o","type":"User"}},"repositories":[{"full_name":"o/a"}]}`,
			&muster.InstallationEvent{Action: "deleted", ID: 2, Account: "o", AccountType: "User", Removed: []string{"o/a"}}},
		"Suspended": {"installation", `{"action":"suspend","installation":{"id":2,"account":{"login":"o","type":"User"}}}`,
			&muster.InstallationEvent{Action: "suspend", ID: 2, Account: "o", AccountType: "User"}},
		"OfAnEnterprise": {"installation", `{"action":"created","installation":{"id":2,"account":{"slug":"corp"},"target_type":"Enterprise"}}`,
			&muster.InstallationEvent{Action: "created", ID: 2, Account: "corp", AccountType: "Enterprise"}},
		"Repositories": {"installation_repositories", `{"action":"added","installation":{"id":2,"account":{"login":"o","type":"User"}},
			"repositories_added":[{"full_name":"o/a"}],"repositories_removed":[{"full_name":"o/z"}]}`,
			&muster.InstallationEvent{Action: "added", ID: 2, Account: "o", AccountType: "User", Added: []string{"o/a"}, Removed: []string{"o/z"}}},
		"ActionOfTheOtherEvent": {"installation", `{"action":"added","installation":{"id":2}}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := parse(t, c.event, c.body)
			if err != nil {
				t.Fatal(err)
			}
			if c.want != nil {
				c.want.Delivery, c.want.App = "g", "main"
			}
			if diff := cmp.Diff(c.want, e.Installation); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := parse(t, "installation", `{"action":"created"}`); muster.CodeOf(err) != muster.CodeInvalid {
		t.Errorf("without an id: %v", err)
	}
}

// Every payload that GitHub has published parses, old shapes included.
func TestParseEveryPublishedExample(t *testing.T) { // S4-2 S4-5 S4-6 4-4
	root, err := os.UserCacheDir()
	if err != nil {
		root = os.TempDir()
	}
	const inside = "node_modules/@octokit/webhooks-examples/api.github.com/index.json"
	files, _ := filepath.Glob(filepath.Join(root, "muster", "npm", "*", inside))
	if len(files) == 0 {
		const reason = "the npm package @octokit/webhooks-examples is not in the cache directory muster/npm"
		if os.Getenv("CI") == "true" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	text, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		t.Fatal(err)
	}
	var events []struct {
		Name     string            `json:"name"`
		Examples []json.RawMessage `json:"examples"`
	}
	if err := json.Unmarshal(text, &events); err != nil {
		t.Fatal(err)
	}
	count, jobs, installations := 0, 0, 0
	for _, event := range events {
		for i, example := range event.Examples {
			count++
			box := newInbox()
			w, _ := newWebhook(t, box)
			if rec := serve(w, deliver(string(example), header("X-GitHub-Event", event.Name))); rec.Code != 200 {
				t.Errorf("%s %d: answer %d %s", event.Name, i, rec.Code, rec.Body)
				continue
			}
			e, err := ingress.Parse(box.all()[0])
			switch {
			case err != nil:
				t.Errorf("%s %d: %v", event.Name, i, err)
			case e.Job != nil:
				jobs++
				if _, _, err := (muster.Job{}).Apply(*e.Job); err != nil {
					t.Errorf("%s %d: %v", event.Name, i, err)
				}
			case e.Installation != nil:
				installations++
			}
		}
	}
	if count < 329 || jobs < 8 || installations < 10 {
		t.Errorf("%d examples, %d jobs, %d installations: fewer than published in version 7.6.1", count, jobs, installations)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("workflow_job", "application/json", []byte(minimal))
	f.Add("workflow_job", "application/x-www-form-urlencoded", []byte("payload=%7B%22action%22%3A%22queued%22%7D"))
	f.Add("installation", "", []byte(`{"action":"created","installation":{"id":2,"account":{"login":"o"}}}`))
	f.Add("installation_repositories", "text/plain;;", []byte(`{"action":"added","repositories_added":[{}]}`))
	f.Add("push", "", []byte(`[`))
	f.Fuzz(func(t *testing.T, event, kind string, body []byte) {
		e, err := ingress.Parse(muster.Delivery{Event: event, Headers: map[string]string{"Content-Type": kind}, Body: body})
		if err != nil {
			if muster.CodeOf(err) != muster.CodeInvalid {
				t.Errorf("an error of class %s: %v", muster.CodeOf(err), err)
			}
			return
		}
		if (e.Job == nil && e.Installation == nil) != (e.Note != "") {
			t.Errorf("neither an event nor a note, or both: %+v", e)
		}
		if e.Job != nil {
			if e.Job.ID <= 0 || e.Job.Repository == "" || strings.Contains(e.Job.Name, "\x00") {
				t.Errorf("unusable event %+v", e.Job)
			}
			if _, _, err := (muster.Job{}).Apply(*e.Job); err != nil {
				t.Errorf("the domain refuses what Parse accepted: %v", err)
			}
		}
		_ = e.String()
	})
}

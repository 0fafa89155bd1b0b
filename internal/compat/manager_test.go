package compat_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/compat"
)

const shared = "shared-0123456789abcdef0123456789"

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// machines answers as it is told and remembers what it was asked.
type machines struct {
	calls  []string
	answer muster.MachineAnswer
	err    error
}

func (m *machines) StartMachine(_ context.Context, workspace string, id muster.MachineID) (muster.MachineAnswer, error) {
	m.calls = append(m.calls, fmt.Sprintf("start %s %s", workspace, id))
	return m.answer, m.err
}

func (m *machines) StopMachine(_ context.Context, workspace string, id muster.MachineID, generation int64) (muster.MachineAnswer, error) {
	m.calls = append(m.calls, fmt.Sprintf("stop %s %s %d", workspace, id, generation))
	return m.answer, m.err
}

var (
	one   = []compat.Entry{{Repo: "owner/repo-a", Labels: []string{"self-hosted"}, Name: "vm-a", Zone: "zone-1"}, {Repo: "owner/repo-b", Labels: []string{"self-hosted", "gpu"}, Name: "vm-a", Zone: "zone-1"}}
	three = append(one[:2:2], compat.Entry{Repo: "owner/repo-c", Name: "vm-b", Zone: "zone-1"}, compat.Entry{Repo: "owner/repo-d", Name: "vm-b", Zone: "zone-2"})
)

func manager(t *testing.T, change func(*compat.Config)) (*compat.Manager, *machines, *bytes.Buffer) {
	t.Helper()
	ms, log := &machines{answer: muster.MachineAnswer{Status: "starting", Operation: "operation-1"}}, &bytes.Buffer{}
	cfg := compat.Config{
		Entries: one, InactiveMinutes: 3, Provider: "gce", Workspace: "default", Secrets: compat.Secrets{Shared: shared}, Machines: ms,
		Webhook: http.NotFoundHandler(), Now: func() time.Time { return at }, Logger: slog.New(slog.NewTextHandler(log, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	m, err := compat.NewManager(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m, ms, log
}

func do(h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// S3-18 S3-19 S3-22 S3-24 S3-35 C13 4-34: who may start and stop machines.
func TestControlSecret(t *testing.T) {
	split := compat.Secrets{Shared: shared, SharedPrevious: "old-shared", Control: "control", ControlPrevious: "old-control", Webhook: "hook", Task: "task"}
	for name, c := range map[string]struct {
		secrets compat.Secrets
		header  []string
		want    int
		detail  string
	}{
		"Shared":          {compat.Secrets{Shared: shared}, []string{"X-Runner-Secret", shared}, 200, ""},
		"LowerCaseHeader": {compat.Secrets{Shared: shared}, []string{"x-runner-secret", shared}, 200, ""},
		"Derived":         {compat.Secrets{Shared: shared}, []string{"X-Runner-Secret", compat.Derive(shared, "control").Reveal()}, 200, ""},
		"Rotating":        {compat.Secrets{Shared: "new", SharedPrevious: shared}, []string{"X-Runner-Secret", shared}, 200, ""},
		"Missing":         {compat.Secrets{Shared: shared}, nil, 401, "Missing X-Runner-Secret header"},
		"Empty":           {compat.Secrets{Shared: shared}, []string{"X-Runner-Secret", ""}, 401, "Missing X-Runner-Secret header"},
		"Wrong":           {compat.Secrets{Shared: shared}, []string{"X-Runner-Secret", "wrong"}, 401, "Invalid secret"},
		"Prefix":          {compat.Secrets{Shared: shared}, []string{"X-Runner-Secret", shared[:8]}, 401, "Invalid secret"},
		"Twice":           {compat.Secrets{Shared: shared}, []string{"X-Runner-Secret", shared, "X-Runner-Secret", shared}, 401, "Invalid secret"},
		"WebhookKey":      {compat.Secrets{Shared: shared}, []string{"X-Runner-Secret", compat.Derive(shared, "webhook").Reveal()}, 401, "Invalid secret"},
		"TaskKey":         {compat.Secrets{Shared: shared}, []string{"X-Runner-Secret", compat.Derive(shared, "task").Reveal()}, 401, "Invalid secret"},
		"Split":           {split, []string{"X-Runner-Secret", "control"}, 200, ""},
		"SplitRotating":   {split, []string{"X-Runner-Secret", "old-control"}, 200, ""},
		"SplitNotShared":  {split, []string{"X-Runner-Secret", shared}, 401, "Invalid secret"},
		"SplitNotWebhook": {split, []string{"X-Runner-Secret", "hook"}, 401, "Invalid secret"},
		"SplitNotTask":    {split, []string{"X-Runner-Secret", "task"}, 401, "Invalid secret"},
	} {
		for _, path := range []string{"/runner/start", "/runner/stop"} {
			m, ms, log := manager(t, func(cfg *compat.Config) { cfg.Secrets = c.secrets })
			w := do(m, "POST", path, "", c.header...)
			if w.Code != c.want || !strings.Contains(w.Body.String(), c.detail) || w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("%s %s: %d %s", name, path, w.Code, w.Body)
			}
			if n := len(ms.calls); c.want == 401 && n != 0 || c.want == 200 && n != 1 {
				t.Errorf("%s %s: %v", name, path, ms.calls)
			}
			for _, s := range []string{shared, "control", "wrong"} { // never logged
				if strings.Contains(log.String(), "="+s) {
					t.Errorf("%s: the log has the secret: %s", name, log)
				}
			}
		}
	}
}

// S3-25 C10 4-33: which machine a call is about.
func TestControlBody(t *testing.T) {
	for name, c := range map[string]struct {
		entries []compat.Entry
		body    string
		want    int
		says    string
	}{
		"NoBodyOneMachine":   {one, "", 200, "gce/zone-1/vm-a"},
		"Spaces":             {one, " \n", 200, "gce/zone-1/vm-a"},
		"EmptyObject":        {one, "{}", 200, "gce/zone-1/vm-a"},
		"NoBodySeveral":      {three, "", 400, "vm-a (zone-1), vm-b (zone-1), vm-b (zone-2)"},
		"Named":              {three, `{"vm_instance_name":"vm-b","vm_instance_zone":"zone-2"}`, 200, "gce/zone-2/vm-b"},
		"Extras":             {three, `{"vm_instance_name":"vm-b","vm_instance_zone":"zone-2","reason":"x"}`, 200, "gce/zone-2/vm-b"},
		"NameIsEnough":       {three, `{"vm_instance_name":"vm-a"}`, 200, "gce/zone-1/vm-a"},
		"NameIsNotEnough":    {three, `{"vm_instance_name":"vm-b"}`, 400, "vm-b (zone-1), vm-b (zone-2)"},
		"AnyOtherOfTheCloud": {one, `{"vm_instance_name":"database","vm_instance_zone":"zone-1"}`, 404, "No such VM is configured"},
		"OtherZone":          {one, `{"vm_instance_name":"vm-a","vm_instance_zone":"zone-2"}`, 404, "No such VM is configured"},
		"NotJSON":            {one, `vm-a`, 400, "not a JSON object"},
		"List":               {one, `["vm-a"]`, 400, "not a JSON object"},
		"Huge":               {one, strings.Repeat(" ", 1<<20), 400, "could not be read"},
	} {
		for _, verb := range []string{"start", "stop"} {
			m, ms, _ := manager(t, func(cfg *compat.Config) { cfg.Entries = c.entries })
			w := do(m, "POST", "/runner/"+verb, c.body, "X-Runner-Secret", shared)
			said := w.Body.String() + strings.Join(ms.calls, ",")
			if w.Code != c.want || !strings.Contains(said, c.says) || c.want != 200 && len(ms.calls) != 0 {
				t.Errorf("%s %s: %d %s", name, verb, w.Code, said)
			}
		}
	}
}

// S3-39 S3-40 S3-41 C9: bodies to the byte.
func TestControlAnswers(t *testing.T) {
	for _, c := range []struct {
		answer muster.MachineAnswer
		want   string
	}{
		{muster.MachineAnswer{Status: "starting", Operation: "operation-7"}, `{"status": "starting", "operation": "operation-7"}`},
		{muster.MachineAnswer{Status: "already_running"}, `{"status": "already_running"}`},
		{muster.MachineAnswer{Status: "stopping", Operation: "operation-8"}, `{"status": "stopping", "operation": "operation-8"}`},
		{muster.MachineAnswer{Status: "already_stopped"}, `{"status": "already_stopped"}`},
		{muster.MachineAnswer{Status: "busy", Message: `a "b", c: d`}, `{"status": "busy", "message": "a \"b\", c: d"}`},
	} {
		m, ms, _ := manager(t, nil)
		ms.answer = c.answer
		if w := do(m, "POST", "/runner/stop", "", "X-Runner-Secret", shared); w.Code != 200 || w.Body.String() != c.want {
			t.Errorf("%d %s, want %s", w.Code, w.Body, c.want)
		}
	}
}

// 4-37: errors say what class they are of and where to look, and nothing else.
func TestControlErrors(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want int
	}{
		"Internal":    {errors.New("googleapi: token ya29.secret was refused for project my-project"), 500},
		"Unavailable": {&muster.Error{Code: muster.CodeUnavailable, Message: "later", RetryAfter: 3 * time.Second, Err: errors.New("ya29.secret")}, 503},
		"NotFound":    {muster.Errorf(muster.CodeNotFound, "gone"), 404},
		"Conflict":    {muster.Errorf(muster.CodeConflict, "not now"), 409},
	} {
		m, ms, log := manager(t, nil)
		ms.err = c.err
		w := do(m, "POST", "/runner/start", "", "X-Runner-Secret", shared)
		var body struct {
			Detail string
			Trace  string `json:"trace_id"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != c.want || body.Detail == "" || len(body.Trace) != 32 {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		if strings.Contains(w.Body.String(), "ya29") || strings.Contains(w.Body.String(), "my-project") {
			t.Errorf("%s: %s", name, w.Body)
		}
		if !strings.Contains(log.String(), "control call failed") {
			t.Errorf("%s: not logged", name)
		}
		if c.want == 503 && w.Header().Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
}

// S3-6 S3-42: methods and health.
func TestMethods(t *testing.T) {
	m, ms, _ := manager(t, nil)
	for path, allowed := range map[string]string{"/github/webhook": "POST", "/runner/start": "POST", "/runner/stop": "POST", "/health": "GET", "/": "GET"} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
			if method == allowed {
				continue
			}
			w := do(m, method, path, "", "X-Runner-Secret", shared)
			if w.Code != 405 || w.Header().Get("Allow") != allowed || w.Body.String() != `{"detail": "Method Not Allowed"}` {
				t.Errorf("%s %s: %d %s %s", method, path, w.Code, w.Header().Get("Allow"), w.Body)
			}
		}
	}
	if w := do(m, "GET", "/health", ""); w.Code != 200 || w.Body.String() != `{"status": "healthy"}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if len(ms.calls) != 0 {
		t.Error(ms.calls)
	}
}

// S3-43 4-38: the golden body, without a secret unless it is configured.
func TestIndex(t *testing.T) {
	const golden = `{"service": "GitHub Runner Manager", "inactive_minutes": 3, "runner_configs": [` +
		`{"repo": "owner/repo-a", "labels": ["self-hosted"], "vm_instance_name": "vm-a", "vm_instance_zone": "zone-1"}, ` +
		`{"repo": "owner/repo-b", "labels": ["self-hosted", "gpu"], "vm_instance_name": "vm-a", "vm_instance_zone": "zone-1"}]}`
	const hidden = `{"service": "GitHub Runner Manager", "inactive_minutes": 3, "runner_configs": []}`
	m, _, _ := manager(t, nil)
	if w := do(m, "GET", "/", ""); w.Code != 200 || w.Body.String() != golden || strings.Contains(w.Body.String(), shared) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	m, _, _ = manager(t, func(c *compat.Config) { c.HideIndex = true })
	for secret, want := range map[string]string{"": hidden, "wrong": hidden, shared: golden} {
		if w := do(m, "GET", "/", "", "X-Runner-Secret", secret); w.Code != 200 || w.Body.String() != want {
			t.Errorf("%q: %s", secret, w.Body)
		}
	}
}

// S3-21: a refused signature has the manager's words; everything else is handed
// through.
func TestWebhookWords(t *testing.T) {
	for status, want := range map[int]string{401: `{"detail": "Invalid signature"}`, 200: "as it is", 503: "as it is"} {
		m, _, _ := manager(t, func(c *compat.Config) {
			c.Webhook = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil {
					t.Errorf("the response's own powers are hidden: %v", err)
				}
				w.WriteHeader(status)
				_, _ = w.Write([]byte("as it is"))
			})
		})
		srv := httptest.NewServer(m)
		resp, err := http.Post(srv.URL+"/github/webhook", "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != status || string(body) != want {
			t.Errorf("%d %s, %v", resp.StatusCode, body, err)
		}
		_ = resp.Body.Close()
		srv.Close()
	}
}

func TestNewManagerRefuses(t *testing.T) {
	whole := compat.Config{Entries: one, Secrets: compat.Secrets{Shared: shared}, Machines: &machines{}, Webhook: http.NotFoundHandler()}
	for name, change := range map[string]func(*compat.Config){
		"NoSecret":   func(c *compat.Config) { c.Secrets.Shared = "" },
		"NoEntries":  func(c *compat.Config) { c.Entries = nil },
		"NoMachines": func(c *compat.Config) { c.Machines = nil },
		"NoWebhook":  func(c *compat.Config) { c.Webhook = nil },
	} {
		cfg := whole
		change(&cfg)
		if _, err := compat.NewManager(cfg); muster.CodeOf(err) != muster.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := compat.NewManager(whole); err != nil {
		t.Error(err)
	}
}

// queue remembers tasks, and refuses names that it knows.
type queue struct {
	tasks []compat.Task
	err   error
}

func (q *queue) Enqueue(_ context.Context, t compat.Task) error {
	for _, k := range q.tasks {
		if k.Name == t.Name {
			return muster.Errorf(muster.CodeExists, "ALREADY_EXISTS")
		}
	}
	if q.err == nil {
		q.tasks = append(q.tasks, t)
	}
	return q.err
}

// S3-7 S3-23 S3-47 4-23 4-34 C13: the task of a deadline.
func TestTasks(t *testing.T) {
	secrets := compat.Secrets{Shared: shared}
	q := &queue{}
	tasks := compat.NewTasks("https://service-xxx.run.app/", secrets, q)
	vm := muster.MachineID{Provider: "gce", Zone: "zone-1", Name: "vm-a"}
	due := at.Add(3 * time.Minute)
	alarm := muster.MachineAlarm{Machine: vm, Generation: 4, At: due}
	for range 2 { // ALREADY_EXISTS is success
		if err := tasks.Set(t.Context(), alarm); err != nil {
			t.Fatal(err)
		}
	}
	if err := tasks.Set(t.Context(), muster.MachineAlarm{Machine: vm, Generation: 5, At: due}); err != nil || len(q.tasks) != 2 {
		t.Fatalf("%v, %d tasks", err, len(q.tasks))
	}
	task := q.tasks[0]
	if task.URL != "https://service-xxx.run.app/runner/stop" || task.Method != "POST" || !task.At.Equal(due) || task.Header["Content-Type"] != "application/json" ||
		string(task.Body) != `{"vm_instance_name": "vm-a", "vm_instance_zone": "zone-1"}` {
		t.Errorf("%+v %s", task, task.Body)
	}
	if n := task.Name; !strings.HasSuffix(n, "-stop-vm-a") || n[:4] == q.tasks[1].Name[:4] {
		t.Errorf("names %s and %s", n, q.tasks[1].Name)
	}
	token := task.Header["X-Runner-Secret"]
	if token == "" || strings.Contains(token, shared) || token == compat.Derive(shared, "task").Reveal() {
		t.Errorf("token %q", token)
	}

	now := due
	call := func(path, token, body string, change func(*compat.Config)) (int, []string) {
		m, ms, _ := manager(t, func(c *compat.Config) {
			c.Entries = three
			c.Now = func() time.Time { return now }
			if change != nil {
				change(c)
			}
		})
		w := do(m, "POST", path, body, "X-Runner-Secret", token)
		return w.Code, ms.calls
	}
	if code, calls := call("/runner/stop", token, string(task.Body), nil); code != 200 || len(calls) != 1 || calls[0] != "stop default gce/zone-1/vm-a 4" {
		t.Errorf("%d %v", code, calls)
	}
	rotated := func(c *compat.Config) { c.Secrets = compat.Secrets{Shared: "new", SharedPrevious: shared} }
	if code, _ := call("/runner/stop", token, string(task.Body), rotated); code != 200 {
		t.Errorf("while the secret is rotated: %d", code)
	}
	other := func(c *compat.Config) { c.Secrets = compat.Secrets{Shared: "new"} }
	for name, c := range map[string]struct {
		path, token, body string
		change            func(*compat.Config)
		want              int
	}{
		"OtherSecret":  {"/runner/stop", token, string(task.Body), other, 401},
		"OtherMachine": {"/runner/stop", token, `{"vm_instance_name":"vm-b","vm_instance_zone":"zone-1"}`, nil, 403},
		"OtherPath":    {"/runner/start", token, string(task.Body), nil, 401},
		"Forged":       {"/runner/stop", token[:len(token)-2] + "xx", string(task.Body), nil, 401},
		"Cut":          {"/runner/stop", token[:strings.LastIndexByte(token, '.')], string(task.Body), nil, 401},
		"NoClaims":     {"/runner/stop", "task..", string(task.Body), nil, 401},
		"NoBase64":     {"/runner/stop", "task.!.!", string(task.Body), nil, 401},
	} {
		if code, calls := call(c.path, c.token, c.body, c.change); code != c.want || len(calls) != 0 {
			t.Errorf("%s: %d %v", name, code, calls)
		}
	}
	now = due.Add(2 * time.Hour)
	if code, calls := call("/runner/stop", token, string(task.Body), nil); code != 401 || len(calls) != 0 {
		t.Errorf("expired: %d %v", code, calls)
	}
	q.err = errors.New("queue is down")
	if err := tasks.Set(t.Context(), muster.MachineAlarm{Machine: vm, Generation: 9, At: due}); !errors.Is(err, q.err) {
		t.Errorf("%v", err)
	}
	if err := compat.NewTasks("http://x", compat.Secrets{}, q).Set(t.Context(), alarm); muster.CodeOf(err) != muster.CodeInvalid {
		t.Errorf("without a secret: %v", err)
	}
	q.err = nil
	if err := compat.NewTasks("http://x", compat.Secrets{Shared: shared, Task: "own"}, q).Set(t.Context(), muster.MachineAlarm{Machine: vm, Generation: 10, At: due}); err != nil {
		t.Fatal(err)
	}
	now = due
	if code, _ := call("/runner/stop", q.tasks[2].Header["X-Runner-Secret"], string(task.Body), nil); code != 401 {
		t.Errorf("a task's own secret is not the shared one's: %d", code)
	}
}

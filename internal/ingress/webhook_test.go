package ingress_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/ingress"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "It's a Secret to Everybody"

func sign(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	io.WriteString(mac, body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

func newWebhook(t *testing.T, box ingress.Inbox, apps ...ingress.App) (*ingress.Webhook, *seen) {
	t.Helper()
	if apps == nil {
		apps = []ingress.App{{Name: "main", Secrets: []muster.Secret{secret}}}
	}
	observer := &seen{}
	w, err := ingress.NewWebhook(ingress.WebhookConfig{Apps: apps, Inbox: box, Observer: observer})
	if err != nil {
		t.Fatal(err)
	}
	return w, observer
}

// deliver makes a request as GitHub would, and lets edit change it.
func deliver(body string, edit ...func(*http.Request)) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/github/webhook/main", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "GitHub-Hookshot/044aadd")
	r.Header.Set("X-GitHub-Event", "workflow_job")
	r.Header.Set("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
	r.Header.Set("X-GitHub-Hook-ID", "292430182")
	r.Header.Set("X-GitHub-Hook-Installation-Target-ID", "79929171")
	r.Header.Set("X-GitHub-Hook-Installation-Target-Type", "integration")
	r.Header.Set("X-Hub-Signature-256", sign(secret, body))
	for _, e := range edit {
		e(r)
	}
	return r
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) {
		if value == "" {
			r.Header.Del(name)
			return
		}
		r.Header.Set(name, value)
	}
}

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec
}

// minimal is the body G3 of the requirements.
const minimal = `{
  "action": "queued",
  "workflow_job": {
    "id": 123456789, "run_id": 987654321, "status": "queued",
    "labels": ["self-hosted", "linux", "x64"],
    "runner_id": null, "runner_name": null, "runner_group_id": null, "runner_group_name": null
  },
  "repository": {"name": "example-repo", "full_name": "org/example-repo"}
}`

func TestWebhookAcceptsAndKeepsADelivery(t *testing.T) { // S3-26 S3-32 S4-2 S4-8 C29
	box := newInbox()
	nudged := 0
	w, err := ingress.NewWebhook(ingress.WebhookConfig{
		Apps: []ingress.App{{Name: "main", Secrets: []muster.Secret{secret}}}, Inbox: box, Nudge: func() { nudged++ },
	})
	if err != nil {
		t.Fatal(err)
	}
	rec := serve(w, deliver(minimal))
	if rec.Code != 200 || rec.Body.String() != `{"status": "ok"}` {
		t.Fatalf("answer %d %q", rec.Code, rec.Body)
	}
	got := box.all()
	if len(got) != 1 || nudged != 1 {
		t.Fatalf("%d deliveries, %d nudges", len(got), nudged)
	}
	d := got[0]
	if len(d.TraceID) != 32 || d.ReceivedAt.IsZero() {
		t.Errorf("trace id %q, received at %s", d.TraceID, d.ReceivedAt)
	}
	d.TraceID, d.ReceivedAt = "", time.Time{}
	want := muster.Delivery{
		GUID: "72d3162e-cc78-11e3-81ab-4c9367dc0958", App: "main", Event: "workflow_job", Action: "queued",
		Headers: map[string]string{
			"Content-Type":                           "application/json",
			"User-Agent":                             "GitHub-Hookshot/044aadd",
			"X-Github-Delivery":                      "72d3162e-cc78-11e3-81ab-4c9367dc0958",
			"X-Github-Event":                         "workflow_job",
			"X-Github-Hook-Id":                       "292430182",
			"X-Github-Hook-Installation-Target-Id":   "79929171",
			"X-Github-Hook-Installation-Target-Type": "integration",
			"X-Hub-Signature-256":                    sign(secret, minimal),
		},
		Body: []byte(minimal), Sense: muster.SenseWebhook, Seq: 1,
	}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Error(diff)
	}
}

func TestWebhookSignature(t *testing.T) { // S3-20 S3-21 S4-7 S4-59 4-39
	good := sign(secret, minimal)
	mac := hmac.New(sha1.New, []byte(secret))
	io.WriteString(mac, minimal)
	oldKind := hex.EncodeToString(mac.Sum(nil))
	for name, c := range map[string]struct {
		signature string
		want      int
	}{
		"Good":            {good, 200},
		"UpperCaseHex":    {"sha256=" + strings.ToUpper(strings.TrimPrefix(good, "sha256=")), 200},
		"OfSecondSecret":  {sign("older", minimal), 200},
		"Missing":         {"", 401},
		"OfOtherSecret":   {sign("guessed", minimal), 401},
		"OfOtherBody":     {sign(secret, minimal+" "), 401},
		"OfEmptySecret":   {sign("", minimal), 401},
		"SHA1":            {"sha1=" + oldKind, 401},
		"SHA1Relabelled":  {"sha256=" + oldKind, 401},
		"NoPrefix":        {strings.TrimPrefix(good, "sha256="), 401},
		"ExtraEqualsSign": {"sha256==" + strings.TrimPrefix(good, "sha256="), 401},
		"Appended":        {good + "=", 401},
		"TooLong":         {good + "00", 401},
		"TooShort":        {good[:len(good)-2], 401},
		"NotHex":          {good[:len(good)-1] + "g", 401},
		"Empty":           {"sha256=", 401},
	} {
		t.Run(name, func(t *testing.T) {
			box := newInbox()
			w, observer := newWebhook(t, box, ingress.App{Name: "main", Secrets: []muster.Secret{secret, "older"}})
			rec := serve(w, deliver(minimal, header("X-Hub-Signature-256", c.signature)))
			if rec.Code != c.want {
				t.Errorf("answer %d, want %d", rec.Code, c.want)
			}
			if saved := len(box.all()); (saved == 1) != (c.want == 200) {
				t.Errorf("%d deliveries saved", saved)
			}
			if c.want == 401 && !observer.has("workflow_job: unauthorized") {
				t.Errorf("observer saw %v", observer.words)
			}
		})
	}
	t.Run("SentTwice", func(t *testing.T) {
		w, _ := newWebhook(t, newInbox())
		r := deliver(minimal)
		r.Header.Add("X-Hub-Signature-256", good)
		if rec := serve(w, r); rec.Code != 401 {
			t.Errorf("answer %d", rec.Code)
		}
	})
	t.Run("OfficialVector", func(t *testing.T) { // docs.github.com, "Validating webhook deliveries"
		if got := sign(secret, "Hello, World!"); got != "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17" {
			t.Errorf("sign is wrong: %s", got)
		}
	})
}

// A body that must not be read.
type untouchable struct{ t *testing.T }

func (u untouchable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

func TestWebhookVerifiesFirst(t *testing.T) { // S3-21 4-39
	w, _ := newWebhook(t, newInbox())
	t.Run("NothingIsReadWithoutASignature", func(t *testing.T) {
		r := httptest.NewRequest(http.MethodPost, "/github/webhook/main", untouchable{t})
		if rec := serve(w, r); rec.Code != 401 {
			t.Errorf("answer %d", rec.Code)
		}
	})
	t.Run("ForgedNonsenseIsUnauthorizedNotInvalid", func(t *testing.T) {
		r := deliver("no json", header("X-Hub-Signature-256", sign("guessed", "no json")), header("X-GitHub-Event", ""))
		if rec := serve(w, r); rec.Code != 401 {
			t.Errorf("answer %d", rec.Code)
		}
	})
}

func TestWebhookRefuses(t *testing.T) { // S3-6 S3-26
	for name, c := range map[string]struct {
		request *http.Request
		want    int
	}{
		"MissingEvent":  {deliver(minimal, header("X-GitHub-Event", "")), 400},
		"NotJSON":       {deliver("no json"), 400},
		"NotAnObject":   {deliver(`["queued"]`), 400},
		"Empty":         {deliver(""), 400},
		"TwoObjects":    {deliver(minimal + minimal), 400},
		"OtherMethod":   {deliver(minimal, func(r *http.Request) { r.Method = http.MethodGet }), 405},
		"UnknownApp":    {deliver(minimal, func(r *http.Request) { r.URL.Path = "/github/webhook/other" }), 404},
		"NoApp":         {deliver(minimal, func(r *http.Request) { r.URL.Path = "/github/webhook/" }), 404},
		"BelowTheApp":   {deliver(minimal, func(r *http.Request) { r.URL.Path = "/github/webhook/main/x" }), 404},
		"OtherPrefix":   {deliver(minimal, func(r *http.Request) { r.URL.Path = "/github/webhookmain" }), 404},
		"AnnouncedHuge": {deliver(minimal, func(r *http.Request) { r.ContentLength = 25<<20 + 1 }), 413},
	} {
		t.Run(name, func(t *testing.T) {
			box := newInbox()
			w, _ := newWebhook(t, box)
			rec := serve(w, c.request)
			if rec.Code != c.want || len(box.all()) != 0 {
				t.Errorf("answer %d %s, %d saved; want %d", rec.Code, rec.Body, len(box.all()), c.want)
			}
		})
	}
}

func TestWebhookBodySize(t *testing.T) { // 4-39
	// The largest body that GitHub sends, and one byte more, both without a length.
	largest := `{"action":"created","pad":"` + strings.Repeat("a", 25<<20-len(`{"action":"created","pad":""}`)) + `"}`
	for body, want := range map[string]int{largest: 200, largest[:len(largest)-1] + " }": 413} {
		w, _ := newWebhook(t, newInbox())
		r := deliver(body, header("X-GitHub-Event", "push"))
		r.ContentLength = -1
		if rec := serve(w, r); rec.Code != want {
			t.Errorf("%d bytes: answer %d, want %d", len(body), rec.Code, want)
		}
	}
}

func TestWebhookNeverFailsForContent(t *testing.T) { // S3-17 S4-3 S4-5 S4-6
	for _, c := range []struct{ event, body string }{
		{"ping", `{"zen":"Design for failure."}`},
		{"push", `{"ref":"refs/heads/main"}`},
		{"workflow_run", `{"action":"requested"}`},
		{"installation", `{"action":"created","installation":{"id":1}}`},
		{"an_event_of_tomorrow", `{}`},
		{"workflow_job", `{"action":7,"workflow_job":[],"repository":"x"}`},
		{"workflow_job", `{}`},
		{"workflow_job", `{"action":"queued","action":"completed","workflow_job":{"id":"x\u0000"}}`},
	} {
		t.Run(c.event, func(t *testing.T) {
			box := newInbox()
			w, _ := newWebhook(t, box)
			rec := serve(w, deliver(c.body, header("X-GitHub-Event", c.event)))
			if rec.Code != 200 || rec.Body.String() != `{"status": "ok"}` || len(box.all()) != 1 {
				t.Errorf("answer %d %s, %d saved", rec.Code, rec.Body, len(box.all()))
			}
		})
	}
}

func TestWebhookForm(t *testing.T) { // 4-39: the signature is over the raw form
	box := newInbox()
	w, _ := newWebhook(t, box)
	form := url.Values{"payload": {minimal}}.Encode()
	if rec := serve(w, deliver(form, header("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"))); rec.Code != 200 {
		t.Fatalf("answer %d %s", rec.Code, rec.Body)
	}
	d := box.all()[0]
	if string(d.Body) != form || d.Action != "queued" {
		t.Errorf("kept %q, action %q", d.Body, d.Action)
	}
	event, err := ingress.Parse(d)
	if err != nil || event.Job == nil || event.Job.ID != 123456789 {
		t.Errorf("parsed %v, %v", event, err)
	}
}

func TestWebhookDuplicates(t *testing.T) { // 4-4
	box := newInbox()
	w, observer := newWebhook(t, box)
	for range 3 {
		if rec := serve(w, deliver(minimal)); rec.Code != 200 {
			t.Fatalf("answer %d", rec.Code)
		}
	}
	if len(box.all()) != 1 || !observer.has("workflow_job: duplicate") {
		t.Errorf("%d saved, observer saw %v", len(box.all()), observer.words)
	}
	t.Run("WithoutGUID", func(t *testing.T) {
		box := newInbox()
		w, _ := newWebhook(t, box)
		for _, body := range []string{minimal, minimal, minimal + " "} {
			serve(w, deliver(body, header("X-GitHub-Delivery", "")))
		}
		all := box.all()
		if len(all) != 2 || !strings.HasPrefix(all[0].GUID, "body-") {
			t.Errorf("%d saved, first is %q", len(all), all[0].GUID)
		}
	})
	t.Run("OfAnotherAppIsNone", func(t *testing.T) {
		box := newInbox()
		w, _ := newWebhook(t, box, ingress.App{Name: "main", Secrets: []muster.Secret{secret}}, ingress.App{Name: "other", Secrets: []muster.Secret{"else"}})
		serve(w, deliver(minimal))
		rec := serve(w, deliver(minimal, header("X-Hub-Signature-256", sign("else", minimal)), func(r *http.Request) { r.URL.Path = "/github/webhook/other" }))
		if rec.Code != 200 || len(box.all()) != 2 {
			t.Errorf("answer %d, %d saved", rec.Code, len(box.all()))
		}
		// The secret of one App opens nothing of another.
		if rec := serve(w, deliver(minimal, func(r *http.Request) { r.URL.Path = "/github/webhook/other" })); rec.Code != 401 {
			t.Errorf("answer %d with the wrong App's secret", rec.Code)
		}
	})
}

func TestWebhookOfTheOnlyApp(t *testing.T) { // S3-66
	bare := func(r *http.Request) { r.URL.Path = "/github/webhook" }
	one := ingress.App{Name: "main", Secrets: []muster.Secret{secret}}
	w, _ := newWebhook(t, newInbox(), one)
	if rec := serve(w, deliver(minimal, bare)); rec.Code != 200 {
		t.Errorf("answer %d with one App", rec.Code)
	}
	w, _ = newWebhook(t, newInbox(), one, ingress.App{Name: "other", Secrets: []muster.Secret{"else"}})
	if rec := serve(w, deliver(minimal, bare)); rec.Code != 404 {
		t.Errorf("answer %d with two Apps", rec.Code)
	}
}

func TestWebhookCannotSave(t *testing.T) { // 4-7: an honest failure lets GitHub's list show it
	box := newInbox()
	box.fail(errors.New("disk full, password=hunter2"))
	w, observer := newWebhook(t, box)
	rec := serve(w, deliver(minimal))
	if rec.Code != 503 || rec.Header().Get("Retry-After") == "" {
		t.Errorf("answer %d, Retry-After %q", rec.Code, rec.Header().Get("Retry-After"))
	}
	if strings.Contains(rec.Body.String(), "hunter2") { // 4-37
		t.Errorf("the cause is shown: %s", rec.Body)
	}
	if !observer.has("workflow_job: unavailable") {
		t.Errorf("observer saw %v", observer.words)
	}
}

func TestWebhookSavesWhenTheSenderHangsUp(t *testing.T) {
	box := newInbox()
	w, _ := newWebhook(t, box)
	ctx, cancel := context.WithCancel(t.Context())
	r := deliver(minimal).WithContext(ctx)
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader(minimal), readFunc(func([]byte) (int, error) {
		cancel()
		return 0, io.EOF
	})))
	serve(w, r)
	if len(box.all()) != 1 {
		t.Error("the delivery was not saved")
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func TestWebhookMarksRedeliveries(t *testing.T) { // 4-7
	box, observer := newInbox(), &seen{}
	first := time.Now().Add(-90 * time.Second)
	w, err := ingress.NewWebhook(ingress.WebhookConfig{
		Apps: []ingress.App{{Name: "main", Secrets: []muster.Secret{secret}}}, Inbox: box, Observer: observer,
		Asked: func(app, guid string) (time.Time, bool) {
			return first, app == "main" && guid == "72d3162e-cc78-11e3-81ab-4c9367dc0958"
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	serve(w, deliver(minimal))
	serve(w, deliver(minimal)) // a duplicate repairs nothing
	serve(w, deliver(minimal, header("X-GitHub-Delivery", "another")))
	all := box.all()
	if all[0].Sense != muster.SenseRedelivery || all[1].Sense != muster.SenseWebhook {
		t.Errorf("senses %s and %s", all[0].Sense, all[1].Sense)
	}
	if len(observer.after) != 1 || observer.after[0] < 90*time.Second || observer.after[0] > 100*time.Second {
		t.Errorf("repaired after %v", observer.after)
	}
}

func TestWebhookBoundsHeaders(t *testing.T) {
	box := newInbox()
	w, _ := newWebhook(t, box)
	serve(w, deliver(minimal,
		header("X-GitHub-Event", "workflow_job\x00\n"), header("X-GitHub-Delivery", strings.Repeat("g", 5000)), header("Cookie", "a=b")))
	d := box.all()[0]
	if d.Event != "workflow_job" || len(d.GUID) != 512 || d.Headers["Cookie"] != "" {
		t.Errorf("event %q, GUID of %d bytes, headers %v", d.Event, len(d.GUID), d.Headers)
	}
}

func TestNewWebhookRefusesBadConfiguration(t *testing.T) {
	for name, apps := range map[string][]ingress.App{
		"NoSecret":    {{Name: "main"}},
		"EmptySecret": {{Name: "main", Secrets: []muster.Secret{secret, ""}}},
		"NoName":      {{Secrets: []muster.Secret{secret}}},
		"Slash":       {{Name: "a/b", Secrets: []muster.Secret{secret}}},
		"Twice":       {{Name: "a", Secrets: []muster.Secret{secret}}, {Name: "a", Secrets: []muster.Secret{secret}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ingress.NewWebhook(ingress.WebhookConfig{Apps: apps, Inbox: newInbox()})
			if muster.CodeOf(err) != muster.CodeInvalid {
				t.Errorf("error %v", err)
			}
			if err != nil && strings.Contains(fmt.Sprintf("%v %+v", err, apps), secret) {
				t.Errorf("the secret is shown: %v", err)
			}
		})
	}
}

// Over a real connection a sender that stops in the middle of a body does not
// hold a place for ever, and the next request is answered.
func TestWebhookOverHTTP(t *testing.T) {
	box := newInbox()
	w, _ := newWebhook(t, box)
	server := httptest.NewServer(w)
	defer server.Close()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/github/webhook/main", bytes.NewReader([]byte(minimal)))
	req.Header = deliver(minimal).Header
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 || string(body) != `{"status": "ok"}` || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("answer %d %q", resp.StatusCode, body)
	}
}

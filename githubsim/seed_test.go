package githubsim_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// transcript plays one script on a fresh server and writes down what it said.
type transcript struct {
	s     *githubsim.Server
	t     fataler
	outer *testing.T // for helpers that fail on broken data only
	lines []string
	token string
	// of the actions service and of the queue of the one scale set
	service, admin, queue string
}

type fataler interface {
	Fatal(...any)
	Fatalf(string, ...any)
}

var (
	noise = regexp.MustCompile(`"encoded_?[jJ][^"]*":"[^"]*"|"pem":"[^"]*"`)
	epoch = time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
)

func (p *transcript) call(method, path, secret string, body any) []byte {
	var in bytes.Buffer
	if body != nil {
		json.NewEncoder(&in).Encode(body)
	}
	r := httptest.NewRequest(method, path, &in)
	r.Header.Set("User-Agent", "rapid")
	if secret != "" {
		r.Header.Set("Authorization", "Bearer "+secret)
	}
	w := httptest.NewRecorder()
	p.s.Handler().ServeHTTP(w, r)
	p.lines = append(p.lines, fmt.Sprintf("%s %s: %d %s %s", method, path, w.Code, w.Header().Get("Link"), noise.ReplaceAllString(w.Body.String(), "")))
	return w.Body.Bytes()
}

func play(t fataler, outer *testing.T, seed uint64, ops []int) *transcript {
	s := githubsim.New(githubsim.Config{
		Seed: seed, BaseURL: "http://sim.test", Now: func() time.Time { return epoch }, LongPoll: time.Microsecond, Order: githubsim.RandomOrder,
		RunnerKey: key(),
	})
	defer s.Close()
	p := &transcript{s: s, t: t, outer: outer}
	// No webhook URL: the transcript is about decisions, not about the network.
	app, err := s.CreateApp(githubsim.AppOptions{Name: "same", Key: key()})
	if err == nil {
		err = s.CreateRepository(repo, githubsim.RepositoryOptions{Private: true})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err = s.Install(app.ID, org); err != nil {
		t.Fatal(err)
	}
	p.token, err = s.CreateToken("admin", "repo", "admin:org")
	if err != nil {
		t.Fatal(err)
	}
	p.listen()
	s.Faults().ServerErrors(0.1, "")
	s.Faults().LoseJITAnswers(0.1)
	s.Faults().StealRunners(0.1)
	s.Faults().AcquireFlow(0.3)
	s.Faults().DuplicateMessages(0.2)
	s.Faults().LoseMessages(0.2)
	s.Faults().ZeroStatistics(0.2)
	for i, op := range ops {
		p.step(i, op)
	}
	truth := s.Truth()
	truth.Calls = nil // keyed by route; compared through the lines
	text, err := json.Marshal(truth)
	if err != nil {
		t.Fatal(err)
	}
	p.lines = append(p.lines, string(text))
	return p
}

func (p *transcript) step(i, op int) {
	labels := [][]string{{"linux"}, {"linux", "gpu"}, {"arm"}}[op/9%3]
	switch op % 9 {
	case 0, 1:
		id, err := p.s.InjectJob(githubsim.JobOptions{Repo: repo, Labels: labels})
		p.lines = append(p.lines, fmt.Sprint(id, err))
	case 2, 3:
		var got jitAnswer
		json.Unmarshal(p.call("POST", "/orgs/acme/actions/runners/generate-jitconfig", p.token, map[string]any{
			"name": fmt.Sprint("r", i), "runner_group_id": 1, "labels": append([]string{"self-hosted"}, labels...),
		}), &got)
		p.connect(got.Config)
	case 4:
		p.call("GET", "/orgs/acme/actions/runners?per_page=2", p.token, nil)
	case 5:
		if jobs := p.s.Truth().Jobs; len(jobs) > 0 {
			p.lines = append(p.lines, fmt.Sprint(p.s.CancelJob(jobs[op%len(jobs)].ID)))
		}
	case 6:
		p.call("GET", "/repos/acme/web/actions/runs?status=queued&per_page=5", p.token, nil)
	case 7:
		var m struct {
			MessageID int64
			Body      string
		}
		_ = json.Unmarshal(p.call("GET", "/_services/scalesets/message", p.queue, nil), &m)
		var jobs []struct{ RunnerRequestID int64 }
		_ = json.Unmarshal([]byte(m.Body), &jobs)
		ids := []int64{}
		for _, j := range jobs {
			ids = append(ids, j.RunnerRequestID)
		}
		p.call("POST", p.service+"/acquirejobs", p.queue, ids)
		if op%2 == 0 {
			p.call("DELETE", fmt.Sprintf("/_services/scalesets/message/%d", m.MessageID), p.queue, nil)
		}
	case 8:
		var made struct{ EncodedJITConfig string }
		_ = json.Unmarshal(p.call("POST", p.service+"/generatejitconfig", p.admin, map[string]any{"name": fmt.Sprint("s", i)}), &made)
		p.connect(made.EncodedJITConfig)
	}
}

// listen makes a scale set with a session.
func (p *transcript) listen() {
	var given struct{ URL, Token string }
	err := json.Unmarshal(p.call("POST", "/orgs/acme/actions/runners/registration-token", p.token, nil), &given)
	r := httptest.NewRequest("POST", "/actions/runner-registration", bytes.NewBufferString(`{"url":"http://sim.test/acme","runner_event":"register"}`))
	r.Header.Set("Authorization", "RemoteAuth "+given.Token)
	w := httptest.NewRecorder()
	p.s.Handler().ServeHTTP(w, r)
	if err == nil {
		err = json.Unmarshal(w.Body.Bytes(), &given)
	}
	p.admin, p.service = given.Token, given.URL+"_apis/runtime/runnerscalesets"
	var set struct{ ID int64 }
	if err == nil {
		err = json.Unmarshal(p.call("POST", p.service, p.admin, map[string]any{"name": "s", "labels": []map[string]string{{"name": "linux"}, {"name": "gpu"}}}), &set)
	}
	p.service = fmt.Sprintf("%s/%d", p.service, set.ID)
	var session struct{ MessageQueueAccessToken string }
	if err == nil {
		err = json.Unmarshal(p.call("POST", p.service+"/sessions", p.admin, map[string]any{"ownerName": "rapid"}), &session)
	}
	if p.queue = session.MessageQueueAccessToken; err != nil || p.queue == "" {
		p.t.Fatal("no session", err)
	}
}

// connect logs a JIT runner in, which makes it take a job if there is one.
func (p *transcript) connect(config string) {
	if config == "" {
		return
	}
	b := (&world{Server: p.s, t: p.outer, url: "http://sim.test"}).bot(config)
	now := epoch
	id, at := b.cred.Data["clientId"], b.cred.Data["authorizationUrl"]
	body := bytes.NewBufferString("grant_type=client_credentials&client_assertion=" + signJWT(b.key, map[string]any{
		"iss": id, "sub": id, "aud": at, "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	}))
	r := httptest.NewRequest("POST", at, body)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	p.s.Handler().ServeHTTP(w, r)
	var token message.TokenAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &token); err != nil || token.AccessToken == "" {
		p.t.Fatalf("login: %s", w.Body)
	}
	var session message.Session
	json.Unmarshal(p.call("POST", "/_services/broker/session", token.AccessToken, message.Session{OwnerName: "r", Agent: message.Agent{OSDescription: "Linux"}}), &session)
	p.call("GET", "/_services/broker/message?sessionId="+session.SessionID, token.AccessToken, nil)
}

// Two servers with one seed do the same, request by request; another seed does
// something else.
func TestSeed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		ops := rapid.SliceOfN(rapid.IntRange(0, 80), 1, 25).Draw(rt, "ops")
		first, second := play(rt, t, seed, ops), play(rt, t, seed, ops)
		if d := cmp.Diff(first.lines, second.lines); d != "" {
			rt.Fatalf("two servers differ (-first +second)\n%s", d)
		}
	})
	ops := []int{0, 9, 7, 8, 2, 11, 20, 4, 1, 3, 6, 7, 17}
	if cmp.Equal(play(t, t, 1, ops).lines, play(t, t, 2, ops).lines) {
		t.Error("another seed does the same")
	}
}

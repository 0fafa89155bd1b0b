package github_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/github"
)

// quick is a simulator whose long polls are short.
func quick(cfg githubsim.Config) githubsim.Config {
	cfg.LongPoll = 200 * time.Millisecond
	if cfg.SetSessionLinger == 0 {
		cfg.SetSessionLinger = -1
	}
	return cfg
}

// message waits for one that want likes, acknowledging the others.
func message(t *testing.T, s *github.ScaleSetSession, last *int64, want func(muster.ScaleSetMessage) bool) muster.ScaleSetMessage {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		m, ok, err := s.Message(ctx, *last, 5)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			continue
		}
		if want(m) {
			return m
		}
		*last = m.ID
		if err := s.Acknowledge(ctx, m.ID); err != nil {
			t.Fatal(err)
		}
	}
}

func has(state muster.ScaleSetJobState) func(muster.ScaleSetMessage) bool {
	return func(m muster.ScaleSetMessage) bool {
		return slices.ContainsFunc(m.Jobs, func(j muster.ScaleSetJob) bool { return j.State == state })
	}
}

// The whole protocol, by GitHub's own client, at each kind of scope.
func TestScaleSetAgainstTheSimulator(t *testing.T) { // 4-1 4-11 4-17
	sim, c := simulator(t, quick(githubsim.Config{SetSessionLinger: time.Minute}))
	ctx := t.Context()
	for _, scope := range []muster.Scope{simOrg, {Kind: muster.ScopeRepository, Owner: "octo-org", Repo: "app"}} {
		t.Run(string(scope.Kind), func(t *testing.T) {
			name := "set-" + string(scope.Kind)
			if _, err := c.GenerateScaleSetJIT(ctx, scope, name, "too-early"); muster.CodeOf(err) != muster.CodeUnavailable {
				t.Errorf("before the set is known: %v", err)
			}
			set, err := c.EnsureScaleSet(ctx, scope, name, 0, muster.Labels{"gpu", name})
			if err != nil || set.ID == 0 || set.Group != 1 || !set.Labels.Has("gpu") {
				t.Fatalf("%+v, %v", set, err)
			}
			again, err := c.EnsureScaleSet(ctx, scope, name, 1, muster.Labels{"GPU", name})
			if err != nil || again.ID != set.ID || len(again.Labels) != 2 {
				t.Errorf("found anew: %+v, %v", again, err)
			}
			changed, err := c.EnsureScaleSet(ctx, scope, name, 1, muster.Labels{name})
			if err != nil || changed.ID != set.ID || !slices.Equal(changed.Labels, muster.Labels{name}) {
				t.Errorf("other labels: %+v, %v", changed, err)
			}

			s, err := c.OpenScaleSetSession(ctx, scope, name, "test")
			if err != nil || s.Statistics() == nil {
				t.Fatal(err)
			}
			if _, err := c.OpenScaleSetSession(ctx, scope, name, "other"); muster.CodeOf(err) != muster.CodeConflict {
				t.Errorf("a second session: %v", err)
			}
			if _, _, err := s.Message(ctx, 0, 0); muster.CodeOf(err) != muster.CodeInvalid {
				t.Errorf("capacity 0 is announced: %v", err)
			}
			if _, ok, err := s.Message(ctx, 0, 5); ok || err != nil { // the listener must be there before the job is
				t.Fatal(ok, err)
			}
			id, err := sim.InjectJob(githubsim.JobOptions{Repo: "octo-org/app", Labels: []string{name}})
			if err != nil {
				t.Fatal(err)
			}
			var last int64
			m := message(t, s, &last, has(muster.ScaleSetJobAssigned))
			truth, _ := sim.Truth().Job(id)
			job := m.Jobs[0]
			if job.ID != truth.SetIDs[0] || job.RunID != truth.RunID || job.Name != truth.Name || job.Repository != "octo-org/app" ||
				!slices.Equal(job.Labels, muster.Labels{name}) || m.Statistics == nil || m.Statistics.Assigned != 1 {
				t.Errorf("%+v with %+v, want %+v", job, m.Statistics, truth)
			}
			// Not acknowledged: the same again.
			if same := message(t, s, &last, has(muster.ScaleSetJobAssigned)); same.ID != m.ID || same.Jobs[0].ID != job.ID {
				t.Errorf("came again as %+v", same)
			}
			if err := s.Acknowledge(ctx, m.ID); err != nil {
				t.Error(err)
			}
			if err := s.Acknowledge(ctx, m.ID); err != nil {
				t.Errorf("acknowledged twice: %v", err)
			}

			jit, err := c.GenerateScaleSetJIT(ctx, scope, name, name+"-1")
			if err != nil || jit.RunnerID == 0 || jit.Config == "" || jit.Name != name+"-1" {
				t.Fatal(err)
			}
			if _, err := c.GenerateScaleSetJIT(ctx, scope, name, name+"-1"); muster.CodeOf(err) != muster.CodeExists {
				t.Errorf("the name is taken: %v", err)
			}
			found, err := c.ScaleSetRunner(ctx, scope, name, name+"-1")
			if err != nil || found.ID != jit.RunnerID {
				t.Errorf("%+v, %v", found, err)
			}
			if rest, err := c.Runner(ctx, scope, jit.RunnerID); err != nil || rest.Name != name+"-1" {
				t.Errorf("REST has %+v, %v", rest, err)
			}
			if err := c.RemoveScaleSetRunner(ctx, scope, name, jit.RunnerID); err != nil {
				t.Error(err)
			}
			if err := c.RemoveScaleSetRunner(ctx, scope, name, jit.RunnerID); muster.CodeOf(err) != muster.CodeNotFound {
				t.Errorf("removed twice: %v", err)
			}
			if _, err := c.ScaleSetRunner(ctx, scope, name, name+"-1"); muster.CodeOf(err) != muster.CodeNotFound {
				t.Errorf("look up after removal: %v", err)
			}
			if err := s.Close(ctx); err != nil {
				t.Error(err)
			}
			if err := s.Close(ctx); err != nil {
				t.Errorf("closed twice: %v", err)
			}
			if err := c.DeleteScaleSet(ctx, scope, name, 0); err != nil {
				t.Error(err)
			}
			if err := c.DeleteScaleSet(ctx, scope, name, 0); err != nil {
				t.Errorf("deleted twice: %v", err)
			}
		})
	}
	t.Run("Refused", func(t *testing.T) {
		for what, call := range map[string]func() error{
			"name":   func() error { _, err := c.EnsureScaleSet(ctx, simOrg, "a b", 1, nil); return err },
			"runner": func() error { _, err := c.GenerateScaleSetJIT(ctx, simOrg, "a", "x y&agentName=z"); return err },
			"look":   func() error { _, err := c.ScaleSetRunner(ctx, simOrg, "a", "x y&agentName=z"); return err },
			"scope":  func() error { _, err := c.EnsureScaleSet(ctx, muster.Scope{}, "a", 1, nil); return err },
		} {
			if err := call(); muster.CodeOf(err) != muster.CodeInvalid {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := c.EnsureScaleSet(ctx, simOrg, "a", 4711, nil); muster.CodeOf(err) != muster.CodeNotFound {
			t.Errorf("unknown group: %v", err)
		}
		if err := sim.CreateOrganization("stranger"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.EnsureScaleSet(ctx, muster.Scope{Kind: muster.ScopeOrganization, Owner: "stranger"}, "a", 1, nil); muster.CodeOf(err) != muster.CodeNotFound || !strings.Contains(err.Error(), "not installed") {
			t.Errorf("not installed: %v", err)
		}
	})
}

// Jobs of an Enterprise Server have to be acquired.
func TestScaleSetAcquire(t *testing.T) {
	sim, c := simulator(t, quick(githubsim.Config{EnterpriseServer: true}))
	ctx := t.Context()
	if _, err := c.EnsureScaleSet(ctx, simOrg, "set", 1, nil); err != nil {
		t.Fatal(err)
	}
	s, err := c.OpenScaleSetSession(ctx, simOrg, "set", "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Message(ctx, 0, 5); err != nil {
		t.Fatal(err)
	}
	if _, err := sim.InjectJob(githubsim.JobOptions{Repo: "octo-org/app", Labels: []string{"set"}}); err != nil {
		t.Fatal(err)
	}
	var last int64
	m := message(t, s, &last, has(muster.ScaleSetJobAvailable))
	ids := []int64{m.Jobs[0].RequestID}
	got, err := s.Acquire(ctx, ids)
	if err != nil || !slices.Equal(got, ids) || ids[0] == 0 {
		t.Fatalf("acquired %v of %v, %v", got, ids, err)
	}
	assigned := message(t, s, &last, has(muster.ScaleSetJobAssigned))
	if assigned.Statistics.Assigned != 1 {
		t.Errorf("%+v", assigned)
	}
}

// Tokens of both kinds end in the middle of a session, and are refused for no
// reason; a set vanishes.
func TestScaleSetTokensEnd(t *testing.T) { // 4-15
	sim, c := simulator(t, quick(githubsim.Config{}))
	ctx := t.Context()
	if _, err := c.EnsureScaleSet(ctx, simOrg, "set", 1, nil); err != nil {
		t.Fatal(err)
	}
	s, err := c.OpenScaleSetSession(ctx, simOrg, "set", "test")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		sim.Faults().ExpireQueueTokens()
		sim.Faults().ExpireAdminTokens()
		sim.Faults().ExpireTokens()
		if _, _, err := s.Message(ctx, 0, 5); err != nil {
			t.Fatalf("wait %d: %v", i, err)
		}
		sim.Faults().ExpireAdminTokens()
		if _, err := c.GenerateScaleSetJIT(ctx, simOrg, "set", fmt.Sprint("r-", i)); err != nil {
			t.Fatalf("register %d: %v", i, err)
		}
	}
	sim.Faults().QueueUnauthorized(1)
	if _, _, err := s.Message(ctx, 0, 5); muster.CodeOf(err) != muster.CodeUnauthenticated {
		t.Errorf("a queue that is closed to us: %v", err)
	}
	sim.Faults().QueueUnauthorized(0)
	sim.Faults().AdminUnauthorized(1)
	if _, err := c.GenerateScaleSetJIT(ctx, simOrg, "set", "x"); muster.CodeOf(err) != muster.CodeUnauthenticated {
		t.Errorf("a service that is closed to us: %v", err)
	}
	sim.Faults().AdminUnauthorized(0)
	if err := sim.VanishScaleSet(sim.Truth().ScaleSets[0].ID); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Message(ctx, 0, 5); err == nil {
		t.Error("the queue of a set that vanished answers")
	} else if code := muster.CodeOf(err); code != muster.CodeNotFound && code != muster.CodeUnauthenticated && code != muster.CodeGone {
		t.Error(err)
	}
	if _, err := c.GenerateScaleSetJIT(ctx, simOrg, "set", "y"); muster.CodeOf(err) != muster.CodeUnavailable {
		t.Errorf("registering with a set that vanished: %v", err)
	}
	if _, err := c.OpenScaleSetSession(ctx, simOrg, "set", "test"); muster.CodeOf(err) != muster.CodeNotFound {
		t.Errorf("a session of a set that vanished: %v", err)
	}
	if set, err := c.EnsureScaleSet(ctx, simOrg, "set", 1, nil); err != nil || set.ID == 0 {
		t.Errorf("made anew: %+v, %v", set, err)
	}
}

// GitHub's limits pause the set, and no other call is repeated blindly.
func TestScaleSetLimits(t *testing.T) { // 4-16 S1-106
	sim, c := simulator(t, quick(githubsim.Config{}))
	ctx := t.Context()
	if _, err := c.EnsureScaleSet(ctx, simOrg, "set", 1, nil); err != nil {
		t.Fatal(err)
	}
	sim.Faults().SecondaryLimit(1, 20*time.Second)
	_, err := c.GenerateScaleSetJIT(ctx, simOrg, "set", "r-1")
	if e := asMuster(err); e.Code != muster.CodeUnavailable || e.RetryAfter < 19*time.Second {
		t.Errorf("limited: %v", err)
	}
	sim.Faults().SecondaryLimit(0, 0)
	before := sim.Truth().Registered
	if _, err = c.GenerateScaleSetJIT(ctx, simOrg, "set", "r-2"); muster.CodeOf(err) != muster.CodeUnavailable || asMuster(err).RetryAfter == 0 || sim.Truth().Registered != before {
		t.Errorf("within the pause: %v", err)
	}
}

func asMuster(err error) *muster.Error {
	if e, ok := errors.AsType[*muster.Error](err); ok {
		return e
	}
	return &muster.Error{}
}

// A hostile network loses answers and breaks servers: each runner is registered
// once and known by its name.
func TestScaleSetHostile(t *testing.T) { // 4-11
	sim, c := simulator(t, quick(githubsim.Config{Seed: 3, NoRateLimits: true}))
	ctx := t.Context()
	if _, err := c.EnsureScaleSet(ctx, simOrg, "set", 1, nil); err != nil {
		t.Fatal(err)
	}
	sim.Faults().Set(githubsim.FaultSettings{ServerErrors: 0.2, LoseAnswers: 0.1, LoseJITAnswers: 0.3, AdminUnauthorized: 0.1, TokenReplication: githubsim.Duration(50 * time.Millisecond)})
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			name := fmt.Sprint("r-", i)
			for {
				jit, err := c.GenerateScaleSetJIT(ctx, simOrg, "set", name)
				switch muster.CodeOf(err) {
				case "":
					if jit.Name != name {
						t.Errorf("%s got %s", name, jit.Name)
					}
					return
				case muster.CodeExists:
					if found, err := c.ScaleSetRunner(ctx, simOrg, "set", name); err == nil && found.ID != 0 {
						return
					} else if muster.CodeOf(err) != muster.CodeUnavailable && muster.CodeOf(err) != muster.CodeUnauthenticated {
						t.Error(err)
						return
					}
				case muster.CodeUnavailable, muster.CodeUnauthenticated:
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if truth := sim.Truth(); len(truth.Runners) != 20 {
		t.Errorf("%d runners, want 20", len(truth.Runners))
	}
}

// A token serves as well as an App.
func TestScaleSetByToken(t *testing.T) { // C6
	sim, _ := simulator(t, quick(githubsim.Config{}))
	pat, err := sim.CreateToken("hubot", "repo", "admin:org", "manage_runners:enterprise")
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.CreateEnterprise("corp", "octo-org"); err != nil {
		t.Fatal(err)
	}
	c, err := github.New(github.Config{Name: "pat", Token: muster.Secret(pat), URL: sim.URL()})
	if err != nil {
		t.Fatal(err)
	}
	for _, scope := range []muster.Scope{simOrg, {Kind: muster.ScopeEnterprise, Owner: "corp"}} {
		if _, err := c.EnsureScaleSet(t.Context(), scope, "set", 1, nil); err != nil {
			t.Errorf("%s: %v", scope, err)
			continue
		}
		if _, err := c.GenerateScaleSetJIT(t.Context(), scope, "set", "r-"+string(scope.Kind)); err != nil {
			t.Errorf("%s: %v", scope, err)
		}
	}
}

// What a broken or malicious service answers ends in a *muster.Error, without a
// credential in it, and no token goes where it could be read.
func TestScaleSetBrokenAnswers(t *testing.T) { // S1-17 4-37
	const secret = "ghs_canarycanarycanary"
	jwt := "eyJhbGciOiJub25lIn0.eyJleHAiOjk5OTk5OTk5OTl9.c2ln"
	for name, test := range map[string]struct {
		registration string
		answer       func(w http.ResponseWriter, r *http.Request)
		code         muster.Code
	}{
		"NoJSON":    {registration: "<html>", code: muster.CodeUnavailable},
		"NoEnd":     {registration: `{"url":"URL/","token":"eyJhbGciOiJub25lIn0.e30.c2ln"}`, code: muster.CodeUnavailable},
		"NoToken":   {registration: `{"url":"URL/","token":"x"}`, code: muster.CodeUnavailable},
		"PlainHTTP": {registration: `{"url":"http://ci.example/","token":"` + jwt + `"}`, code: muster.CodeUnavailable},
		"Empty":     {registration: `{"url":"URL/","token":"` + jwt + `"}`, answer: func(w http.ResponseWriter, _ *http.Request) {}, code: muster.CodeUnavailable},
		"Text":      {registration: `{"url":"URL/","token":"` + jwt + `"}`, answer: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no "+secret, http.StatusBadRequest) }, code: muster.CodeInvalid},
		"BOM": {registration: "\ufeff" + `{"url":"URL/","token":"` + jwt + `"}`, answer: func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "\ufeff"+`{"count":1,"value":[{"id":7,"name":"set","labels":[{"name":"set"}]}]}`)
		}},
		"Quotes": {registration: `{"url":"URL/","token":"` + jwt + `"}`, answer: func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `{"message":"%s and %s"}`, secret, r.Header.Get("Authorization"))
		}, code: muster.CodeForbidden},
		"RateLimit": {registration: `{"url":"URL/","token":"` + jwt + `"}`, answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusForbidden)
		}, code: muster.CodeUnavailable},
		"Redirected": {registration: `{"url":"URL/","token":"` + jwt + `"}`, answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://ci.example/", http.StatusFound)
		}, code: muster.CodeUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case strings.HasSuffix(r.URL.Path, "/registration-token"):
					w.WriteHeader(http.StatusCreated)
					fmt.Fprintf(w, `{"token":"AAAAABBBBBCCCCCDDDDDEEEEEFFFF","expires_at":%q}`, time.Now().Add(time.Hour).Format(time.RFC3339))
				case strings.HasSuffix(r.URL.Path, "/actions/runner-registration"):
					fmt.Fprint(w, strings.ReplaceAll(test.registration, "URL", "http://"+r.Host+"/service"))
				default:
					test.answer(w, r)
				}
			}))
			t.Cleanup(srv.Close)
			c, err := github.New(github.Config{Name: "x", Token: secret, URL: srv.URL})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.EnsureScaleSet(t.Context(), simOrg, "set", 1, nil)
			if muster.CodeOf(err) != test.code {
				t.Errorf("%v, want %q", err, test.code)
			}
			if err != nil && (strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), jwt)) {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

// A session begins, or goes on, without an address for its messages (ARC issue 4370).
func TestScaleSetSessionWithoutAddress(t *testing.T) {
	sim, c := simulator(t, quick(githubsim.Config{}))
	ctx := t.Context()
	if _, err := c.EnsureScaleSet(ctx, simOrg, "set", 1, nil); err != nil {
		t.Fatal(err)
	}
	sim.Faults().EmptyQueueURLs(1)
	if _, err := c.OpenScaleSetSession(ctx, simOrg, "set", "test"); muster.CodeOf(err) != muster.CodeUnavailable {
		t.Errorf("begins without: %v", err)
	}
	sim.Faults().EmptyQueueURLs(0)
	s, err := c.OpenScaleSetSession(ctx, simOrg, "set", "test")
	if err != nil {
		t.Fatal(err)
	}
	sim.Faults().EmptyQueueURLs(1)
	sim.Faults().ExpireQueueTokens()
	_, _, _ = s.Message(ctx, 0, 5) // renews
	if _, _, err := s.Message(ctx, 0, 5); muster.CodeOf(err) != muster.CodeGone {
		t.Errorf("goes on without: %v", err)
	}
	if err := s.Acknowledge(ctx, 7); muster.CodeOf(err) != muster.CodeGone {
		t.Errorf("acknowledged without: %v", err)
	}
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
)

// S1-106 4-11 4-17: whatever GitHub's API answers, every job finishes exactly once and nothing is
// left over. The faults follow one another on one control plane, as they would.
func TestGitHubAnswers(t *testing.T) {
	t.Parallel()
	// refuse makes the next calls for a JIT configuration fail in one way.
	var refusals atomic.Int64
	var status atomic.Int64
	s := stand(t, Options{
		MaxRunners: 4,
		Sim:        githubsim.Config{Seed: 11},
		GitHub: func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/generate-jitconfig") || refusals.Add(-1) < 0 {
				return false
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(int(status.Load()))
			fmt.Fprintf(w, `{"message":"refused by the test","documentation_url":"","status":"%d"}`, status.Load())
			return true
		},
	})
	s.Serve(t)
	f := s.Sim.Faults()
	refuse := func(code, times int) func() {
		return func() { status.Store(int64(code)); refusals.Store(int64(times)) }
	}
	for _, tc := range []struct {
		fault string
		begin func()
	}{
		{"None", func() {}},
		{"TokensRevoked", f.ExpireTokens}, // 401
		{"TokensNotYetReplicated", func() { f.ExpireTokens(); f.TokenReplication(300 * time.Millisecond) }}, // 401 4-15
		{"JITAnswersLost", func() { f.LoseJITAnswers(0.3) }},                                                // 409 4-11
		{"Unauthorized", refuse(http.StatusUnauthorized, 2)},                                                //
		{"PermissionMissing", refuse(http.StatusForbidden, 2)},                                              //
		{"GroupMissing", refuse(http.StatusNotFound, 2)},                                                    //
		{"Unprocessable", refuse(http.StatusUnprocessableEntity, 2)},                                        //
		{"Teapot", refuse(http.StatusTeapot, 1)},                                                            // nothing anybody expects
		{"SecondaryLimit403", func() { f.SecondaryLimit(0.1, time.Second) }},                                // S1-106
		{"SecondaryLimit429", func() {
			f.Set(githubsim.FaultSettings{SecondaryLimit: 0.1, RetryAfter: githubsim.Duration(time.Second), TooManyRequests: 1})
		}},
		{"ServerErrors", func() { f.ServerErrors(0.2, "") }},
		{"AnswersLost", func() { f.LoseAnswers(0.3, "") }},
		{"SlowAnswers", func() { f.SlowAnswers(0.5, time.Second) }},
		{"TimeOuts", func() { f.SlowAnswers(0.3, 3500*time.Millisecond) }}, // api_timeout is 3 s; S1-21
		{"EmptyAnswers", func() { f.EmptyAnswers(0.4) }},
		{"ClockAhead", func() { f.ClockSkew(3 * time.Minute) }},
		{"ClockBehind", func() { f.ClockSkew(-3 * time.Minute); f.ExpireTokens() }},
	} {
		t.Run(tc.fault, func(t *testing.T) {
			began := time.Now()
			tc.begin()
			done := s.Sim.Truth().ByState()["completed"]
			s.Inject(t, 3, 100*time.Millisecond)
			s.AwaitJobs(t, done+3, 45*time.Second)
			f.Off()
			refusals.Store(0)
			truth, receipts := s.calm(t, 30*time.Second)
			once(t, truth, receipts, "success")
			t.Logf("%s in %s, faults %v", tc.fault, time.Since(began).Round(100*time.Millisecond), truth.Faults)
		})
	}
}

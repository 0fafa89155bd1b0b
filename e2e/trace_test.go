package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/githubsim"
)

// S4-69: one trace id follows a job through the log, from the webhook to the
// end of its machine.
func TestOneTraceFollowsAJob(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{Sim: githubsim.Config{Seed: 32}, Settings: "log: {level: debug, format: json}\n" + quick})
	s.Serve(t)
	s.Inject(t, 4, 2*time.Second) // long enough for in_progress not to be overtaken by completed
	s.AwaitJobs(t, 4, time.Minute)
	truth, receipts := s.calm(t, 30*time.Second)
	once(t, truth, receipts, "success")

	text, err := os.ReadFile(s.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	type line struct {
		Msg, Job, Runner, Delivery, Name string
		Trace                            string `json:"trace_id"`
	}
	var lines []line
	for l := range strings.Lines(string(text)) {
		var x line
		if err := json.Unmarshal([]byte(l), &x); err != nil {
			t.Fatalf("a line of the log is no JSON: %s", l)
		}
		lines = append(lines, x)
	}
	for _, j := range truth.Jobs {
		resp, err := s.jobs().GetJob(t.Context(), &v1.GetJobRequest{Job: &v1.JobRef{Id: j.ID}})
		if err != nil {
			t.Fatal(err)
		}
		trace := resp.Job.TraceId
		if len(trace) != 32 {
			t.Fatalf("job %d has the trace id %q", j.ID, trace)
		}
		queued := slices.IndexFunc(lines, func(l line) bool { return l.Msg == "job queued" && strings.HasPrefix(l.Job, fmt.Sprint(j.ID)) })
		if queued < 0 {
			t.Fatalf("the log has no line about job %d being queued", j.ID)
		}
		var steps []string
		for _, l := range lines {
			if l.Trace == trace {
				steps = append(steps, l.Msg)
			}
			if l.Msg == "delivery accepted" && l.Delivery == lines[queued].Delivery && l.Trace != trace {
				t.Errorf("job %d: its delivery has the trace id %s, the job %s", j.ID, l.Trace, trace)
			}
		}
		// A machine that GitHub gave to another job than it was made for was launched
		// under that one's trace id; from then on it follows the job that it runs.
		own := slices.Contains(steps, "runner launched")
		for _, want := range []string{"delivery accepted", "job queued", "runner launched", "runner registered", "job in_progress", "job completed", "receipt written", "runner finished", "runner destroyed"} {
			if !slices.Contains(steps, want) && (own || want != "runner launched" && want != "runner registered") {
				t.Errorf("job %d: no line %q under its trace id, only %v", j.ID, want, steps)
			}
		}
		t.Logf("job %d: %v", j.ID, steps)
	}
}

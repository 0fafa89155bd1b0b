package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/testsuite"

	"github.com/muster-ci/muster"
)

// anything is what the engine's tests call an argument of which nothing is asked.
const anything = "mock.Anything"

// 4-45: a small trace is analysed in the workflow's own step; one that is large, or was not
// to be had then, by an activity that is repeated until it was; and one that cannot be says so.
func TestTraceLifeTries(t *testing.T) {
	away := muster.Errorf(muster.CodeUnavailable, "the archive is away")
	for name, c := range map[string]struct {
		small   bool
		answers []error
		want    []string
	}{
		"Small":        {true, []error{nil}, []string{"step"}},
		"Outage":       {true, []error{away, away, nil}, []string{"step", "activity", "activity"}},
		"Large":        {false, []error{away, nil}, []string{"activity", "activity"}},
		"SmallAndLost": {true, []error{final(errors.New("it is gone"))}, []string{"step", "noted: it is gone"}},
		"LargeAndLost": {false, []error{final(errors.New("it is gone"))}, []string{"activity", "noted: it is gone"}},
	} {
		t.Run(name, func(t *testing.T) {
			var suite testsuite.WorkflowTestSuite
			env := suite.NewTestWorkflowEnvironment()
			a := &Activities{}
			env.RegisterActivity(a)
			ref := TraceRef{Workspace: defaultWorkspace, Runner: "linux-1", Number: 1, Small: c.small}
			var got []string
			env.OnActivity(a.AnalyseTrace, anything, ref).Return(func(ctx context.Context, _ TraceRef) error {
				n := len(got)
				if activity.GetInfo(ctx).IsLocalActivity {
					got = append(got, "step")
				} else {
					got = append(got, "activity")
				}
				if n >= len(c.answers) {
					return final(fmt.Errorf("asked %d times", n+1))
				}
				return c.answers[n]
			})
			env.OnActivity(a.NoteAnalysisFailed, anything, ref, anything).Return(func(_ context.Context, _ TraceRef, why string) error {
				got = append(got, "noted: "+why)
				return nil
			}).Maybe()
			env.OnActivity(a.WhoToTell, anything, ref).Return(Tell{}, nil)
			env.ExecuteWorkflow(TraceLife, ref)
			if err := env.GetWorkflowError(); err != nil || !env.IsWorkflowCompleted() {
				t.Fatal("it does not end well:", err)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

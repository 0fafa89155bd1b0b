package muster_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
)

// at is a moment of a job's life by GitHub's clock; Muster hears of it 2 s later.
func at(minute int) time.Time    { return noon.Add(time.Duration(minute) * time.Minute) }
func heard(minute int) time.Time { return at(minute).Add(2 * time.Second) }

func event(action string, minute int, change func(*muster.JobEvent)) muster.JobEvent {
	e := muster.JobEvent{
		Action: action, Status: muster.JobState(action), ID: 77, RunID: 7, Attempt: 1, Sense: muster.SenseWebhook,
		Repository: "acme/app", Name: "test", Workflow: "ci", Labels: muster.Labels{"muster"},
		CreatedAt: at(0), ReceivedAt: heard(minute),
	}
	if change != nil {
		change(&e)
	}
	return e
}

// life is everything that GitHub says about one job that had to be approved.
func life() []muster.JobEvent {
	took := func(e *muster.JobEvent) { e.RunnerID, e.RunnerName, e.StartedAt = 3, "muster-r1", at(6) }
	return []muster.JobEvent{
		event("waiting", 0, nil),
		event("queued", 5, func(e *muster.JobEvent) { e.StartedAt = at(0) }), // the creation, not a start
		event("in_progress", 6, func(e *muster.JobEvent) {
			took(e)
			e.Steps = []muster.Step{{Number: 1, Name: "Set up job", Status: "in_progress"}}
		}),
		event("completed", 9, func(e *muster.JobEvent) {
			took(e)
			e.StartedAt = at(6).Add(time.Second) // GitHub's last word differs from its first
			e.CompletedAt, e.Conclusion = at(9), "success"
			e.Steps = []muster.Step{{Number: 1, Name: "Set up job", Status: "completed"}, {Number: 2, Name: "test", Status: "completed"}}
		}),
	}
}

func permute[T any](items []T, visit func([]T)) {
	var walk func(k int)
	walk = func(k int) {
		if k == len(items) {
			visit(items)
			return
		}
		for i := k; i < len(items); i++ {
			items[k], items[i] = items[i], items[k]
			walk(k + 1)
			items[k], items[i] = items[i], items[k]
		}
	}
	walk(0)
}

// 4-3 4-4 S4-33: every order of a job's events, each of them twice at any place,
// ends in the same job, and the state never goes back.
func TestEveryOrderOfEventsConverges(t *testing.T) {
	apply := func(events []muster.JobEvent) muster.Job {
		var j muster.Job
		for _, e := range events {
			next, change, err := j.Apply(e)
			if err != nil {
				t.Fatal(err)
			}
			if next.State.Rank() < j.State.Rank() {
				t.Fatalf("from %s back to %s by %s", j.State, next.State, e.Action)
			}
			if (change == muster.JobAdvanced) != (next.State != j.State) || (change == muster.JobUnchanged) != reflect.DeepEqual(next, j) {
				t.Fatalf("%s: says %s from %+v to %+v", e.Action, change, j, next)
			}
			if _, change, _ := next.Apply(e); change != muster.JobUnchanged {
				t.Fatalf("%s again: %s", e.Action, change)
			}
			j = next
		}
		return j
	}
	want := apply(life())
	if want.State != muster.JobCompleted || want.Conclusion != "success" || want.RunnerName != "muster-r1" || len(want.Steps) != 2 {
		t.Fatalf("in order: %+v", want)
	}
	orders := 0
	permute(life(), func(events []muster.JobEvent) {
		orders++
		if got := apply(events); !reflect.DeepEqual(got, want) {
			t.Errorf("another job:\n%+v\n%+v", got, want)
		}
	})
	twice := append(life(), life()[1], life()[3]) // a redelivery and the re-sent completion of a re-run
	permute(twice, func(events []muster.JobEvent) {
		orders++
		if got := apply(events); !reflect.DeepEqual(got, want) {
			t.Errorf("another job:\n%+v\n%+v", got, want)
		}
	})
	if orders != 24+720 {
		t.Errorf("%d orders tried", orders)
	}
}

// 4-48 4-49: times are GitHub's; the wait for an approval is no queue time.
func TestJobTimes(t *testing.T) {
	job := func(events ...muster.JobEvent) (j muster.Job) {
		for _, e := range events {
			j, _, _ = j.Apply(e)
		}
		return j
	}
	l := life()
	if d, ok := job(l...).QueueTime(); !ok || d != 59*time.Second {
		t.Errorf("queue time of the approved job %s, %t", d, ok)
	}
	if d, ok := job(l[1:]...).QueueTime(); !ok || d != 6*time.Minute+time.Second {
		t.Errorf("queue time of a job without approval %s, %t", d, ok)
	}
	if d, ok := job(l...).RunTime(); !ok || d != 3*time.Minute-time.Second {
		t.Errorf("run time %s, %t", d, ok)
	}
	if _, ok := job(l[:2]...).QueueTime(); ok {
		t.Error("a queued job has a queue time")
	}
	if got := job(l[:2]...).QueuedAt(); !got.Equal(heard(5)) {
		t.Errorf("the approved job is queued since %s", got)
	}
	if got := (muster.Job{}).QueuedAt(); !got.IsZero() {
		t.Errorf("the unknown job is queued since %s", got)
	}
	odd := job(event("completed", 1, func(e *muster.JobEvent) {
		e.RunnerName, e.StartedAt, e.CompletedAt, e.CreatedAt = "r", at(5), at(4), at(6)
	}))
	if q, _ := odd.QueueTime(); q != 0 {
		t.Errorf("negative queue time not clamped: %s", q)
	}
	if r, ok := odd.RunTime(); r != 0 || !ok {
		t.Errorf("negative run time not clamped: %s", r)
	}
}

// 4-6: a job that ended before any runner took it ran nowhere, whatever times
// GitHub gives. 4-5: a runner's name below in_progress means nothing.
func TestJobThatNeverRan(t *testing.T) {
	for _, conclusion := range []string{"cancelled", "skipped", "timed_out"} {
		j, change, err := muster.Job{}.Apply(event("completed", 3, func(e *muster.JobEvent) {
			e.Conclusion, e.StartedAt, e.CompletedAt = conclusion, at(0), at(3)
		}))
		if err != nil || change != muster.JobAdvanced || j.State != muster.JobCompleted { // 4-4: completed of an unknown job
			t.Fatalf("%s: %+v, %s, %v", conclusion, j, change, err)
		}
		if j.RanOnRunner() {
			t.Errorf("%s: it ran", conclusion)
		}
		if _, ok := j.QueueTime(); ok {
			t.Errorf("%s: it has a queue time", conclusion)
		}
		if _, ok := j.RunTime(); ok {
			t.Errorf("%s: it has a run time", conclusion)
		}
	}
	j, _, _ := muster.Job{}.Apply(event("queued", 0, func(e *muster.JobEvent) { e.RunnerName, e.StartedAt = "somebody", at(0) }))
	if j.RunnerName != "" || !j.StartedAt.IsZero() {
		t.Errorf("a queued job has runner %q", j.RunnerName)
	}
}

// G3: the body with only these fields makes a job. S3-27 S3-28
func TestMinimalEvent(t *testing.T) {
	e := muster.JobEvent{Action: "queued", ID: 123456789, RunID: 987654321, Status: muster.JobQueued,
		Labels: muster.Labels{"self-hosted", "linux", "x64"}, Repository: "org/example-repo", ReceivedAt: noon}
	j, change, err := muster.Job{}.Apply(e)
	if err != nil || change != muster.JobAdvanced {
		t.Fatal(change, err)
	}
	want := muster.Job{Key: muster.JobKey{ID: 123456789, Attempt: 1}, RunID: 987654321, State: muster.JobQueued,
		Labels: e.Labels, Repository: "org/example-repo", SeenAt: noon, ReadyAt: noon}
	if !reflect.DeepEqual(j, want) {
		t.Errorf("got %+v\nwant %+v", j, want)
	}
	if got := j.Key.String(); got != "123456789" {
		t.Errorf("key %q", got)
	}
	if got := (muster.JobKey{ID: 5, Attempt: 2}).String(); got != "5/2" {
		t.Errorf("key of a re-run %q", got)
	}
}

// 4-5: what GitHub holds back is waiting, under whichever word. C22: "started"
// is an alias of in_progress.
func TestEventStates(t *testing.T) {
	for _, c := range []struct {
		action, status string
		want           muster.JobState
	}{
		{"queued", "queued", muster.JobQueued},
		{"queued", "", muster.JobQueued},
		{"queued", "in_progress", muster.JobQueued},
		{"queued", "waiting", muster.JobWaiting},
		{"queued", "pending", muster.JobWaiting},
		{"waiting", "waiting", muster.JobWaiting},
		{"waiting", "queued", muster.JobWaiting},
		{"in_progress", "in_progress", muster.JobInProgress},
		{"started", "in_progress", muster.JobInProgress},
		{"completed", "completed", muster.JobCompleted},
		{"", "queued", muster.JobQueued}, // a poll
		{"", "requested", muster.JobWaiting},
		{"", "pending", muster.JobWaiting},
	} {
		j, _, err := muster.Job{}.Apply(event(c.action, 0, func(e *muster.JobEvent) { e.Status = muster.JobState(c.status) }))
		if err != nil || j.State != c.want {
			t.Errorf("%s with status %s: %s, %v", c.action, c.status, j.State, err)
		}
	}
}

func TestApplyRefuses(t *testing.T) {
	j, _, err := muster.Job{}.Apply(event("queued", 0, nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]muster.JobEvent{
		"UnknownAction": event("exploded", 1, nil),
		"OtherJob":      event("completed", 1, func(e *muster.JobEvent) { e.ID = 78 }),
		"OtherAttempt":  event("completed", 1, func(e *muster.JobEvent) { e.Attempt = 2 }),
		"NoID":          event("completed", 1, func(e *muster.JobEvent) { e.ID = 0 }), // 4-5: empty ids match nothing
	} {
		got, change, err := j.Apply(e)
		if muster.CodeOf(err) != muster.CodeInvalid || change != muster.JobUnchanged || !reflect.DeepEqual(got, j) {
			t.Errorf("%s: %v, %s", name, err, change)
		}
		if _, _, err := (muster.Job{}).Apply(e); (name == "UnknownAction" || name == "NoID") && err == nil {
			t.Errorf("%s: taken as a new job", name)
		}
	}
}

// A check run that a step created looks like the completion of a job.
func TestNotAJob(t *testing.T) {
	check := muster.JobEvent{Action: "completed", Status: muster.JobCompleted, Conclusion: "success", ID: 9}
	if !check.NotAJob() {
		t.Error("the check run is taken for a job")
	}
	for name, change := range map[string]func(*muster.JobEvent){
		"Labels":     func(e *muster.JobEvent) { e.Labels = muster.Labels{"muster"} },
		"RunnerName": func(e *muster.JobEvent) { e.RunnerName = "r" },
		"RunnerID":   func(e *muster.JobEvent) { e.RunnerID = 1 },
		"Cancelled":  func(e *muster.JobEvent) { e.Conclusion = "cancelled" },
		"Queued":     func(e *muster.JobEvent) { e.Action = "queued" },
	} {
		e := check
		change(&e)
		if e.NotAJob() {
			t.Errorf("%s: a job is taken for a check run", name)
		}
	}
}

func TestRank(t *testing.T) {
	order := []muster.JobState{"odd", muster.JobWaiting, muster.JobQueued, muster.JobInProgress, muster.JobCompleted}
	for i, s := range order {
		if s.Rank() != i {
			t.Errorf("%s ranks %d", s, s.Rank())
		}
	}
}

// Errors say what is wrong, and what is not ours to show is not shown. 4-37
func TestErrors(t *testing.T) {
	cause := &muster.Error{Code: muster.CodeConflict, Message: "the token was used", Err: errText("token abc of row 7")}
	if got := muster.MessageOf(cause); got != "the token was used" {
		t.Errorf("message %q", got)
	}
	if got := cause.Error(); got != "the token was used: token abc of row 7" {
		t.Errorf("error %q", got)
	}
	if muster.CodeOf(nil) != "" || muster.CodeOf(errText("x")) != muster.CodeInternal || muster.CodeOf(cause) != muster.CodeConflict {
		t.Error("codes")
	}
	if got := muster.MessageOf(errText("dial tcp 10.0.0.7: secret")); strings.Contains(got, "secret") || got == "" {
		t.Errorf("an internal error shows %q", got)
	}
	if cause.Unwrap() == nil || muster.Errorf(muster.CodeGone, "runner %s is gone", "r-1").Error() != "runner r-1 is gone" {
		t.Error("wrapping")
	}
}

type errText string

func (e errText) Error() string { return string(e) }

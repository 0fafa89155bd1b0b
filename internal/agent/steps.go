package agent

import (
	"encoding/json"
	"regexp"
	"strings"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// worklog reads the log of GitHub's Runner.Worker, which is the only place where the
// bounds of steps are told while a job runs. The texts are those of actions/runner
// (reference/github.md §9.5): lines "[2026-01-02 03:04:05Z INFO Source] words", and JSON over
// many lines behind "Publish step telemetry", in which the exact times are.
//
// The job can write into that file, so everything here is bounded and believed only
// as far as it harms nobody. The zero value waits for a job's log.
type worklog struct {
	steps   []trace.Step
	exact   []bool // by step: its end is known from telemetry
	open    bool   // the last step has not ended
	json    []byte // telemetry that is being read
	reading bool
	bounds  []trace.Event // found and not yet taken
	taken   time.Time     // of the last one that was
	named   bool          // the job's id was seen
	over    time.Time     // when "Complete job" was, if that is known exactly
}

// Limits of what a log may say.
const (
	maxSteps     = 2000
	maxStepName  = 512      // bytes
	maxTelemetry = 32 << 10 // bytes
	// maxJob is how long ago a step of a job may have ended.
	maxJob = 30 * 24 * time.Hour
)

// header is what every entry begins with; its time has no fraction.
var header = regexp.MustCompile(`\A\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ) [A-Z]{3,4} +([A-Za-z0-9_.]+)\] (.*)\z`)

// names of steps that the runner adds by itself.
const (
	setUpJob    = "Set up job"
	completeJob = "Complete job"
	setUpHook   = "Set up runner"
	endHook     = "Complete runner"
)

// line takes one line without its end, which was seen at the given time.
func (l *worklog) line(text string, seen time.Time) {
	if l.reading {
		l.telemetry(text, seen)
		return
	}
	m := header.FindStringSubmatch(text)
	if m == nil {
		return // the rest of an entry before
	}
	second, err := time.Parse("2006-01-02 15:04:05Z", m[1])
	if err != nil {
		return
	}
	at := l.about(second, seen)
	if len(l.steps) == 0 {
		l.begin(setUpJob, at)
	}
	switch words := m[3]; m[2] {
	case "StepsRunner":
		l.runner(words, at)
	case "JobRunner":
		switch {
		case strings.HasPrefix(words, jobIDWords):
			l.named = true
		case words == "Finalize job.":
			l.begin(completeJob, at)
		case strings.HasPrefix(words, "Job result after all job steps finish: "):
			l.end("", at)
		}
	case "ExecutionContext":
		if rest, ok := strings.CutPrefix(words, "Publish step telemetry for current step "); ok {
			l.json, l.reading = l.json[:0], true
			l.telemetry(rest, seen)
		}
	}
}

// jobIDWords begin the line by which the worker names the job that it begins.
const jobIDWords = "Job ID "

// another reports whether a line begins the log of another job. They share a file if they
// began in one second.
func (l *worklog) another(text string) bool {
	if !l.named || l.reading || !strings.Contains(text, jobIDWords) {
		return false
	}
	m := header.FindStringSubmatch(text)
	return m != nil && m[2] == "JobRunner" && strings.HasPrefix(m[3], jobIDWords)
}

// runner takes a line of the StepsRunner.
func (l *worklog) runner(words string, at time.Time) {
	if name, ok := strings.CutPrefix(words, "Processing step: DisplayName='"); ok {
		l.begin(strings.TrimSuffix(name, "'"), at)
		return
	}
	if !l.open {
		return
	}
	step := &l.steps[len(l.steps)-1]
	if words == "Skipping step due to condition evaluation." {
		step.Result = "skipped"
		return
	}
	if result, ok := strings.CutPrefix(words, "Step result: "); ok {
		step.Result = strings.ToLower(result)
		return
	}
	for _, before := range []string{"No need for updating job result with current step result '", "Update job result with current step result '"} {
		if result, ok := strings.CutPrefix(words, before); ok {
			result, _, _ = strings.Cut(result, "'")
			l.end(strings.ToLower(result), at)
			return
		}
	}
}

// about is the best guess of when a line was written: within its second, not after
// it was seen, and not before what came before it.
func (l *worklog) about(second, seen time.Time) time.Time {
	at := seen
	if at.Before(second) {
		at = second
	} else if end := second.Add(time.Second - time.Microsecond); at.After(end) {
		at = end
	}
	if n := len(l.steps); n > 0 {
		at = later(at, later(l.steps[n-1].Start, l.steps[n-1].End))
	}
	return later(at, l.taken)
}

// begin opens a step. What the step before has told of its own end is where it begins: between
// the two the runner does nothing for the job.
func (l *worklog) begin(name string, at time.Time) {
	l.end("", at)
	n := len(l.steps)
	if n >= maxSteps {
		return
	}
	if n > 0 && l.exact[n-1] {
		at = l.steps[n-1].End
	}
	step := trace.Step{Number: n + 1, Name: clip(name, maxStepName), Start: at}
	step.Kind, step.Uses = kindOf(step.Name)
	l.steps, l.exact, l.open = append(l.steps, step), append(l.exact, false), true
	l.bounds = append(l.bounds, trace.Event{Type: trace.StepStart, Step: step.Number})
}

// end closes the step that is open, if one is.
func (l *worklog) end(result string, at time.Time) {
	if !l.open {
		return
	}
	n := len(l.steps) - 1
	step := &l.steps[n]
	if result != "" {
		step.Result = result
	}
	if step.Result == "" {
		step.Result = "succeeded" // the log leaves it out
	}
	step.Result = clip(step.Result, 32)
	if !l.exact[n] {
		step.End = at
	}
	step.End = later(step.End, step.Start)
	l.open = false
	l.bounds = append(l.bounds, trace.Event{Type: trace.StepEnd, Step: step.Number})
}

// earlier has a step begin when it did, though its first line was seen later, when it was
// perhaps already over. What was taken stays as it is.
func (l *worklog) earlier(n int, at time.Time) {
	step := &l.steps[n]
	if !l.waits(trace.StepStart, step.Number) {
		return
	}
	at = later(at, l.taken)
	if n > 0 {
		before := &l.steps[n-1]
		if !l.exact[n-1] && before.End.After(at) && l.waits(trace.StepEnd, before.Number) {
			before.End = later(at, before.Start)
		}
		at = later(at, before.End)
	}
	if at.Before(step.Start) {
		step.Start = at
	}
}

// waits reports whether a bound was not taken yet.
func (l *worklog) waits(kind trace.Type, number int) bool {
	for _, e := range l.bounds {
		if e.Type == kind && e.Step == number {
			return true
		}
	}
	return false
}

// next takes the next bound, if it is not after a time.
func (l *worklog) next(until time.Time) (e trace.Event, ok bool) {
	if len(l.bounds) == 0 {
		return e, false
	}
	e = l.bounds[0]
	step := l.steps[e.Step-1]
	e.Name, e.StepKind, e.Uses, e.Timestamp = step.Name, step.Kind, step.Uses, step.Start
	if e.Type == trace.StepEnd {
		e.Timestamp, e.Result, e.DurationUS = step.End, step.Result, step.End.Sub(step.Start).Microseconds()
		if step.Result == "failed" {
			e.ExitCode = 1
		}
	}
	if e.Timestamp.After(until) {
		return trace.Event{}, false
	}
	l.bounds, l.taken = l.bounds[1:], later(l.taken, e.Timestamp)
	return e, true
}

// at is the number of the step in which something happened, 0 if it was in none.
func (l *worklog) at(when time.Time) int {
	for n := len(l.steps) - 1; n >= 0; n-- {
		step := l.steps[n]
		if when.Before(step.Start) {
			continue
		}
		if (n < len(l.steps)-1 || !l.open) && when.After(step.End) {
			return 0 // between two, or after the last
		}
		return step.Number
	}
	return 0
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// telemetry takes a line of the JSON that the runner prints when a step is over.
func (l *worklog) telemetry(text string, seen time.Time) {
	over := text == "}." || strings.HasPrefix(text, "{") && strings.HasSuffix(text, "}.")
	if over {
		text = strings.TrimSuffix(text, ".")
	}
	if l.json = append(append(l.json, text...), '\n'); len(l.json) > maxTelemetry {
		l.reading = false
		return
	}
	if !over {
		return
	}
	l.reading = false
	var t struct {
		Action, Ref, Type, Stage, Result string
		StartTime, FinishTime            time.Time
	}
	if json.Unmarshal(l.json, &t) != nil || !l.open || t.FinishTime.IsZero() {
		return // of a step within an action, which has no times of its own
	}
	step := &l.steps[len(l.steps)-1]
	if t.FinishTime.After(seen.Add(time.Second)) || t.FinishTime.Before(seen.Add(-maxJob)) {
		return
	}
	if t.StartTime.Before(step.Start) {
		l.earlier(len(l.steps)-1, t.StartTime.UTC())
	}
	step.End, l.exact[len(l.steps)-1] = later(t.FinishTime.UTC(), step.Start), true
	if t.Result != "" {
		step.Result = strings.ToLower(t.Result)
	}
	switch {
	case step.Kind == "hook" || t.Type == "runner" || t.Type == "":
	case t.Type == "run":
		step.Kind, step.Uses = "run", ""
	default:
		step.Kind = "uses"
		if t.Action != "" {
			step.Uses = clip(t.Action, maxStepName)
			if t.Ref != "" {
				step.Uses = clip(t.Action+"@"+t.Ref, maxStepName)
			}
		}
	}
	switch {
	case t.Type == "runner" && step.Name == setUpJob:
		l.end("", step.End)
	case t.Type == "runner" && step.Name == completeJob:
		l.over = step.End
	}
}

// action is a name that the runner gives to a step that uses one.
var action = regexp.MustCompile(`\A(?:Pre |Post )?Run ([A-Za-z0-9_.-]+/[A-Za-z0-9_./-]+@[^\s]+|docker://[^\s]+|\./[^\s]*)\z`)

// kindOf guesses what a step is from its name, before the runner says so.
func kindOf(name string) (kind, uses string) {
	if name == setUpHook || name == endHook {
		return "hook", ""
	}
	if m := action.FindStringSubmatch(name); m != nil {
		return "uses", m[1]
	}
	if strings.HasPrefix(name, "Run ") {
		return "run", ""
	}
	return "", ""
}

// clip makes foreign text fit: valid, without control characters, of a bounded length.
func clip(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	for len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}

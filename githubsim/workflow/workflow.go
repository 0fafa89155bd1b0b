package workflow

import (
	"fmt"
	"strings"
	"time"

	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// The shapes shared with the runner program, see package message.
type (
	Message    = message.Message
	Contexts   = message.Contexts
	Defaults   = message.Defaults
	Step       = message.Step
	StepResult = message.StepResult
	Checkout   = message.Checkout
)

// Pos is a place in a workflow file, both counted from 1.
type Pos struct{ Line, Column int }

// String is line:column.
func (p Pos) String() string { return fmt.Sprintf("%d:%d", p.Line, p.Column) }

// Problem is something about one place in a file.
type Problem struct {
	Pos     Pos
	Message string
}

// Workflow is one parsed file. It is not changed after Parse and safe for
// concurrent use.
type Workflow struct {
	// Path is the file's path in its repository.
	Path string
	// Name is the name in the file, or Path if it has none, as GitHub shows it.
	Name string
	// RunName is run-name as written, may hold expressions; empty if none.
	RunName     string
	Triggers    []Trigger
	Env         map[string]string
	Defaults    Defaults
	Concurrency *Concurrency
	// Jobs are in the order of the file.
	Jobs []*Job
	// Unsupported lists what the simulator does not do, in the order of the file.
	Unsupported []Problem
}

// Job returns the job with that key (case-insensitive), nil if there is none.
func (w *Workflow) Job(key string) *Job {
	for _, j := range w.Jobs {
		if strings.EqualFold(j.Key, key) {
			return j
		}
	}
	return nil
}

// Trigger is one entry of `on:`. Empty filters match all.
type Trigger struct {
	Event                         string // "push", "pull_request", "workflow_dispatch", "schedule", …
	Types                         []string
	Branches, BranchesIgnore      []string
	Tags, TagsIgnore              []string
	Paths, PathsIgnore            []string
	Workflows                     []string
	Cron                          []string
	Inputs                        map[string]Input
	hasBranchFilter, hasTagFilter bool
}

// Input is one input of workflow_dispatch.
type Input struct {
	Type     string // "string", "boolean", "number", "choice", "environment"
	Default  string
	Required bool
	Options  []string
}

// Concurrency is a concurrency group as written; both may hold expressions.
type Concurrency struct {
	Group string
	// CancelInProgress is "true", "false", "" or an expression.
	CancelInProgress string
}

// Environment is a deployment environment, the gate of a job.
type Environment struct{ Name, URL string }

// Job is one entry of `jobs:` as written.
type Job struct {
	Pos             Pos
	Key             string
	Name            string // as written, may hold expressions; empty: Key
	If              string
	Needs           []string
	RunsOn          RunsOn
	Matrix          *Matrix
	FailFast        string // "", a literal or an expression; GitHub's default is true
	MaxParallel     string // "", a literal or an expression
	Env             map[string]string
	Defaults        Defaults
	Outputs         map[string]string
	TimeoutMinutes  string // "", a literal or an expression; GitHub's default is 360
	ContinueOnError string
	Environment     *Environment
	Concurrency     *Concurrency
	Steps           []Step
	unsupported     []string
}

// RunsOn is runs-on as written: labels (any of them may hold expressions), or
// one expression that gives a string or a list, and a runner group.
type RunsOn struct {
	Labels     []string
	Expression string
	Group      string
}

// Instance is one job of a run: a cell of the matrix, or the job itself.
type Instance struct {
	// Key is the job's key in the file.
	Key string
	// Name is the display name, as GitHub writes it: "build (1.22, linux)".
	Name string
	// Labels are the labels of runs-on, as written there, in order.
	Labels []string
	// Group is the runner group of runs-on, empty if none was named.
	Group string
	// Matrix are the values of this cell, nil without a matrix.
	Matrix map[string]any
	// Index counts from 0 to Total-1.
	Index, Total int
	// FailFast says that the job's other instances are cancelled when this one fails.
	FailFast bool
	// MaxParallel is how many instances of the job may run at once, 0 = all.
	MaxParallel     int
	Timeout         time.Duration
	ContinueOnError bool
	Environment     *Environment // evaluated; nil if none
	Concurrency     *Concurrency // evaluated; nil if none
}

// Run is what is known of a run when its jobs are resolved; it fills the github context.
type Run struct {
	Repository      string // "owner/name"
	RepositoryID    int64
	Event           string // "push"
	Payload         map[string]any
	SHA             string
	Ref             string // "refs/heads/main"
	Actor           string
	TriggeringActor string // empty: Actor
	ID              int64
	Number          int
	Attempt         int // 0 counts as 1
	ServerURL       string
	APIURL          string
	DefaultBranch   string
	Inputs          map[string]any    // of workflow_dispatch; defaults of the file are added
	Vars            map[string]string // repository and organization variables
}

// Event is what happened in a repository.
type Event struct {
	Name   string   // "push"
	Action string   // activity type, for events that have one
	Ref    string   // "refs/heads/main", "refs/tags/v1"; of a pull request: the base's ref
	Paths  []string // changed files; nil: path filters are not applied
}

// Result is how one job of the file ended, over all of its instances.
type Result struct {
	Conclusion string // success, failure, cancelled, skipped
	Outputs    map[string]string
}

// InstanceResult is how one instance ended.
type InstanceResult struct {
	Conclusion      string
	ContinueOnError bool
	Outputs         map[string]string
}

// State is a run at one moment.
type State struct {
	Run Run
	// Results holds the jobs that are completed, by key as in the file.
	Results map[string]Result
	// Cancelled says that the whole run was cancelled.
	Cancelled bool
}

// Verdict says what becomes of a job.
type Verdict int

const (
	// Wait means that a needed job is not completed.
	Wait Verdict = iota
	// Start means that the instances are to be queued.
	Start
	// Skip means that the job ends as skipped, without any runner.
	Skip
)

// Resolution is what becomes of a job now. Instances is empty for Wait; for Skip it
// is one instance whose matrix is not expanded, as GitHub shows it.
type Resolution struct {
	Verdict   Verdict
	Instances []Instance
}

// ParseError is a file that GitHub would refuse.
type ParseError struct {
	Path     string
	Problems []Problem
}

// Error lists all problems, one per line, as path:line:column: message.
func (e *ParseError) Error() string {
	s := ""
	for i, p := range e.Problems {
		if i > 0 {
			s += "\n"
		}
		s += fmt.Sprintf("%s:%s: %s", e.Path, p.Pos, p.Message)
	}
	return s
}

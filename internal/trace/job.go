package trace

import "time"

// Job is what the runner itself knows of the job that it runs, from the environment
// of GitHub's hook and from its own output. GitHub does not tell it the job's number.
// Fields are "" or 0 until they are known.
type Job struct {
	// Name is the display name, as in "Running job: …".
	Name string `json:"name,omitempty"`
	// Repository is owner/name. RunID and Attempt name the run.
	Repository string `json:"repository,omitempty"`
	RunID      int64  `json:"run_id,omitempty"`
	Attempt    int    `json:"attempt,omitempty"`
	// Key is the job's key in the workflow file (GITHUB_JOB), the same for every
	// instance of a matrix.
	Key string `json:"key,omitempty"`
	// Workflow is the workflow's name, WorkflowRef its file and ref
	// ("octo/app/.github/workflows/ci.yml@refs/heads/main").
	Workflow    string `json:"workflow,omitempty"`
	WorkflowRef string `json:"workflow_ref,omitempty"`
	Ref         string `json:"ref,omitempty"`
	SHA         string `json:"sha,omitempty"`
	Event       string `json:"event,omitempty"`
	Actor       string `json:"actor,omitempty"`
	// Workspace is the directory into which the job checks out.
	Workspace string `json:"workspace,omitempty"`
}

// Step is one step of a job with its bounds.
type Step struct {
	Number int       `json:"number"` // from 1, in the order in which they ran
	Name   string    `json:"name"`
	Kind   string    `json:"kind,omitempty"` // as Event.StepKind
	Uses   string    `json:"uses,omitempty"`
	Start  time.Time `json:"start"`
	End    time.Time `json:"end,omitzero"`
	Result string    `json:"result,omitempty"`
}

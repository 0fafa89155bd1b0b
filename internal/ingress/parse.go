package ingress

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"mime"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// Event is what a delivery means to Muster: a job's, an installation's, or
// neither, and then Note says why.
type Event struct {
	Job          *muster.JobEvent
	Installation *muster.InstallationEvent
	// Note is "counted" for an event that is of no use, or begins with
	// "ignored: ". It is empty when Job or Installation is set.
	Note string
}

// Parse reads a delivery. It accepts every payload that GitHub is known to have
// sent, old shapes included, and fails with muster.CodeInvalid only where a job
// or an installation cannot be told apart from another: no id, or no repository.
// No field of a payload names a workspace: the caller finds that by installation
// (4-40). Parse never panics, whatever the bytes.
func Parse(d muster.Delivery) (Event, error) {
	switch d.Event {
	case "workflow_job":
		return parseJob(d)
	case "installation", "installation_repositories":
		return parseInstallation(d)
	}
	return Event{Note: "counted"}, nil
}

// repository and installation are the members that several events share.
type repository struct {
	ID         number `json:"id"`
	FullName   text   `json:"full_name"`
	Private    *bool  `json:"private"`
	Visibility text   `json:"visibility"`
}

// public is true only if GitHub says so: the documented minimal payload has
// neither member, and an unknown repository is not treated as a public one here
// because pools that keep machines would then refuse it (S3-27).
func (r repository) public() bool {
	if r.Visibility != "" {
		return r.Visibility == "public"
	}
	return r.Private != nil && !*r.Private
}

type jobPayload struct {
	Action text `json:"action"`
	Job    struct {
		ID          number  `json:"id"`
		RunID       number  `json:"run_id"`
		RunAttempt  number  `json:"run_attempt"`
		Workflow    text    `json:"workflow_name"`
		Name        text    `json:"name"`
		HeadBranch  text    `json:"head_branch"`
		HeadSHA     text    `json:"head_sha"`
		URL         text    `json:"html_url"`
		Status      text    `json:"status"`
		Conclusion  text    `json:"conclusion"`
		Labels      []text  `json:"labels"`
		RunnerID    number  `json:"runner_id"`
		RunnerName  text    `json:"runner_name"`
		RunnerGroup text    `json:"runner_group_name"`
		CreatedAt   instant `json:"created_at"`
		StartedAt   instant `json:"started_at"`
		CompletedAt instant `json:"completed_at"`
		Steps       []step  `json:"steps"`
	} `json:"workflow_job"`
	Deployment   present    `json:"deployment"`
	Repository   repository `json:"repository"`
	Installation struct {
		ID number `json:"id"`
	} `json:"installation"`
}

type step struct {
	Number      number  `json:"number"`
	Name        text    `json:"name"`
	Status      text    `json:"status"`
	Conclusion  text    `json:"conclusion"`
	StartedAt   instant `json:"started_at"`
	CompletedAt instant `json:"completed_at"`
}

func parseJob(d muster.Delivery) (Event, error) {
	var p jobPayload
	if err := decode(d, &p); err != nil {
		return Event{}, err
	}
	e := muster.JobEvent{
		Action:         string(p.Action),
		Delivery:       d.GUID,
		App:            d.App,
		Sense:          d.Sense,
		ReceivedAt:     d.ReceivedAt,
		TraceID:        d.TraceID,
		InstallationID: int64(p.Installation.ID),
		Repository:     string(p.Repository.FullName),
		RepositoryID:   int64(p.Repository.ID),
		PublicRepo:     p.Repository.public(),
		ID:             int64(p.Job.ID),
		RunID:          int64(p.Job.RunID),
		Attempt:        int(p.Job.RunAttempt),
		Workflow:       string(p.Job.Workflow),
		Name:           string(p.Job.Name),
		HeadBranch:     string(p.Job.HeadBranch),
		HeadSHA:        string(p.Job.HeadSHA),
		URL:            string(p.Job.URL),
		Status:         muster.JobState(p.Job.Status),
		Conclusion:     string(p.Job.Conclusion),
		RunnerID:       int64(p.Job.RunnerID),
		RunnerName:     string(p.Job.RunnerName),
		RunnerGroup:    string(p.Job.RunnerGroup),
		HasDeployment:  bool(p.Deployment),
		CreatedAt:      time.Time(p.Job.CreatedAt),
		StartedAt:      time.Time(p.Job.StartedAt),
		CompletedAt:    time.Time(p.Job.CompletedAt),
	}
	for _, l := range p.Job.Labels {
		if l != "" {
			e.Labels = append(e.Labels, string(l))
		}
	}
	for _, s := range p.Job.Steps {
		e.Steps = append(e.Steps, muster.Step{
			Number: int(s.Number), Name: string(s.Name), Status: string(s.Status), Conclusion: string(s.Conclusion),
			StartedAt: time.Time(s.StartedAt), CompletedAt: time.Time(s.CompletedAt),
		})
	}
	if e.ID <= 0 {
		return Event{}, muster.Errorf(muster.CodeInvalid, "workflow_job without an id")
	}
	// Names go into paths of GitHub's API, so what is no name is refused here.
	owner, name, _ := strings.Cut(e.Repository, "/")
	if err := (muster.Scope{Kind: muster.ScopeRepository, Owner: owner, Repo: name}).Validate(); err != nil {
		return Event{}, muster.Errorf(muster.CodeInvalid, "workflow_job %d without a usable repository name", e.ID)
	}
	switch e.Action {
	case "queued", "waiting", "in_progress", "completed":
	default:
		return Event{Note: "ignored: unknown action"}, nil
	}
	if e.NotAJob() {
		return Event{Note: "ignored: a check run, not a job"}, nil
	}
	return Event{Job: &e}, nil
}

type installationPayload struct {
	Action       text `json:"action"`
	Installation struct {
		ID      number `json:"id"`
		Account struct {
			Login text `json:"login"`
			Slug  text `json:"slug"` // an enterprise has no login
			Type  text `json:"type"`
		} `json:"account"`
		TargetType text `json:"target_type"`
	} `json:"installation"`
	Repositories []repository `json:"repositories"`
	Added        []repository `json:"repositories_added"`
	Removed      []repository `json:"repositories_removed"`
}

func parseInstallation(d muster.Delivery) (Event, error) {
	var p installationPayload
	if err := decode(d, &p); err != nil {
		return Event{}, err
	}
	e := muster.InstallationEvent{
		Action:      string(p.Action),
		Delivery:    d.GUID,
		App:         d.App,
		ReceivedAt:  d.ReceivedAt,
		ID:          int64(p.Installation.ID),
		Account:     string(p.Installation.Account.Login),
		AccountType: string(p.Installation.Account.Type),
		Added:       names(append(p.Added, p.Repositories...)),
		Removed:     names(p.Removed),
	}
	if e.Account == "" {
		e.Account = string(p.Installation.Account.Slug)
	}
	if e.AccountType == "" {
		e.AccountType = string(p.Installation.TargetType)
	}
	if e.ID <= 0 {
		return Event{}, muster.Errorf(muster.CodeInvalid, "%s without an installation id", d.Event)
	}
	switch d.Event + "." + e.Action {
	case "installation.created", "installation.suspend", "installation.unsuspend", "installation.new_permissions_accepted",
		"installation_repositories.added", "installation_repositories.removed":
	case "installation.deleted":
		// GitHub lists the repositories that the App could see until now.
		e.Removed, e.Added = e.Added, nil
	default:
		return Event{Note: "ignored: unknown action"}, nil
	}
	return Event{Installation: &e}, nil
}

func names(repositories []repository) []string {
	var out []string
	for _, r := range repositories {
		if r.FullName != "" {
			out = append(out, string(r.FullName))
		}
	}
	return out
}

func decode(d muster.Delivery, into any) error {
	payload, err := payloadOf(d)
	if err != nil {
		return err
	}
	if err := unmarshal(payload, into); err != nil {
		return &muster.Error{Code: muster.CodeInvalid, Message: d.Event + " is not as GitHub documents it", Err: err}
	}
	return nil
}

// unmarshal is json.Unmarshal, except that a member of an unexpected type counts
// as absent: an event is refused for what it lacks, never for its looks.
func unmarshal(b []byte, into any) error {
	err := json.Unmarshal(b, into)
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return nil
	}
	return err
}

// payloadOf returns the JSON of a delivery, which GitHub sends as the body or, for
// hooks of content type "form", as the field payload of a form.
func payloadOf(d muster.Delivery) ([]byte, error) {
	kind, _, _ := mime.ParseMediaType(d.Headers["Content-Type"])
	if kind != "application/x-www-form-urlencoded" {
		return d.Body, nil
	}
	form, err := url.ParseQuery(string(d.Body))
	if err != nil {
		return nil, muster.Errorf(muster.CodeInvalid, "the form of a %s could not be read", d.Event)
	}
	return []byte(form.Get("payload")), nil
}

// The types below read what GitHub has been seen to send in more than one shape.

// text is a string without NUL, which PostgreSQL cannot store; anything else is "".
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*t = text(strings.ReplaceAll(s, "\x00", ""))
	}
	return nil
}

// number is an integer, also as a string of digits; anything else is 0.
type number int64

func (n *number) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	if v, err := strconv.ParseInt(s, 10, 64); err == nil {
		*n = number(v)
		return nil
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		*n = number(f)
	}
	return nil
}

// instant is a time as RFC 3339 or as seconds since 1970; anything else is zero.
type instant time.Time

func (i *instant) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
			*i = instant(t.UTC())
		}
		return nil
	}
	if v, err := strconv.ParseInt(string(b), 10, 64); err == nil && v > 0 && v < 1<<40 {
		*i = instant(time.Unix(v, 0).UTC())
	}
	return nil
}

// present is true for any value but null.
type present bool

func (p *present) UnmarshalJSON(b []byte) error {
	*p = present(string(b) != "null")
	return nil
}

// String shows an event in a few words, for logs.
func (e Event) String() string {
	switch {
	case e.Job != nil:
		return fmt.Sprintf("job %s %s", e.Job.Key(), e.Job.Action)
	case e.Installation != nil:
		return fmt.Sprintf("installation %d %s", e.Installation.ID, e.Installation.Action)
	}
	return e.Note
}

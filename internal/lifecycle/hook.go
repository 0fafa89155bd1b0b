package lifecycle

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/muster-ci/muster"
)

// Hook is somebody outside who is told of what happens, by POST. Only operators name them:
// the control plane calls the address from where it stands.
type Hook struct {
	// Name is the hook's in the configuration.
	Name string
	URL  string
	// Secret signs what is sent, as GitHub signs webhooks.
	Secret muster.Secret
	// Events are those that are sent: HookFinding, HookTrace.
	Events []string
}

// The events of outgoing webhooks.
const (
	HookFinding = "finding" // rules found something in a trace; one for each trace
	HookTrace   = "trace"   // a trace has ended, whatever became of it
)

// HookEvents are all of them.
var HookEvents = []string{HookFinding, HookTrace}

// HookCall is one delivery to a hook. It holds no secret: it stands in the workflow's history.
type HookCall struct {
	Hook  string
	Event string
}

// HookMessage is the body of a delivery.
type HookMessage struct {
	Event     string `json:"event"`
	Workspace string `json:"workspace"`
	// URL is the job's page, "" until it is known which job it was.
	URL   string     `json:"url,omitempty"`
	Trace HookTraces `json:"trace"`
	// Findings are what rules found, worst first; at most 100 of them.
	Findings []HookFindings `json:"findings,omitempty"`
	// Accept is the command that accepts all that was new in the job, if anything was.
	Accept string `json:"accept,omitempty"`
}

// HookTraces is a trace in a delivery.
type HookTraces struct {
	ID         string           `json:"id"`
	Pool       string           `json:"pool"`
	State      string           `json:"state"`
	Reason     string           `json:"reason,omitempty"`
	Repository string           `json:"repository,omitempty"`
	Workflow   string           `json:"workflow,omitempty"`
	Job        string           `json:"job,omitempty"`
	JobID      int64            `json:"job_id,omitempty"`
	RunID      int64            `json:"run_id,omitempty"`
	Attempt    int              `json:"attempt,omitempty"`
	SHA        string           `json:"sha,omitempty"`
	Events     int64            `json:"events"`
	Lost       map[string]int64 `json:"lost,omitempty"`
	Head       string           `json:"head,omitempty"`
	StartedAt  time.Time        `json:"started_at"`
	EndedAt    time.Time        `json:"ended_at"`
}

// HookFindings is a finding in a delivery.
type HookFindings struct {
	Rule     string `json:"rule"`
	Severity string `json:"severity"`
	Title    string `json:"title"`
	Remedy   string `json:"remedy,omitempty"`
	Step     string `json:"step,omitempty"`
	Process  string `json:"process,omitempty"`
	Subject  string `json:"subject,omitempty"`
	// Fact is what the baseline of the job did not know, such as "host:evil.example".
	Fact string    `json:"fact,omitempty"`
	At   time.Time `json:"at"`
}

// calls are the deliveries that a trace makes.
func calls(hooks []Hook, t muster.Trace, found bool) (out []HookCall) {
	for _, h := range hooks {
		for _, e := range h.Events {
			if e == HookTrace || e == HookFinding && found {
				out = append(out, HookCall{h.Name, e})
			}
		}
	}
	return out
}

// hookCall is the context of a delivery: whoever does not answer is asked for about a day.
func hookCall(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: time.Minute,
		HeartbeatTimeout:    heartbeatTimeout,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: 2 * time.Second, BackoffCoefficient: 2, MaximumInterval: time.Hour, MaximumAttempts: 32,
			NonRetryableErrorTypes: []string{finalError},
		},
	})
}

const (
	hookTimeout = 15 * time.Second
	maxFindings = 100
)

// hookClient follows no redirects: an answer must not send the control plane elsewhere.
var hookClient = &http.Client{Timeout: hookTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// CallHook makes one delivery. It carries the same id each time it is tried, by which the
// receiver knows one that came before.
func (a *Activities) CallHook(ctx context.Context, ref TraceRef, call HookCall) error {
	i := slices.IndexFunc(a.Tracing.Hooks, func(h Hook) bool { return h.Name == call.Hook })
	if i < 0 {
		return nil // taken out of the configuration since
	}
	h := a.Tracing.Hooks[i]
	t, err := a.Store.Trace(ctx, ref.Workspace, ref.id())
	if err != nil {
		return notFoundIsFinal(err)
	}
	found, err := a.Store.DetectionsOf(ctx, ref.Workspace, ref.id())
	if err != nil {
		return err
	}
	body, err := json.Marshal(a.message(call.Event, t, found))
	if err != nil {
		return final(fmt.Errorf("encode a delivery to %s: %w", h.Name, err))
	}
	return post(ctx, h, call.Event, deliveryID(ref, call), body)
}

func (a *Activities) message(event string, t muster.Trace, found []muster.Detection) HookMessage {
	m := HookMessage{Event: event, Workspace: t.Workspace, URL: a.jobPage(t.Job), Trace: HookTraces{
		ID: t.ID.String(), Pool: t.Pool, State: string(t.State), Reason: t.Reason, Repository: t.Repository, Workflow: t.Workflow, Job: t.JobName, JobID: t.Job.ID,
		RunID: t.RunID, Attempt: t.Attempt, SHA: t.SHA, Events: t.Events, Lost: t.Lost, Head: t.Head, StartedAt: t.StartedAt, EndedAt: t.EndedAt,
	}}
	m.Accept = acceptCommand(t.ID.String(), t.Job, found)
	for _, d := range worstFirst(found)[:min(len(found), maxFindings)] {
		m.Findings = append(m.Findings, HookFindings{Rule: d.Rule, Severity: string(d.Severity), Title: d.Title, Remedy: d.Remedy, Step: d.Step, Process: d.Process, Subject: d.Subject, Fact: d.Fact, At: d.At})
	}
	return m
}

// deliveryID is the same for every try of a delivery.
func deliveryID(ref TraceRef, call HookCall) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s", traceWorkflowID(ref), call.Hook, call.Event))
	s := hex.EncodeToString(sum[:16])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// post sends a delivery. An answer in the 400s, but for 408 and 429, is final: the same body
// would get the same answer.
func post(ctx context.Context, h Hook, event, delivery string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return final(fmt.Errorf("webhook %s: its URL cannot be called", h.Name))
	}
	mac := hmac.New(sha256.New, []byte(h.Secret.Reveal()))
	mac.Write(body)
	for key, value := range map[string]string{
		"Content-Type": "application/json", "User-Agent": "muster", "X-Muster-Event": event, "X-Muster-Delivery": delivery,
		"X-Muster-Signature-256": "sha256=" + hex.EncodeToString(mac.Sum(nil)),
	} {
		req.Header.Set(key, value)
	}
	resp, err := hookClient.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // the URL may hold what only its owner knows
		}
		return fmt.Errorf("call webhook %s: %w", h.Name, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection serves again
	switch s := resp.StatusCode; {
	case s >= 200 && s < 300:
		return nil
	case s >= 300 && s < 500 && s != http.StatusRequestTimeout && s != http.StatusTooManyRequests:
		return final(fmt.Errorf("webhook %s answered %s", h.Name, resp.Status))
	default:
		return fmt.Errorf("webhook %s answered %s", h.Name, resp.Status)
	}
}

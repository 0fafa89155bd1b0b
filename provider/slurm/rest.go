package slurm

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/muster-ci/muster/provider"
)

// rest speaks to slurmrestd.
type rest struct {
	base   string // "http://host:port"
	user   string // whom the token is for
	token  *credential
	client *http.Client

	mu      sync.Mutex
	version string // of the API; "" until it was asked for
}

// newRest takes an address such as http://host:6820 or unix:/run/slurmrestd.sock.
func newRest(address, version, user string, token *credential) *rest {
	r := &rest{base: strings.TrimRight(address, "/"), version: version, user: user, token: token, client: &http.Client{
		// A redirect would carry the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		r.base = "http://slurmrestd"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
	}
	r.client.Transport = transport
	return r
}

// maxAnswer is the most that is read of one answer: 64 MiB hold some 20,000 jobs.
const maxAnswer = 64 << 20

// dialects are the versions that this package speaks, the best first. Those up to
// v0.0.38 are Slurm 22.05's; v0.0.39 is of neither kind and is left out.
var dialects = []string{"v0.0.43", "v0.0.42", "v0.0.41", "v0.0.40", "v0.0.44", "v0.0.38", "v0.0.37", "v0.0.36"}

// older reports whether a version has plain numbers and an object as environment.
func older(version string) bool {
	n, err := strconv.Atoi(version[strings.LastIndex(version, ".")+1:])
	return err == nil && n < 40
}

var servedPath = regexp.MustCompile(`"\\?/slurm\\?/(v0\.0\.[0-9]+)\\?/`)

// api returns the version of the API: the configured one, or the best that both
// sides know.
func (r *rest) api(ctx context.Context) (string, error) {
	r.mu.Lock()
	known := r.version
	r.mu.Unlock()
	if known != "" {
		return known, nil
	}
	status, body, err := r.do(ctx, http.MethodGet, "/openapi/v3", r.user, nil)
	if err != nil {
		return "", err
	}
	if status != http.StatusOK {
		return "", fmt.Errorf("%w: ask slurmrestd for its versions: status %d: %.200s", provider.ErrTransient, status, body)
	}
	var served []string
	for _, m := range servedPath.FindAllSubmatch(body, -1) {
		served = append(served, string(m[1]))
	}
	for _, d := range dialects {
		if slices.Contains(served, d) {
			r.mu.Lock()
			r.version = d
			r.mu.Unlock()
			return d, nil
		}
	}
	slices.Sort(served)
	return "", fmt.Errorf("%w: slurmrestd serves %v, and this program speaks %v: set api_version", provider.ErrTransient, slices.Compact(served), dialects)
}

// do makes one request and reads its answer.
func (r *rest) do(ctx context.Context, method, path, user string, body any) (int, []byte, error) {
	token, err := r.token.get(ctx)
	if err != nil {
		return 0, nil, err
	}
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.base+path, reader)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", provider.ErrInvalid, err)
	}
	req.Header.Set("X-SLURM-USER-NAME", user)
	req.Header.Set("X-SLURM-USER-TOKEN", token.Reveal())
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, nil, calling(ctx, "call slurmrestd", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return 0, nil, calling(ctx, "read slurmrestd's answer", err)
	}
	if len(text) > maxAnswer {
		return 0, nil, fmt.Errorf("%w: slurmrestd's answer is larger than %d bytes", provider.ErrTransient, maxAnswer)
	}
	if resp.StatusCode == http.StatusUnauthorized {
		r.token.forget()
		return 0, nil, fmt.Errorf("%w: slurmrestd refuses the token of user %s: %.200s", provider.ErrTransient, user, text)
	}
	return resp.StatusCode, text, nil
}

// calling makes an error of a call that got no answer. The end of the caller's
// context stays visible in it.
func calling(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // without the address, which the operator knows
	}
	return fmt.Errorf("%w: %s: %w", provider.ErrTransient, what, err)
}

// setNumber is a number as the newer dialect writes it.
type setNumber struct {
	Set    bool  `json:"set"`
	Number int64 `json:"number"`
}

func (r *rest) submit(ctx context.Context, s submission) (int64, []string, error) {
	version, err := r.api(ctx)
	if err != nil {
		return 0, nil, err
	}
	j := map[string]any{
		"name": s.name, "comment": s.comment, "partition": s.partition,
		"current_working_directory": "/", "standard_output": s.output, "standard_error": s.output,
		"tasks": 1, "dependency": "singleton",
	}
	for key, v := range map[string]string{"qos": s.qos, "account": s.account, "constraints": s.features, "reservation": s.reserved} {
		if v != "" {
			j[key] = v
		}
	}
	if s.partition == "" {
		delete(j, "partition")
	}
	if s.cpus > 0 {
		j["cpus_per_task"] = s.cpus
	}
	if s.nice != 0 {
		j["nice"] = s.nice
	}
	if older(version) {
		env := map[string]string{}
		for name, v := range s.environment {
			env[name] = v.Reveal()
		}
		j["environment"] = env
		j["time_limit"] = s.minutes
		if s.memoryMiB > 0 {
			j["memory_per_node"] = s.memoryMiB
		}
		if s.gres != "" {
			j["gres"] = s.gres
		}
		// "requeue" of these versions means true whatever its value is.
		j["no_requeue"] = true
	} else {
		env := make([]string, 0, len(s.environment))
		for name, v := range s.environment {
			env = append(env, name+"="+v.Reveal())
		}
		slices.Sort(env)
		j["environment"] = env
		j["time_limit"] = setNumber{true, s.minutes}
		if s.memoryMiB > 0 {
			j["memory_per_node"] = setNumber{true, s.memoryMiB}
		}
		if s.gres != "" {
			j["tres_per_node"] = "gres/" + s.gres
		}
		j["requeue"] = false
	}
	status, body, err := r.do(ctx, http.MethodPost, "/slurm/"+version+"/job/submit", cmp.Or(s.user, r.user), map[string]any{"script": s.script, "job": j})
	if err != nil {
		return 0, nil, err
	}
	var answer struct {
		ID       number      `json:"job_id"`
		Errors   []complaint `json:"errors"`
		Warnings []complaint `json:"warnings"`
		Message  string      `json:"job_submit_user_msg"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, nil, r.odd("submit", status, body)
	}
	if answer.ID == 0 {
		if len(answer.Errors) == 0 {
			return 0, nil, r.odd("submit", status, body)
		}
		return 0, nil, classified("slurmrestd refuses the job", strings.TrimSpace(join(answer.Errors)+" "+answer.Message))
	}
	// A job that was accepted may still carry complaints, in either list.
	var warnings []string
	for _, c := range append(answer.Errors, answer.Warnings...) {
		warnings = append(warnings, c.String())
	}
	return int64(answer.ID), warnings, nil
}

// odd is an answer that says nothing of what was asked.
func (r *rest) odd(what string, status int, body []byte) error {
	return fmt.Errorf("%w: %s: slurmrestd answered %d: %.200s", provider.ErrTransient, what, status, bytes.TrimSpace(body))
}

func (r *rest) jobs(ctx context.Context) ([]job, error) {
	version, err := r.api(ctx)
	if err != nil {
		return nil, err
	}
	path := "/slurm/" + version + "/jobs"
	if !older(version) {
		path += "/"
	}
	status, body, err := r.do(ctx, http.MethodGet, path, r.user, nil)
	if err != nil {
		return nil, err
	}
	var l listing
	if err := json.Unmarshal(body, &l); err != nil {
		return nil, r.odd("list jobs", status, body)
	}
	// An empty list with a complaint must not read as "no jobs".
	if status != http.StatusOK || len(l.Errors) > 0 {
		if len(l.Errors) == 0 {
			return nil, r.odd("list jobs", status, body)
		}
		return nil, fmt.Errorf("%w: list jobs: %s", provider.ErrTransient, join(l.Errors))
	}
	return l.ours(), nil
}

// noSuchJob is ESLURM_INVALID_JOB_ID, alreadyDone ESLURM_ALREADY_DONE.
const noSuchJob, alreadyDone = 2017, 2021

func (r *rest) cancel(ctx context.Context, j job) error {
	version, err := r.api(ctx)
	if err != nil {
		return err
	}
	status, body, err := r.do(ctx, http.MethodDelete, fmt.Sprintf("/slurm/%s/job/%d", version, j.id), cmp.Or(j.user, r.user), nil)
	if err != nil {
		return err
	}
	var answer struct {
		Errors []complaint `json:"errors"`
	}
	if err := json.Unmarshal(body, &answer); err != nil && status != http.StatusOK {
		return r.odd("cancel", status, body)
	}
	for _, c := range answer.Errors {
		if n := int64(c.Number + c.Code); n != noSuchJob && n != alreadyDone {
			return fmt.Errorf("%w: cancel job %d: %s", provider.ErrTransient, j.id, join(answer.Errors))
		}
	}
	return nil
}

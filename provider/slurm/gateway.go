package slurm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
	"github.com/muster-ci/muster/provider"
)

// gateway asks the Slurm gateway. It holds the secret that the two share and
// nothing of Slurm's.
type gateway struct {
	url    string
	secret string // the file's path; read for every call, so that it can be changed
	client *http.Client
}

func newGateway(cfg Config) *gateway {
	return &gateway{url: strings.TrimRight(cfg.GatewayURL, "/"), secret: cfg.GatewayTokenFile, client: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// classes are the words of a refusal.
var classes = map[string]error{
	"invalid": provider.ErrInvalid, "forbidden": provider.ErrInvalid, "unauthenticated": provider.ErrTransient, "conflict": provider.ErrInvalid,
	"not_found": provider.ErrNotFound, "capacity": provider.ErrCapacity, "quota": provider.ErrQuota, "transient": provider.ErrTransient,
}

// maxReply is the most that is read of one answer.
const maxReply = 16 << 20

func (g *gateway) call(ctx context.Context, method, path string, body, into any) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	secret, err := os.ReadFile(g.secret)
	if err != nil {
		return fmt.Errorf("%w: read gateway_token_file: %w", provider.ErrTransient, err)
	}
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, g.url+path, reader)
	if err != nil {
		return fmt.Errorf("%w: %w", provider.ErrInvalid, err)
	}
	req.Header.Set(wire.AuthToken, strings.TrimSpace(string(secret)))
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return calling(ctx, "call the Slurm gateway", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return calling(ctx, "read the Slurm gateway's answer", err)
	}
	if resp.StatusCode/100 == 2 {
		if into == nil {
			return nil
		}
		if err := json.Unmarshal(text, into); err != nil {
			return fmt.Errorf("%w: the Slurm gateway's answer is not what it should be: %w", provider.ErrTransient, err)
		}
		return nil
	}
	var refusal wire.GatewayError
	if err := json.Unmarshal(text, &refusal); err != nil || classes[refusal.Class] == nil {
		return fmt.Errorf("%w: the Slurm gateway answered %d", provider.ErrTransient, resp.StatusCode)
	}
	if refusal.Detail != "" && errors.Is(classes[refusal.Class], provider.ErrNotFound) {
		return &provider.GoneError{Detail: refusal.Detail}
	}
	return fmt.Errorf("%w: the Slurm gateway says: %s", classes[refusal.Class], refusal.Message)
}

// Create asks for the runner's job: message 2, launchWorker. Whom it runs as is the
// gateway's to say.
func (g *gateway) Create(ctx context.Context, spec provider.Spec, user string) (provider.Instance, error) {
	if err := check(spec, user, false); err != nil {
		return provider.Instance{}, err
	}
	var in wire.GatewayInstance
	err := g.call(ctx, http.MethodPost, wire.RunnerStartPath, wire.StartRequest{
		GitHubURL: spec.Build.GitHubURL, LauncherToken: spec.Boot.Token.Reveal(), RunnerLabels: spec.Build.Labels,
		TokenURL: strings.TrimRight(spec.Boot.URL, "/") + wire.GHARunnerPath, Owner: spec.Owner,
		CPUs: spec.Offering.CPUs, MemoryMiB: spec.Offering.MemoryMiB, GPUs: spec.Offering.GPUs,
		MaxMilliseconds: spec.MaxAge.Milliseconds(), TraceID: plainWord(spec.TraceID), Pool: plainWord(spec.Pool), Workspace: plainWord(spec.Workspace),
	}, &in)
	if err != nil {
		return provider.Instance{}, fmt.Errorf("start %s: %w", spec.Runner, err)
	}
	return instance(in), nil
}

func instance(in wire.GatewayInstance) provider.Instance {
	return provider.Instance{ID: in.JobID, Runner: muster.RunnerID(in.Runner), State: provider.InstanceState(in.State), Detail: in.Detail, CreatedAt: in.CreatedAt}
}

func (g *gateway) one(owner string, runner muster.RunnerID) string {
	return wire.RunnerJobsPath + "/" + url.PathEscape(string(runner)) + "?owner=" + url.QueryEscape(owner)
}

func (g *gateway) Delete(ctx context.Context, owner string, runner muster.RunnerID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !runner.Valid() {
		return fmt.Errorf("%w: %.80q is not the id of a runner", provider.ErrNotFound, runner)
	}
	return g.call(ctx, http.MethodDelete, g.one(owner, runner), nil, nil)
}

func (g *gateway) Get(ctx context.Context, owner string, runner muster.RunnerID) (provider.Instance, error) {
	if err := ctx.Err(); err != nil {
		return provider.Instance{}, err
	}
	if !runner.Valid() {
		return provider.Instance{}, fmt.Errorf("%w: %.80q is not the id of a runner", provider.ErrNotFound, runner)
	}
	var in wire.GatewayInstance
	if err := g.call(ctx, http.MethodGet, g.one(owner, runner), nil, &in); err != nil {
		return provider.Instance{}, err
	}
	return instance(in), nil
}

func (g *gateway) List(ctx context.Context, owner string) ([]provider.Instance, error) {
	var l wire.GatewayList
	if err := g.call(ctx, http.MethodGet, wire.RunnerJobsPath+"?owner="+url.QueryEscape(owner), nil, &l); err != nil {
		return nil, err
	}
	if l.Jobs == nil {
		return nil, fmt.Errorf("%w: %w", provider.ErrTransient, errors.New("the Slurm gateway's answer has no list in it"))
	}
	out := make([]provider.Instance, 0, len(l.Jobs))
	for _, in := range l.Jobs {
		out = append(out, instance(in))
	}
	return out, nil
}

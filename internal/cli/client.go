package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/gen/muster/v1/musterv1connect"
	"github.com/muster-ci/muster/internal/config"
)

const (
	defaultServer = "http://127.0.0.1:8080"
	// callTimeout bounds a call that is no stream (S1-21, S1-105).
	callTimeout = 30 * time.Second
	// completeTimeout bounds what the shell's completion waits for.
	completeTimeout = 2 * time.Second
)

// client is the services of one control plane.
type client struct {
	pools         musterv1connect.PoolServiceClient
	runners       musterv1connect.RunnerServiceClient
	jobs          musterv1connect.JobServiceClient
	deliveries    musterv1connect.DeliveryServiceClient
	usage         musterv1connect.UsageServiceClient
	installations musterv1connect.InstallationServiceClient
	system        musterv1connect.SystemServiceClient
	runs          musterv1connect.RunServiceClient
	senses        musterv1connect.SenseServiceClient
	machines      musterv1connect.MachineServiceClient
	providers     musterv1connect.ProviderServiceClient
	traces        musterv1connect.TraceServiceClient

	// What downloads need beside the calls.
	http  *http.Client
	base  string
	token string
}

// address is the control plane that is meant.
func (a *app) address() string {
	for _, s := range []string{a.server, a.Getenv("MUSTER_SERVER")} {
		if s != "" {
			return strings.TrimRight(s, "/")
		}
	}
	return defaultServer
}

// dial makes clients; nothing is sent yet.
func (a *app) dial() (*client, error) {
	base := a.address()
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, usagef("%q is not the address of a control plane; write --server http://HOST:PORT", base)
	}
	token := a.Getenv("MUSTER_TOKEN")
	if a.tokenFile != "" {
		data, err := os.ReadFile(a.tokenFile)
		if err != nil {
			return nil, usagef("--token-file: %s", err)
		}
		token = string(bytes.TrimSpace(data))
	}
	if token != "" && u.Scheme == "http" && !config.Loopback(u.Host) && !a.insecure {
		return nil, usagef("the operator token would cross the network in clear to %s; use https, or --insecure to accept that", base)
	}
	hc := &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: callTimeout,
		ForceAttemptHTTP2:     true,
	}}
	opt := connect.WithInterceptors(calls{token})
	return &client{
		pools:         musterv1connect.NewPoolServiceClient(hc, base, opt),
		runners:       musterv1connect.NewRunnerServiceClient(hc, base, opt),
		jobs:          musterv1connect.NewJobServiceClient(hc, base, opt),
		deliveries:    musterv1connect.NewDeliveryServiceClient(hc, base, opt),
		usage:         musterv1connect.NewUsageServiceClient(hc, base, opt),
		installations: musterv1connect.NewInstallationServiceClient(hc, base, opt),
		system:        musterv1connect.NewSystemServiceClient(hc, base, opt),
		runs:          musterv1connect.NewRunServiceClient(hc, base, opt),
		senses:        musterv1connect.NewSenseServiceClient(hc, base, opt),
		machines:      musterv1connect.NewMachineServiceClient(hc, base, opt),
		providers:     musterv1connect.NewProviderServiceClient(hc, base, opt),
		traces:        musterv1connect.NewTraceServiceClient(hc, base, opt),
		http:          hc, base: base, token: token,
	}, nil
}

// calls adds the token, and a deadline to calls that are no streams.
type calls struct{ token string }

func (c calls) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if c.token != "" {
			req.Header().Set("Authorization", "Bearer "+c.token)
		}
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return next(ctx, req)
	}
}

func (c calls) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		if c.token != "" {
			conn.RequestHeader().Set("Authorization", "Bearer "+c.token)
		}
		return conn
	}
}

func (c calls) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// download opens what is too large for a call. The caller closes it. Errors are those of a
// call.
func (c *client) download(ctx context.Context, path, encoding string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("download: %w", err)
	}
	if encoding != "" {
		req.Header.Set("Accept-Encoding", encoding)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var refusal struct{ Code, Message string }
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what there is of it has to do
	if json.Unmarshal(body, &refusal) != nil || refusal.Message == "" {
		return nil, connect.NewError(connect.CodeUnimplemented, errors.New(resp.Status))
	}
	var code connect.Code
	if code.UnmarshalText([]byte(refusal.Code)) != nil {
		code = connect.CodeUnknown
	}
	return nil, connect.NewError(code, errors.New(refusal.Message))
}

// explain says an error in one line, with what to do about it.
func (a *app) explain(err error) string {
	e, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return oneLine(err.Error())
	}
	at := a.address()
	_, isDNS := errors.AsType[*net.DNSError](err)
	_, isDial := errors.AsType[*net.OpError](err)
	_, isCert := errors.AsType[*tls.CertificateVerificationError](err)
	_, isPlain := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("no control plane answers at %s: start it with muster serve, or name another with --server", at)
	case isDNS:
		return fmt.Sprintf("the name in %s is not known: correct --server or MUSTER_SERVER", at)
	case isCert:
		return fmt.Sprintf("the certificate of %s is not trusted by this machine (%s): install its authority's certificate or set SSL_CERT_FILE", at, oneLine(errors.Unwrap(e).Error()))
	case isPlain || strings.Contains(e.Message(), "server gave HTTP response to HTTPS client"):
		return fmt.Sprintf("%s does not speak TLS: write http:// in --server", at)
	case e.Code() == connect.CodeUnimplemented || strings.HasPrefix(e.Message(), "404"):
		return fmt.Sprintf("what answers at %s is not a control plane of this version: check --server, and compare muster version on both sides", at)
	case e.Code() == connect.CodeDeadlineExceeded:
		return fmt.Sprintf("the control plane at %s did not answer in time", at)
	case isDial:
		return fmt.Sprintf("no control plane can be reached at %s: %s", at, oneLine(e.Message()))
	}
	return oneLine(e.Message())
}

// completions of names: what the control plane knows, or nothing.

func (a *app) completePools(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, args, func(ctx context.Context, api *client) (names []string, err error) {
		resp, err := api.pools.ListPools(ctx, &v1.ListPoolsRequest{})
		for _, p := range resp.GetPools() {
			names = append(names, p.Name+"\t"+p.Scope)
		}
		return names, err
	})
}

func (a *app) completeRunners(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, args, func(ctx context.Context, api *client) (names []string, err error) {
		resp, err := api.runners.ListRunners(ctx, &v1.ListRunnersRequest{})
		for _, r := range resp.GetRunners() {
			names = append(names, r.Id+"\t"+r.Pool+" "+r.Status)
		}
		return names, err
	})
}

func (a *app) completeJobs(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, args, func(ctx context.Context, api *client) (names []string, err error) {
		resp, err := api.jobs.ListJobs(ctx, &v1.ListJobsRequest{})
		for _, j := range resp.GetJobs() {
			names = append(names, fmt.Sprintf("%d\t%s %s %s", j.Id, j.State, j.Repository, j.Name))
		}
		return names, err
	})
}

// values completes a flag's value as names completes an argument, whatever arguments are there.
func values(names cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return names(cmd, nil, begun)
	}
}

// oneOf completes a flag's value with one of some words.
func oneOf(choices []string) cobra.CompletionFunc {
	return cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp)
}

func (a *app) complete(cmd *cobra.Command, args []string, names func(context.Context, *client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	api, err := a.dial()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
	defer cancel()
	all, err := names(ctx, api)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}

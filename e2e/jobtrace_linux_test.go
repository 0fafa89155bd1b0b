package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"connectrpc.com/connect"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/gen/muster/v1/musterv1connect"
	"github.com/muster-ci/muster/githubsim"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/wire"
)

// tracedWorkflow has one job that builds, and one that reads what it should not. %s is an
// address that both reach.
const tracedWorkflow = `name: traced
on: workflow_dispatch
jobs:
  build:
    runs-on: [self-hosted, linux]
    steps:
      - name: Compile
        run: |
          mkdir -p out
          for i in 1 2 3; do /bin/cp /etc/hostname out/object-$i; done
      - name: Publish
        run: |
          curl --silent --fail --header "Authorization: Bearer planted-5b1d" http://%[1]s/publish
          rm out/object-1
  careless:
    runs-on: [self-hosted, linux]
    steps:
      - name: Prepare
        run: mkdir -p ~/.aws && echo key=planted-77aa > ~/.aws/credentials
      - name: Look around
        run: python3 -c 'import os; print(len(open(os.path.expanduser("~/.aws/credentials")).read()))'
`

func (s *Stand) traces() musterv1connect.TraceServiceClient {
	return musterv1connect.NewTraceServiceClient(http.DefaultClient, s.URL)
}

// repositoryWith is a world with one repository that has a workflow.
func repositoryWith(workflow string) func(*githubsim.Server) error {
	return func(sim *githubsim.Server) error {
		files := fstest.MapFS{".github/workflows/ci.yml": &fstest.MapFile{Data: []byte(workflow)}}
		return errors.Join(sim.CreateOrganization("acme"), sim.CreateRepository(Repo, githubsim.RepositoryOptions{Private: true, Files: files}))
	}
}

// analysed waits until every job of a run has a trace that is not under way any more and was
// looked at, and returns them by the job's key.
func (s *Stand) analysed(t *testing.T, n int) map[string]*v1.Trace {
	t.Helper()
	found := map[string]*v1.Trace{}
	eventually(t, 30*time.Second, func() (bool, string) {
		resp, err := s.traces().ListTraces(t.Context(), &v1.ListTracesRequest{})
		if err != nil {
			return false, err.Error()
		}
		clear(found)
		for _, tr := range resp.Traces {
			if tr.State != "recording" && (tr.AnalysedAt != nil || tr.AnalysisError != "") {
				found[tr.JobKey] = tr
			}
		}
		log, _ := os.ReadFile(s.LogFile())
		return len(found) == n, fmt.Sprintf("traces %v\n%s", resp.Traces, tail(log, 4000))
	})
	return found
}

// traced demands that n jobs have a whole trace each, with programs in it.
func (s *Stand) traced(t *testing.T, n int) {
	t.Helper()
	resp, err := s.traces().ListTraces(t.Context(), &v1.ListTracesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tr := range resp.Traces {
		if tr.State != "complete" || tr.Events < 5 || tr.JobId == 0 || len(tr.Lost) > 0 {
			t.Errorf("%v", tr)
		}
	}
	if len(resp.Traces) != n {
		t.Errorf("%d traces of %d jobs", len(resp.Traces), n)
	}
}

// S0-20 S0-23 S0-24 S0-25 S4-56 S0-8: what a job did is recorded by the kernel, belongs to its job and
// steps, is whole, outlives its machine, is the same by every way to it, and is looked at; the
// machine is not told to have finished before its trace is sealed.
func TestTraceOfAJob(t *testing.T) {
	t.Parallel()
	reached := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer reached.Close()
	address := reached.Listener.Addr().(*net.TCPAddr)
	var mu sync.Mutex
	order := map[string][]string{} // by session: the ends of traces and runners
	var checks []string            // what was written of check runs
	s := stand(t, Options{
		Sim: githubsim.Config{Seed: 71}, World: repositoryWith(fmt.Sprintf(tracedWorkflow, address)),
		Settings: quick, Pool: "no_job_timeout: 5s, report_checks: true",
		WatchGitHub: func(x Exchange) {
			if x.Method != http.MethodGet && strings.Contains(x.Path, "/check-runs") && x.Status < 300 {
				mu.Lock()
				defer mu.Unlock()
				checks = append(checks, string(x.Request))
			}
		},
		WatchAgents: func(x Exchange) {
			mu.Lock()
			defer mu.Unlock()
			switch session := x.Header.Get("Authorization"); x.Path {
			case wire.TraceSealPath:
				order[session] = append(order[session], "sealed")
			case wire.ReportPath:
				var r wire.Report
				if json.Unmarshal(x.Request, &r) == nil && r.Phase == wire.PhaseFinished {
					order[session] = append(order[session], "finished")
				}
			}
		},
	})
	s.Serve(t)
	if _, err := s.Sim.Dispatch(Repo, ".github/workflows/ci.yml", "workflow_dispatch", nil); err != nil {
		t.Fatal(err)
	}
	s.AwaitJobs(t, 2, time.Minute)
	found := s.analysed(t, 2)
	truth, receipts := s.calm(t, 30*time.Second)
	once(t, truth, receipts, "success")

	mu.Lock()
	for session, said := range order {
		if !slices.Equal(said, []string{"sealed", "finished"}) {
			t.Errorf("the agent with %.20s… said %v", session, said)
		}
	}
	if len(order) != 2 {
		t.Errorf("%d agents sealed or finished", len(order))
	}
	mu.Unlock()

	for key, tr := range found {
		if tr.State != "complete" || tr.JobId == 0 || tr.Repository != Repo || tr.Events < 10 || len(tr.Lost) > 0 || tr.AnalysisError != "" {
			t.Errorf("trace of %s: %v", key, tr)
		}
	}
	build := found["build"]
	if build == nil {
		t.Fatalf("no trace of build among %v", found)
	}
	job := fmt.Sprint(build.JobId)

	// What is downloaded are the events, each in its step.
	text, stderr, code := s.CLI(t, "trace", "get", job)
	if code != 0 {
		t.Fatalf("trace get: %s", stderr)
	}
	if strings.Contains(text, "planted-5b1d") {
		t.Error("the trace has a token that was an argument")
	}
	steps := map[int]string{}
	at := map[string]string{} // what happened → in which step
	for e, err := range trace.Events(strings.NewReader(text)) {
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case e.Type == trace.StepStart:
			steps[e.Step] = e.Name
		case e.Type == trace.ProcessExec && filepath.Base(e.Path) == "cp":
			at["cp"] = steps[e.Step]
		case e.Type == trace.NetConnect && e.Port == address.Port:
			at["connect"] = steps[e.Step]
		case e.Type == trace.FileDelete && strings.HasSuffix(e.Path, "/out/object-1"):
			at["delete"] = steps[e.Step]
		case e.Type == trace.FileWrite && strings.HasSuffix(e.Path, "/out/object-2") && e.Bytes > 0:
			at["write"] = steps[e.Step]
		}
	}
	for what, step := range map[string]string{"cp": "Compile", "write": "Compile", "connect": "Publish", "delete": "Publish"} {
		if at[what] != step {
			t.Errorf("%s happened in step %q, which is %q", what, at[what], step)
		}
	}
	if n := int64(strings.Count(text, "\n")); n != build.Events {
		t.Errorf("%d events were downloaded, and there are %d", n, build.Events)
	}

	// A question over all traces finds the same connection.
	query := fmt.Sprintf(`type=="net_connect" && port==%d`, address.Port)
	if out, stderr, code := s.CLI(t, "trace", "query", query, "--json"); code != 0 || !strings.Contains(out, `"job_name": "build"`) && !strings.Contains(out, `"job_name":"build"`) {
		t.Errorf("trace query: %s%s", out, stderr)
	}
	for view, want := range map[string]string{"overview": "complete", "timeline": "Compile", "execution": "curl", "network": "127.0.0.1", "files": "object-2", "performance": "Publish"} {
		if out, stderr, code := s.CLI(t, "trace", "show", job, "--view", view); code != 0 || !strings.Contains(out, want) {
			t.Errorf("trace show --view %s without %q:\n%s%s", view, want, out, stderr)
		}
	}

	// The bundle holds without the control plane, and no longer when a byte of it changes.
	bundle, keys := filepath.Join(s.Dir, "job.bundle"), filepath.Join(s.Dir, "keys.pem")
	if _, stderr, code := s.CLI(t, "trace", "get", job, "--bundle", "-o", bundle); code != 0 {
		t.Fatalf("trace get --bundle: %s", stderr)
	}
	pem, stderr, code := s.CLI(t, "trace", "key")
	if code != 0 {
		t.Fatalf("trace key: %s", stderr)
	}
	if err := os.WriteFile(keys, []byte(pem), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, stderr, code := s.CLI(t, "trace", "verify", bundle, "--key", keys); code != 0 {
		t.Errorf("trace verify: %s%s", out, stderr)
	}
	whole, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(whole, []byte(`"data":"`)) // of the first segment
	if i < 0 {
		t.Fatal("the bundle has no segment")
	}
	whole[i+40] ^= 1 // still base64
	if err := os.WriteFile(bundle, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, code := s.CLI(t, "trace", "verify", bundle, "--key", keys); code == 0 {
		t.Errorf("a changed bundle is verified: %s", out)
	}

	// A rule found what the other job did, and said it on GitHub.
	findings, err := s.traces().ListFindings(t.Context(), &v1.ListFindingsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(findings.Findings) == 0 {
		t.Fatal("nothing was found")
	}
	for _, f := range findings.Findings {
		if f.JobId != found["careless"].GetJobId() || f.Step != "Look around" || !strings.HasSuffix(f.Subject, "/.aws/credentials") {
			t.Errorf("found %v", f)
		}
	}
	eventually(t, 20*time.Second, func() (bool, string) {
		mu.Lock()
		defer mu.Unlock()
		return slices.ContainsFunc(checks, func(body string) bool { return strings.Contains(body, ".aws/credentials") }), fmt.Sprintf("check runs %v", checks)
	})
}

// A control plane that is killed while jobs are recorded loses nothing of them: the agents keep
// what it did not take.
func TestTracesSurviveTheControlPlane(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{Sim: githubsim.Config{Seed: 72}, World: repositoryWith(`name: long
on: workflow_dispatch
jobs:
  build:
    runs-on: [self-hosted, linux]
    strategy: {matrix: {n: [1, 2, 3]}}
    steps:
      - run: for i in $(seq 40); do /bin/true; sleep 0.1; done
`), Settings: quick})
	p := s.Serve(t)
	if _, err := s.Sim.Dispatch(Repo, ".github/workflows/ci.yml", "workflow_dispatch", nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() (bool, string) {
		resp, err := s.traces().ListTraces(t.Context(), &v1.ListTracesRequest{States: []string{"recording"}})
		return err == nil && len(resp.GetTraces()) == 3, fmt.Sprint(resp, err)
	})
	p.Kill()
	s.Serve(t)
	s.AwaitJobs(t, 3, time.Minute)
	s.calm(t, 30*time.Second)
	traces, err := s.traces().ListTraces(t.Context(), &v1.ListTracesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tr := range traces.Traces {
		if tr.State != "complete" {
			t.Errorf("%v", tr)
		}
		stream, err := s.traces().QueryTraces(t.Context(), &v1.QueryTracesRequest{
			Query: `type=="process_exec" && path.endsWith("/true")`, Selection: &v1.TraceSelection{Trace: &v1.TraceRef{Trace: tr.Id}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := events(t, stream); n != 40 {
			t.Errorf("%s: the job began 40 programs, and its trace has %d", tr.Id, n)
		}
	}
	if len(traces.Traces) != 3 {
		t.Errorf("%d traces", len(traces.Traces))
	}
}

func events(t *testing.T, stream *connect.ServerStreamForClient[v1.QueryTracesResponse]) (n int) {
	t.Helper()
	for stream.Receive() {
		n += len(stream.Msg().Events)
	}
	if err := stream.Err(); err != nil {
		t.Error(err)
	}
	return n
}

// S4-65: a pool that enforces egress refuses what is not on its list, in the kernel, for its jobs
// only; what was refused is on the job's page.
func TestEgressIsEnforced(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{
		Sim: githubsim.Config{Seed: 73}, Settings: quick, Pool: "no_job_timeout: 5s, egress: {mode: enforce,allow: [allowed.example]}",
		World: repositoryWith(`name: reach
on: workflow_dispatch
jobs:
  build:
    runs-on: [self-hosted, linux]
    steps:
      - name: Reach out
        run: |
          if curl --silent --max-time 5 http://192.0.2.7/; then exit 1; fi
          python3 -c '
          import socket, errno
          try: socket.create_connection(("192.0.2.7", 443), 5)
          except PermissionError: print("refused")
          else: raise SystemExit(1)'
`),
	})
	s.Serve(t)
	if _, err := s.Sim.Dispatch(Repo, ".github/workflows/ci.yml", "workflow_dispatch", nil); err != nil {
		t.Fatal(err)
	}
	s.AwaitJobs(t, 1, time.Minute)
	tr := s.analysed(t, 1)["build"]
	truth, receipts := s.calm(t, 30*time.Second)
	once(t, truth, receipts, "success") // the job proves that it got EPERM
	if tr.GetState() != "complete" || tr.GetEgress() != "enforce" || tr.GetRefused() < 2 {
		t.Fatalf("trace %v", tr)
	}
	out, stderr, code := s.CLI(t, "trace", "show", fmt.Sprint(tr.JobId), "--view", "network")
	if code != 0 || !strings.Contains(out, "192.0.2.7") || !strings.Contains(out, "refused") && !strings.Contains(out, "denied") {
		t.Errorf("network view:\n%s%s", out, stderr)
	}
	status, page := get(t.Context(), s.URL+fmt.Sprintf("/jobs/%d", tr.JobId))
	if status != http.StatusOK || !strings.Contains(page, "refused") {
		t.Errorf("the job's page says nothing of what was refused: %d", status)
	}
}

// A run that does what the last good one did not is told apart from it: what is new, and nothing
// else.
func TestTraceAgainstTheLastGoodOne(t *testing.T) {
	t.Parallel()
	changed := filepath.Join(t.TempDir(), "changed")
	s := stand(t, Options{Sim: githubsim.Config{Seed: 74}, Settings: quick, World: repositoryWith(fmt.Sprintf(`name: steady
on: workflow_dispatch
jobs:
  build:
    runs-on: [self-hosted, linux]
    steps:
      - name: Build
        run: |
          /bin/cp /etc/hostname object
          if [ -e %[1]s ]; then od object && sha256sum object; fi
`, changed))})
	s.Serve(t)
	run := func(n int) string {
		t.Helper()
		if _, err := s.Sim.Dispatch(Repo, ".github/workflows/ci.yml", "workflow_dispatch", nil); err != nil {
			t.Fatal(err)
		}
		s.AwaitJobs(t, n, time.Minute)
		s.calm(t, 30*time.Second)
		var newest *v1.Trace
		eventually(t, 20*time.Second, func() (bool, string) {
			resp, err := s.traces().ListTraces(t.Context(), &v1.ListTracesRequest{})
			if err != nil || len(resp.Traces) != n {
				return false, fmt.Sprint(resp, err)
			}
			newest = resp.Traces[0]
			return newest.AnalysedAt != nil, newest.String()
		})
		return fmt.Sprint(newest.JobId)
	}
	first := run(1)
	// Somebody looks at what one run did and calls it usual: from then on, what is new is found.
	if out, stderr, code := s.CLI(t, "trace", "baseline", "accept", first, "--all", "--reason", "looked at"); code != 0 || !strings.Contains(out, "accepted after 1 run") {
		t.Errorf("accept --all:\n%s%s", out, stderr)
	}
	same := run(2)
	if out, stderr, code := s.CLI(t, "trace", "diff", same); code != 0 || strings.Contains(out, "/usr/bin/") {
		t.Errorf("twice the same:\n%s%s", out, stderr)
	}
	if err := os.WriteFile(changed, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	other := run(3)
	out, stderr, code := s.CLI(t, "trace", "diff", other)
	for _, want := range []string{"/usr/bin/od", "/usr/bin/sha256sum"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("what is new has no %s:\n%s%s", want, out, stderr)
		}
	}
	if strings.Contains(out, "/cp") {
		t.Errorf("what was there before is new:\n%s", out)
	}
	found := func(job string) string {
		t.Helper()
		out, stderr, code := s.CLI(t, "trace", "findings", job, "--rule", "new-binary", "--explain")
		if code != 0 {
			t.Errorf("trace findings: %s", stderr)
		}
		return out
	}
	if out := found(same); !strings.HasPrefix(out, "No findings") {
		t.Errorf("twice the same is found:\n%s", out)
	}
	accept := "muster trace baseline accept " + other + " binary:/usr/bin/"
	if out := found(other); !strings.Contains(out, accept+"od\n") || !strings.Contains(out, accept+"sha*sum\n") && !strings.Contains(out, "'binary:/usr/bin/sha*sum'") {
		t.Errorf("what is new is not found:\n%s", out)
	}
	out, stderr, code = s.CLI(t, "trace", "baseline", "accept", other, "--new")
	if code != 0 || !strings.Contains(out, "accepted binary:/usr/bin/od\n") || !strings.Contains(out, "accepted binary:/usr/bin/sha*sum\n") {
		t.Errorf("accept --new:\n%s%s", out, stderr)
	}
	if out := found(other); strings.Count(out, "accepted    operator") != 2 || strings.Contains(out, "if expected") {
		t.Errorf("what was accepted is not marked:\n%s", out)
	}
	if out := found(run(4)); !strings.HasPrefix(out, "No findings") {
		t.Errorf("what was accepted is found:\n%s", out)
	}
	name := Repo + "/steady/build"
	if out, stderr, code := s.CLI(t, "trace", "baseline", "reset", name); code != 0 || !strings.Contains(out, "is learnt anew") {
		t.Errorf("reset:\n%s%s", out, stderr)
	}
	if out, stderr, code := s.CLI(t, "trace", "baseline", "show", name); code != 0 || !strings.Contains(out, "learning, 0 of 5 runs") || strings.Contains(out, "/usr/bin/od") {
		t.Errorf("after a reset:\n%s%s", out, stderr)
	}
	if status, page := get(t.Context(), s.URL+"/baseline?name="+url.QueryEscape(name)); status != http.StatusOK || !strings.Contains(page, "Begun anew") {
		t.Errorf("the page of the baseline: %d", status)
	}
}

// A job that ends the agent that records it is reported: its trace is truncated, which is a finding.
func TestJobThatEndsItsAgent(t *testing.T) {
	t.Parallel()
	s := stand(t, Options{Sim: githubsim.Config{Seed: 75}, Settings: quick, World: repositoryWith(`name: hostile
on: workflow_dispatch
jobs:
  build:
    runs-on: [self-hosted, linux]
    steps:
      - name: Be seen
        run: /bin/cp /etc/hostname object; sleep 2
      - name: Be unseen
        run: |
          p=$$
          while [ "$(cat /proc/$p/comm)" != muster-agent ]; do p=$(awk '{print $4}' /proc/$p/stat); done
          kill -KILL $p
          sleep 60
`)})
	s.Serve(t)
	if _, err := s.Sim.Dispatch(Repo, ".github/workflows/ci.yml", "workflow_dispatch", nil); err != nil {
		t.Fatal(err)
	}
	var tr *v1.Trace
	eventually(t, 2*time.Minute, func() (bool, string) {
		resp, err := s.traces().ListTraces(t.Context(), &v1.ListTracesRequest{States: []string{"truncated"}})
		if err != nil || len(resp.Traces) == 0 {
			return false, fmt.Sprint(resp, err)
		}
		tr = resp.Traces[0]
		return tr.AnalysedAt != nil, tr.String()
	})
	if out, stderr, code := s.CLI(t, "trace", "findings", "--severity", "high"); code != 0 || !strings.Contains(out, "the trace ends before its job") {
		t.Errorf("findings:\n%s%s", out, stderr)
	}
	if out, stderr, code := s.CLI(t, "trace", "query", `type=="process_exec" && path.endsWith("/cp")`, "--job", tr.Id); code != 0 || !strings.Contains(out, "/etc/hostname") {
		t.Errorf("what the job did before is not there:\n%s%s", out, stderr)
	}
}

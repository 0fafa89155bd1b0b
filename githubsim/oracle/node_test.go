package oracle_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster/githubsim"
)

// driver is a Node.js program under way.
type driver struct {
	t     *testing.T
	dir   string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	all   []string
}

// node starts a driver in a folder of its own, where it finds the npm packages.
func node(t *testing.T, script, dir string, env ...string) *driver {
	t.Helper()
	modules := filepath.Join(packages(t), "node_modules")
	program, err := exec.LookPath("node")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("node is not installed")
		}
		t.Skip("node is not installed")
	}
	source, err := os.ReadFile(filepath.Join("testdata", "drivers", script))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, script), source, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	d := &driver{t: t, dir: dir, cmd: exec.Command(program, script), lines: make(chan string, 100)}
	d.cmd.Dir, d.cmd.Env = dir, append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, env...)
	if d.in, err = d.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.cmd.Stderr = d.cmd.Stdout
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(d.lines)
		scan := bufio.NewScanner(out)
		scan.Buffer(nil, 4<<20)
		for scan.Scan() {
			d.lines <- scan.Text()
		}
	}()
	t.Cleanup(func() {
		_ = d.in.Close()
		_ = d.cmd.Process.Kill() // it may have ended by itself
		for range d.lines {
		}
		<-done
		_ = d.cmd.Wait()
	})
	return d
}

// line waits for a line of output that begins with prefix.
func (d *driver) line(prefix string) string {
	d.t.Helper()
	deadline := time.NewTimer(60 * time.Second)
	defer deadline.Stop()
	for {
		select {
		case l, open := <-d.lines:
			if !open {
				d.t.Fatalf("the driver ended before %q:\n%s", prefix, strings.Join(d.all, "\n"))
			}
			d.all = append(d.all, l)
			if i := strings.Index(l, prefix); i >= 0 {
				return l[i:]
			}
		case <-deadline.C:
			d.t.Fatalf("no %q within a minute:\n%s", prefix, strings.Join(d.all, "\n"))
		}
	}
}

func (d *driver) step(name string) map[string]any {
	d.t.Helper()
	var out map[string]any
	text := d.line(`{"step":"` + name + `"`)
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		d.t.Fatalf("%s: %v", text, err)
	}
	return out
}

func (d *driver) proceed() {
	d.t.Helper()
	if _, err := io.WriteString(d.in, "\n"); err != nil {
		d.t.Fatal(err)
	}
}

// octokit, as an App: its JWT, installation tokens, pagination by Link, JIT
// configurations, errors, its retries under a secondary limit and its correction
// of a wrong clock.
func TestOctokit(t *testing.T) {
	packages(t)
	w := newWorld(t, githubsim.Config{Seed: 3})
	d := node(t, "octokit.mjs", t.TempDir(), "API="+w.url, fmt.Sprint("APP_ID=", w.app.ID), "PEM="+w.app.PEM, fmt.Sprint("INSTALLATION=", w.inst), "ORG="+org)
	if got := d.step("app"); got["slug"] != w.app.Slug || got["installations"] != 1.0 {
		t.Errorf("app: %v", got)
	}
	if got := d.step("runners"); got["count"] != 7.0 || fmt.Sprint(got["status"], got["os"]) != "[offline] [unknown]" {
		t.Errorf("runners: %v", got)
	}
	if got := d.step("errors"); got["conflict"] != 409.0 || got["missing"] != 404.0 || !strings.Contains(fmt.Sprint(got["message"]), "Already exists - A runner with the name octo-1 already exists.") {
		t.Errorf("errors: %v", got)
	}
	if got := d.step("repositories"); got["repositories"] != 2.0 {
		t.Errorf("repositories: %v", got)
	}
	d.step("limited")
	w.Faults().SecondaryLimit(1, time.Second)
	d.proceed()
	w.until("a refusal by the secondary limit", func(t githubsim.Truth) bool { return t.Limited.Secondary > 0 })
	w.Faults().Off()
	if got := d.step("after limit"); got["secondary"].(float64) < 1 || got["count"] != 7.0 {
		t.Errorf("after the limit: %v", got)
	}
	w.Faults().ClockSkew(-20 * time.Minute)
	d.proceed()
	if got := d.step("after skew"); got["slug"] != w.app.Slug {
		t.Errorf("after the skew: %v", got)
	}
	w.judge()
}

// Every delivery is accepted by @octokit/webhooks-methods and @octokit/webhooks.
func TestOctokitWebhooks(t *testing.T) {
	packages(t)
	w := newWorld(t, githubsim.Config{Seed: 4})
	_, err := w.Trigger(repo, ".github/workflows/ci.yml", "push")
	w.ok(err)
	w.hear(1, "ping", "")
	w.hear(1, "installation", "created")
	w.hear(3, "workflow_job", "queued")
	w.hear(1, "push", "")
	w.hear(1, "workflow_run", "requested")
	d := node(t, "webhooks.mjs", t.TempDir(), "SECRET="+secret)
	w.mu.Lock()
	deliveries := slices.Clone(w.deliveries)
	w.mu.Unlock()
	for _, delivered := range deliveries {
		event := delivered.header.Get("X-GitHub-Event")
		line, err := json.Marshal(map[string]string{"event": event, "id": delivered.header.Get("X-GitHub-Delivery"),
			"signature": delivered.header.Get("X-Hub-Signature-256"), "body": string(delivered.body)})
		w.ok(err)
		if _, err := d.in.Write(append(line, '\n')); err != nil {
			t.Fatal(err)
		}
		got := d.line(`{"event":`)
		if !strings.Contains(got, `"verified":true,"forged":false`) || !strings.Contains(got, `"action":"`+event) {
			t.Errorf("%s: %s", event, got)
		}
	}
}

// probot registers an App by the manifest flow, with this test as the browser,
// and then hears of jobs and asks about them, on the credentials that it got.
func TestProbot(t *testing.T) {
	packages(t)
	w := newWorld(t, githubsim.Config{Seed: 5})
	dir := t.TempDir()
	for name, text := range map[string]string{
		"package.json": `{"name":"oracle-bot","version":"1.0.0","description":"A bot","homepage":"https://example.com"}`,
		"app.yml": "name: Oracle Bot\nurl: https://example.com\ndefault_events: [workflow_job]\n" +
			"default_permissions: {actions: read, metadata: read, organization_self_hosted_runners: write}\n",
	} {
		w.ok(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	port := freePort(t)
	env := []string{"GHE_HOST=" + strings.TrimPrefix(w.root, "http://"), "GHE_PROTOCOL=http", "NO_SMEE_SETUP=true", "HOST=127.0.0.1", "PORT=" + port, "LOG_LEVEL=info", "LOG_FORMAT=json"}
	setup := node(t, "probot.mjs", dir, env...)
	setup.line("Listening on")
	w.browse("http://127.0.0.1:" + port + "/probot")

	settings, err := os.ReadFile(filepath.Join(dir, ".env"))
	w.ok(err)
	id := regexp.MustCompile(`(?m)^APP_ID=(\d+)$`).FindSubmatch(settings)
	if id == nil || !strings.Contains(string(settings), "BEGIN RSA PRIVATE KEY") || !strings.Contains(string(settings), "WEBHOOK_SECRET=") {
		t.Fatalf("probot has stored:\n%s", settings)
	}
	var app int64
	fmt.Sscan(string(id[1]), &app)

	port = freePort(t)
	env[4] = "PORT=" + port
	bot := node(t, "probot.mjs", dir, env...)
	bot.line("Listening on")
	w.ok(w.SetWebhook(app, "http://127.0.0.1:"+port+"/api/github/webhooks"))
	_, err = w.Install(app, org)
	w.ok(err)
	job, err := w.InjectJob(githubsim.JobOptions{Repo: repo, Labels: []string{"linux", "gpu"}})
	w.ok(err)
	if got := bot.line("HEARD "); got != fmt.Sprintf(`HEARD {"action":"queued","id":%d,"status":"queued","labels":["linux","gpu"]}`, job) {
		t.Error(got)
	}
	w.ok(w.CancelJob(job))
	if got := bot.line("HEARD "); got != fmt.Sprintf(`HEARD {"action":"completed","id":%d,"status":"completed","labels":["linux","gpu"]}`, job) {
		t.Error(got)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	// Below the ports that systems hand out by themselves, which others may be given
	// before the bot has it.
	var err error
	for range 100 {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(10000))); err == nil {
			defer l.Close()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			return port
		}
	}
	t.Fatalf("no free port: %v", err)
	return ""
}

// browse presses "Register GitHub App" on probot's page and "Create GitHub App"
// on the simulator's, and follows the way back.
func (w *world) browse(page string) {
	w.t.Helper()
	client := http.Client{CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if strings.HasSuffix(r.URL.Path, "/installations/new") {
			return http.ErrUseLastResponse // the flow is over
		}
		return nil
	}}
	read := func(resp *http.Response, err error) string {
		w.t.Helper()
		w.ok(err)
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		w.ok(err)
		if resp.StatusCode >= 400 {
			w.t.Fatalf("%s: %s: %s", resp.Request.URL, resp.Status, data)
		}
		return string(data)
	}
	find := func(text, pattern string) string {
		w.t.Helper()
		m := regexp.MustCompile(pattern).FindStringSubmatch(text)
		if m == nil {
			w.t.Fatalf("no %s in\n%s", pattern, text)
		}
		return html.UnescapeString(m[1])
	}
	text := read(client.Get(page))
	action, manifest := find(text, `action="([^"]*settings/apps/new[^"]*)"`), find(text, `(?s)name="manifest"[^>]*value='([^']*)'`)
	text = read(client.PostForm(action, url.Values{"manifest": {manifest}}))
	form := url.Values{}
	for _, in := range regexp.MustCompile(`<input[^>]*name="([^"]*)"[^>]*value="([^"]*)"`).FindAllStringSubmatch(text, -1) {
		form.Set(in[1], html.UnescapeString(in[2]))
	}
	read(client.PostForm(w.root+find(text, `action="([^"]*)"`), form))
}

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// hook is how the agent learns which job its runner has: a script that GitHub's runner
// starts before the job's own steps (reference/github.md §9.6). It writes a few of its
// variables into a file of the agent's and then does what the operator's own script would
// have done, with the same exit code.
//
// The script runs as the job's user, so what it says is no more than the job's word. It is
// bounded, and checked for shape; the first word counts, which comes before any step.
type hook struct {
	dir string // of the script and of what it writes
	env string // the runner's .env file
}

const (
	hookVariable = "ACTIONS_RUNNER_HOOK_JOB_STARTED"
	hookDir      = ".muster"
	hookScript   = "job-started.sh"
	hookWord     = "job"
	// hookBefore keeps the operator's script's path where .env had it.
	hookBefore = "job-started.before"
	maxHook    = 64 << 10 // bytes of its word
)

// told are the variables that are passed on. None of them is a secret.
var told = []string{
	"GITHUB_REPOSITORY", "GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT", "GITHUB_JOB", "GITHUB_WORKFLOW", "GITHUB_WORKFLOW_REF",
	"GITHUB_REF", "GITHUB_SHA", "GITHUB_EVENT_NAME", "GITHUB_ACTOR", "GITHUB_WORKSPACE",
}

// newHook writes the script into the runner's directory. A script that the operator has set
// in the environment or in .env, which wins over the environment, is run by it. env is what
// the runner has to be started with.
func newHook(dir string, environ []string) (h *hook, env []string, err error) {
	h = &hook{dir: filepath.Join(dir, hookDir), env: filepath.Join(dir, ".env")}
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return nil, environ, fmt.Errorf("make directory of the job hook: %w", err)
	}
	own := filepath.Join(h.dir, hookScript)
	theirs := ""
	for _, e := range environ {
		if v, ok := strings.CutPrefix(e, hookVariable+"="); ok {
			theirs = v // the last one counts
		}
	}
	written, err := h.fromFile(own)
	if err != nil {
		return nil, environ, err
	}
	if written != "" {
		theirs = written
	}
	if theirs == own {
		theirs = ""
	}
	if said, err := filepath.Glob(filepath.Join(h.dir, hookWord+".*")); err == nil {
		for _, name := range said {
			_ = os.RemoveAll(name) // of a runner before
		}
	}
	if err := place(own, strings.NewReader(h.script(theirs)), 0o755); err != nil {
		return nil, environ, fmt.Errorf("write job hook: %w", err)
	}
	env = slices.DeleteFunc(slices.Clone(environ), func(e string) bool { return strings.HasPrefix(e, hookVariable+"=") })
	return h, append(env, hookVariable+"="+own), nil
}

// fromFile returns the script that .env names, and has .env name ours instead. restore
// undoes it; where the agent was killed before, the file still names ours, which then
// still runs theirs.
func (h *hook) fromFile(own string) (theirs string, err error) {
	text, err := os.ReadFile(h.env)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read .env of the runner: %w", err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	for i, line := range lines {
		v, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), hookVariable+"=")
		if !ok {
			continue
		}
		if theirs = v; v == own {
			before, _ := os.ReadFile(filepath.Join(h.dir, hookBefore))
			theirs = string(before)
		}
		lines[i] = hookVariable + "=" + own + "\n"
	}
	if theirs == "" {
		return "", nil
	}
	if err := place(filepath.Join(h.dir, hookBefore), strings.NewReader(theirs), 0o644); err != nil {
		return "", fmt.Errorf("keep the job hook of .env: %w", err)
	}
	return theirs, h.rewrite(strings.Join(lines, ""))
}

func (h *hook) rewrite(text string) error {
	mode := os.FileMode(0o644)
	if info, err := os.Stat(h.env); err == nil {
		mode = info.Mode().Perm()
	}
	if err := place(h.env, strings.NewReader(text), mode); err != nil {
		return fmt.Errorf("write .env of the runner: %w", err)
	}
	return nil
}

// restore gives .env back as it was. The runner has ended.
func (h *hook) restore() error {
	before, err := os.ReadFile(filepath.Join(h.dir, hookBefore))
	if errors.Is(err, os.ErrNotExist) {
		return os.RemoveAll(h.dir)
	}
	if err != nil {
		return err
	}
	text, err := os.ReadFile(h.env)
	if err != nil {
		return fmt.Errorf("read .env of the runner: %w", err)
	}
	own := hookVariable + "=" + filepath.Join(h.dir, hookScript) + "\n"
	if err := h.rewrite(strings.ReplaceAll(string(text), own, hookVariable+"="+string(before)+"\n")); err != nil {
		return err
	}
	return os.RemoveAll(h.dir)
}

// script is the hook's text, for any POSIX shell. What is ours can fail as it likes: the
// job does not notice. What is the operator's runs as the runner itself would run it.
func (h *hook) script(theirs string) string {
	word := filepath.Join(h.dir, hookWord)
	var b strings.Builder
	b.WriteString("# Written by muster-agent: tells it which job this is.\nset +e\n")
	b.WriteString("MUSTER_TELL='umask 077; { ")
	for _, name := range told {
		fmt.Fprintf(&b, `printf "%%s\000" "%s=$%s"; `, name, name)
	}
	b.WriteString(`} > "$1.part.$$" && mv -f "$1.part.$$" "$1.$$"'` + "\n")
	fmt.Fprintf(&b, "if command -v timeout > /dev/null 2>&1\nthen timeout 5 sh -c \"$MUSTER_TELL\" sh %[1]s < /dev/null > /dev/null 2>&1\nelse sh -c \"$MUSTER_TELL\" sh %[1]s < /dev/null > /dev/null 2>&1\nfi\nunset MUSTER_TELL\n", quote(word))
	if theirs != "" {
		fmt.Fprintf(&b, "if command -v bash > /dev/null 2>&1\nthen exec bash -e %[1]s\nelse exec sh -e %[1]s\nfi\n", quote(theirs))
	}
	b.WriteString("exit 0\n")
	return b.String()
}

// quote makes one word of a shell's of any text.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// word returns what the script has said first, and forgets it; ok is false while it has not
// said anything, and when it was nonsense. What was said after until, if that is not
// zero, is another job's.
func (h *hook) word(until time.Time) (job trace.Job, ok bool) {
	said := h.said(until)
	if len(said) == 0 {
		return trace.Job{}, false
	}
	name := said[0]
	f, err := openRegular(name)
	_ = os.RemoveAll(name)
	if err != nil {
		return trace.Job{}, false
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxHook))
	if err != nil {
		return trace.Job{}, false
	}
	return parseWord(text)
}

// forget drops what was said until then: all but the first word of a job is not the hook's.
func (h *hook) forget(until time.Time) {
	for _, name := range h.said(until) {
		_ = os.RemoveAll(name) // what stays is forgotten by the next
	}
}

// said are the files of words that were written until then, the oldest first.
func (h *hook) said(until time.Time) (names []string) {
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return nil
	}
	times := map[string]time.Time{}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), hookWord+".") || strings.HasPrefix(e.Name(), hookWord+".part") {
			continue
		}
		info, err := e.Info()
		if err != nil || !until.IsZero() && info.ModTime().After(until) {
			continue
		}
		name := filepath.Join(h.dir, e.Name())
		names, times[name] = append(names, name), info.ModTime()
	}
	slices.SortFunc(names, func(a, b string) int { return times[a].Compare(times[b]) })
	return names
}

// The shapes of what a job may say of itself.
var (
	repositoryName = regexp.MustCompile(`\A[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}\z`)
	jobKey         = regexp.MustCompile(`\A[A-Za-z_][A-Za-z0-9_-]{0,99}\z`)
	commitID       = regexp.MustCompile(`\A[0-9a-f]{40}([0-9a-f]{24})?\z`)
	eventName      = regexp.MustCompile(`\A[a-z_]{1,64}\z`)
	actorName      = regexp.MustCompile(`\A[A-Za-z0-9_.\[\]-]{1,100}\z`)
)

// parseWord reads the script's words: NAME=value, each ended by a zero byte. What has not
// the shape that GitHub gives it is left out.
func parseWord(text []byte) (job trace.Job, ok bool) {
	values := map[string]string{}
	for entry := range bytes.SplitSeq(text, []byte{0}) {
		name, v, _ := strings.Cut(string(entry), "=")
		if slices.Contains(told, name) {
			values[name] = v
		}
	}
	shaped := func(name string, shape *regexp.Regexp) string {
		if v := values[name]; shape.MatchString(v) {
			return v
		}
		return ""
	}
	job.Repository = shaped("GITHUB_REPOSITORY", repositoryName)
	if n, err := strconv.ParseInt(values["GITHUB_RUN_ID"], 10, 64); err == nil && n > 0 {
		job.RunID = n
	}
	if n, err := strconv.Atoi(values["GITHUB_RUN_ATTEMPT"]); err == nil && n > 0 && n < 1<<20 {
		job.Attempt = n
	}
	job.Key = shaped("GITHUB_JOB", jobKey)
	job.SHA = shaped("GITHUB_SHA", commitID)
	job.Event = shaped("GITHUB_EVENT_NAME", eventName)
	job.Actor = shaped("GITHUB_ACTOR", actorName)
	job.Workflow = clip(values["GITHUB_WORKFLOW"], 256)
	job.WorkflowRef = clip(values["GITHUB_WORKFLOW_REF"], 1024)
	job.Ref = clip(values["GITHUB_REF"], 512)
	if v := values["GITHUB_WORKSPACE"]; filepath.IsAbs(v) {
		job.Workspace = clip(filepath.Clean(v), 1024)
	}
	return job, job.Repository != "" && job.RunID != 0
}

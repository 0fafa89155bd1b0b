package runner

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"crypto/sha256"
	"encoding/hex"

	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// maxFileCommand bounds what is read of one environment file, in bytes.
const maxFileCommand = 8 << 20

// maxSummary is how much of a step's summary GitHub keeps, in bytes.
const maxSummary = 1 << 20

// commands reads the workflow commands in a step's output
// (docs.github.com, "Workflow commands for GitHub Actions").
type commands struct {
	job     *job
	step    int
	outputs map[string]any
	stopped string // the token of stop-commands, "" if commands are read
}

func (c *commands) line(text string) {
	name, props, data, ok := parseCommand(text)
	if c.stopped != "" {
		if ok && name == c.stopped && data == "" {
			c.stopped = ""
		}
		c.job.line("%s", text)
		return
	}
	if !ok {
		c.job.line("%s", text)
		return
	}
	switch name {
	case "error", "warning", "notice":
		level := name
		if name == "error" {
			level = "failure"
		}
		at, _ := strconv.Atoi(props["line"])
		c.job.line("##[%s]%s", name, data)
		c.job.annotate(message.Annotation{Level: level, Message: data, Title: props["title"], Path: props["file"], StartLine: at, Step: c.step})
	case "group":
		c.job.line("##[group]%s", data)
	case "endgroup":
		c.job.line("##[endgroup]")
	case "add-mask":
		if data != "" {
			c.job.mask(data)
		}
		c.job.line("::add-mask::***")
	case "debug", "save-state", "add-matcher", "remove-matcher", "echo":
	case "set-output":
		c.job.line("##[warning]The `set-output` command is deprecated and will be disabled soon. Please upgrade to using Environment Files.")
		if props["name"] != "" {
			c.outputs[props["name"]] = data
		}
	case "set-env", "add-path":
		c.job.fail("The `%s` command is disabled. Please upgrade to using Environment Files.", name)
	case "stop-commands":
		if data != "" {
			c.stopped = data
		}
		c.job.line("%s", text)
	default:
		c.job.line("%s", text)
	}
}

// parseCommand reads ::name key=value,key=value::data.
func parseCommand(text string) (name string, props map[string]string, data string, ok bool) {
	rest, ok := strings.CutPrefix(strings.TrimLeft(text, " \t"), "::")
	if !ok {
		return "", nil, "", false
	}
	head, data, ok := strings.Cut(rest, "::")
	if !ok || head == "" {
		return "", nil, "", false
	}
	name, list, _ := strings.Cut(head, " ")
	props = map[string]string{}
	for pair := range strings.SplitSeq(list, ",") {
		if k, v, ok := strings.Cut(pair, "="); ok {
			props[strings.TrimSpace(k)] = unescape(v, true)
		}
	}
	return strings.ToLower(name), props, unescape(data, false), true
}

func unescape(s string, property bool) string {
	s = strings.NewReplacer("%0D", "\r", "%0A", "\n").Replace(s)
	if property {
		s = strings.NewReplacer("%3A", ":", "%2C", ",").Replace(s)
	}
	return strings.ReplaceAll(s, "%25", "%")
}

// readFiles takes over what a step wrote to its environment files.
func (j *job) readFiles(files map[string]string, outputs map[string]any) error {
	text := map[string]string{}
	for name, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			continue // a step may remove its files: then it said nothing
		}
		if info.Size() > maxFileCommand {
			return fmt.Errorf("file %s is longer than %d bytes", name, maxFileCommand)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		text[name] = strings.TrimPrefix(string(data), "\ufeff")
		_ = os.Remove(file)
	}
	for name, set := range map[string]func(k, v string) error{
		"GITHUB_ENV": func(k, v string) error {
			if strings.EqualFold(k, "NODE_OPTIONS") {
				return fmt.Errorf("Can't store %s output parameter using '$GITHUB_ENV' command.", k) //nolint:staticcheck // the real runner's words
			}
			j.env[k] = v
			return nil
		},
		"GITHUB_OUTPUT": func(k, v string) error { outputs[k] = v; return nil },
	} {
		if err := parsePairs(text[name], set); err != nil {
			return fmt.Errorf("Unable to process file command '%s' successfully. %w", strings.ToLower(strings.TrimPrefix(name, "GITHUB_")), err) //nolint:staticcheck // the real runner's words
		}
	}
	for line := range strings.Lines(text["GITHUB_PATH"]) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			j.path = slices.DeleteFunc(j.path, func(p string) bool { return p == line })
			j.path = append([]string{line}, j.path...)
		}
	}
	if summary := text["GITHUB_STEP_SUMMARY"]; summary != "" {
		if len(summary) > maxSummary {
			j.line("##[error]$GITHUB_STEP_SUMMARY upload aborted, supports content up to a size of 1024k, got %dk.", len(summary)>>10)
		} else {
			summary = j.masked(summary)
			j.mu.Lock()
			j.summary.WriteString(summary)
			j.mu.Unlock()
		}
	}
	return nil
}

// parsePairs reads lines NAME=VALUE and blocks NAME<<DELIMITER … DELIMITER.
func parsePairs(text string, set func(name, value string) error) error {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if line == "" {
			continue
		}
		equals, block := strings.Index(line, "="), strings.Index(line, "<<")
		switch {
		case equals >= 0 && (block < 0 || equals < block):
			if equals == 0 {
				return fmt.Errorf("Invalid format '%s'. Name must not be empty", line) //nolint:staticcheck // the real runner's words
			}
			if err := set(line[:equals], line[equals+1:]); err != nil {
				return err
			}
		case block >= 0:
			name, delimiter := line[:block], line[block+2:]
			if name == "" || delimiter == "" {
				return fmt.Errorf("Invalid format '%s'. Name must not be empty and delimiter must not be empty", line) //nolint:staticcheck // the real runner's words
			}
			end := slices.Index(lines[i+1:], delimiter)
			if end < 0 {
				return fmt.Errorf("Invalid value. Matching delimiter not found '%s'", delimiter) //nolint:staticcheck // the real runner's words
			}
			if err := set(name, strings.Join(lines[i+1:i+1+end], "\n")); err != nil {
				return err
			}
			i += end + 1
		default:
			return fmt.Errorf("Invalid format '%s'", line) //nolint:staticcheck // the real runner's words
		}
	}
	return nil
}

// hashFiles is the function of that name: SHA-256 over the SHA-256 sums of all
// files below dir that a pattern names and no pattern with ! takes away.
func hashFiles(dir string, patterns []string) (string, error) {
	sum := sha256.New()
	found := false
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		matched := false
		for _, p := range patterns {
			for line := range strings.Lines(p) {
				negated, not := strings.CutPrefix(strings.TrimSpace(line), "!")
				if negated != "" && matchPath(strings.Split(strings.TrimPrefix(negated, "./"), "/"), strings.Split(filepath.ToSlash(name), "/")) {
					matched = !not
				}
			}
		}
		if !matched {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		one := sha256.Sum256(data)
		found = true
		_, err = sum.Write(one[:])
		return err
	})
	if os.IsNotExist(err) || err == nil && !found {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("hashFiles: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// matchPath matches the segments of a path; ** stands for any number of them.
func matchPath(pattern, name []string) bool {
	if len(pattern) == 0 {
		return len(name) == 0
	}
	if pattern[0] == "**" {
		for i := range len(name) + 1 {
			if matchPath(pattern[1:], name[i:]) {
				return true
			}
		}
		return false
	}
	if len(name) == 0 {
		return false
	}
	ok, err := filepath.Match(pattern[0], name[0])
	return err == nil && ok && matchPath(pattern[1:], name[1:])
}

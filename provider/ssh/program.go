package ssh

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

//go:embed program.sh
var source string

// program is what runs on a host, without its comments.
var program = regexp.MustCompile(`(?m)^\s*#.*\n`).ReplaceAllString(source, "")

// What sshd hands to the login shell of the user, whichever that is: these two texts
// and nothing else. The first reads its program from standard input; the second
// reads it up to the length in the first line, and leaves the rest. A program that
// was cut off with its connection does not end as it should, and is not run.
const (
	commandRun = `sh -c 'p=$(cat); case $p in *"` + lastLine + `") eval "$p";; *) exit 70;; esac'`
	commandPut = `sh -c 'IFS= read -r n; p=$(dd bs=1 count="$n" 2>/dev/null); case $p in *"` + lastLine + `") eval "$p";; *) exit 70;; esac'`
	lastLine   = "#muster-end"
)

// quote writes a value as one word of a POSIX shell, whatever is in it (4-32). A NUL,
// which no shell can hold, is left out.
func quote(s string) string {
	return "'" + strings.ReplaceAll(strings.ReplaceAll(s, "\x00", ""), "'", `'\''`) + "'"
}

// call is one run of the program.
type call struct {
	operation string
	runner    muster.RunnerID
	args      []string
}

// text is the program with the call at its end.
func (c call) text(root, owner, mark string) string {
	var b strings.Builder
	b.WriteString(program)
	b.WriteString("\nmain")
	for _, arg := range append([]string{c.operation, root, owner, mark, string(c.runner)}, c.args...) {
		b.WriteString(" " + quote(arg))
	}
	b.WriteString("\n" + lastLine)
	return b.String()
}

// answerLine comes before what the program answers; a login may print before it.
const answerLine = "\nmuster answers\n"

var errNoAnswer = errors.New("it did not run the program; the user needs a shell that runs sh")

// answer cuts away what others printed.
func answer(out string) (string, error) {
	_, text, ok := strings.Cut("\n"+out, answerLine)
	if !ok {
		said := strings.TrimSpace(out)
		if said == "" {
			return "", errNoAnswer
		}
		return "", fmt.Errorf("%w: %q", errNoAnswer, said[:min(len(said), 200)])
	}
	return text, nil
}

// record is the spec of an instance as the host keeps it: one line.
type record struct {
	Runner    muster.RunnerID `json:"runner"`
	Owner     string          `json:"owner"`
	Workspace string          `json:"workspace"`
	Pool      string          `json:"pool"`
	TraceID   string          `json:"trace_id,omitempty"`
	CreatedAt time.Time       `json:"created_at"`
	MaxAge    time.Duration   `json:"max_age_ns,omitempty"`
}

func (r record) tooOld(now time.Time, grace time.Duration) bool {
	return r.MaxAge > 0 && now.After(r.CreatedAt.Add(r.MaxAge+grace))
}

// found is an instance as a host shows it.
type found struct {
	instance provider.Instance
	record   record
}

// shown is what the program printed: a word of its own, and instances.
type shown struct {
	word      string // the first line, unless it is an instance
	rest      string // the second line, where the first stands for all
	instances []found
}

// read reads what the program printed. Lines that are none of its own are an error: a
// list that misses one would say that a machine is gone.
func read(text string, id func(muster.RunnerID) string) (shown, error) {
	var s shown
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if text == "" {
		return s, nil
	}
	if !strings.HasPrefix(lines[0], "instance ") {
		s.word, lines = lines[0], lines[1:]
		if len(lines) == 1 {
			s.rest, lines = lines[0], nil
		}
	}
	for ; len(lines) > 0; lines = lines[3:] {
		head := strings.Fields(lines[0])
		if len(lines) < 3 || len(head) != 3 || head[0] != "instance" {
			return s, fmt.Errorf("it answered %q, which is no instance", lines[0])
		}
		runner := muster.RunnerID(head[1])
		if !runner.Valid() {
			continue // somebody else's directory
		}
		f := found{instance: provider.Instance{ID: id(runner), Runner: runner, State: provider.InstanceState(head[2]), Detail: strings.TrimSpace(lines[2])}}
		if json.Unmarshal([]byte(lines[1]), &f.record) != nil {
			// Lost or half written. A directory is an instance, whatever is in it.
			if sec, err := strconv.ParseInt(strings.Trim(lines[1], `"`), 10, 64); err == nil {
				f.record.CreatedAt = time.Unix(sec, 0).UTC()
			}
		}
		f.instance.CreatedAt = f.record.CreatedAt
		s.instances = append(s.instances, f)
	}
	return s, nil
}

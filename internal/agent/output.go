package agent

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// sight is what a line of the runner's output says.
type sight int

const (
	nothing      sight = iota
	sawListening       // "Listening for Jobs"
	sawRunning         // "Running job: NAME"
	sawCompleted       // "Job NAME completed with result: RESULT"
	sawDeleted         // the registration is gone
	sawDeprecated
)

// event is one marker in the output.
type event struct {
	sight       sight
	job, result string
}

// stamp is what the runner puts before most of its markers.
var stamp = regexp.MustCompile(`\A\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ: `)

// parse reads one line of the runner's output, without its end. Markers are
// recognized at the beginning only, so that a name cannot imitate one.
// Source of the texts: reference/github.md §9.2 to §9.4.
func parse(line string) event {
	line = strings.TrimRight(line, "\r")
	line = line[len(stamp.FindString(line)):]
	if line == "Listening for Jobs" {
		return event{sight: sawListening}
	}
	if job, ok := strings.CutPrefix(line, "Running job: "); ok {
		return event{sight: sawRunning, job: job}
	}
	if rest, ok := strings.CutPrefix(line, "Job "); ok {
		// The name may hold the words too; the result holds no space.
		const words = " completed with result: "
		if i := strings.LastIndex(rest, words); i >= 0 && !strings.Contains(rest[i+len(words):], " ") {
			return event{sight: sawCompleted, job: rest[:i], result: rest[i+len(words):]}
		}
	}
	switch {
	case strings.Contains(line, "registration has been deleted"):
		return event{sight: sawDeleted}
	case strings.Contains(line, "is deprecated and cannot receive messages"):
		return event{sight: sawDeprecated}
	}
	return event{}
}

// maxLine is how much of a line is looked at, in bytes. Job names are far shorter.
const maxLine = 4 << 10

// lines cuts a stream into lines, in pieces of any size. Of a line longer than
// maxLine only the beginning is kept.
type lines struct {
	partial []byte
	line    func(string)
}

func (l *lines) write(p []byte) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		piece := p
		if i >= 0 {
			piece = p[:i]
		}
		l.partial = append(l.partial, piece[:min(len(piece), max(0, maxLine-len(l.partial)))]...)
		if i < 0 {
			return
		}
		l.end()
		p = p[i+1:]
	}
}

// end takes what there is for a line.
func (l *lines) end() {
	line := string(l.partial)
	l.partial = l.partial[:0]
	l.line(line)
}

// redactor replaces secrets in a stream. Secrets hold no line breaks, so that
// whole lines are passed on at once; of a line that has not ended, what may be the
// beginning of a secret is kept back.
type redactor struct {
	secrets [][]byte // longest first
	kept    []byte
	pass    func([]byte)
}

const redacted = "***"

// newRedactor hides the given texts, those shorter than 8 bytes excepted, and
// what a JIT configuration holds.
func newRedactor(pass func([]byte), secrets ...string) *redactor {
	r := &redactor{pass: pass}
	for _, s := range secrets {
		if len(s) >= 8 {
			r.secrets = append(r.secrets, []byte(s))
		}
	}
	slices.SortFunc(r.secrets, func(a, b []byte) int { return len(b) - len(a) })
	return r
}

// jitSecrets returns what must not be seen of a JIT configuration: itself, the
// files in it, and the private key's numbers (reference/github.md §3.3).
func jitSecrets(blob string) []string {
	secrets := []string{blob}
	text, err := base64.StdEncoding.DecodeString(blob)
	var files map[string]string
	if err != nil || json.Unmarshal(text, &files) != nil {
		return secrets
	}
	for name, encoded := range files {
		content, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || name == ".runner" { // names and addresses, no secret
			continue
		}
		secrets = append(secrets, encoded)
		if name == rsaParams {
			secrets = append(secrets, keySecrets(content)...)
		}
	}
	return secrets
}

// rsaParams is the file of the runner's private key.
const rsaParams = ".credentials_rsaparams"

// keySecrets returns the numbers of a private key.
func keySecrets(content []byte) (secrets []string) {
	var values map[string]any
	if json.Unmarshal(bytes.TrimPrefix(content, byteOrderMark), &values) != nil {
		return nil
	}
	for _, v := range values {
		if s, ok := v.(string); ok && len(s) >= 16 { // not the exponent
			secrets = append(secrets, s)
		}
	}
	return secrets
}

// byteOrderMark begins the files that GitHub's config.sh writes.
var byteOrderMark = []byte("\xef\xbb\xbf")

func (r *redactor) write(p []byte) {
	r.kept = append(r.kept, p...)
	r.replace()
	keep := 0 // how many bytes at the end may begin a secret
	if tail := r.kept[bytes.LastIndexByte(r.kept, '\n')+1:]; len(r.secrets) > 0 {
		keep = min(len(tail), len(r.secrets[0])-1)
		// Only what is in fact the beginning of one.
		for ; keep > 0; keep-- {
			if end := tail[len(tail)-keep:]; slices.ContainsFunc(r.secrets, func(s []byte) bool { return bytes.HasPrefix(s, end) }) {
				break
			}
		}
	}
	r.emit(len(r.kept) - keep)
}

func (r *redactor) replace() {
	for _, s := range r.secrets {
		if bytes.Contains(r.kept, s) {
			r.kept = bytes.ReplaceAll(r.kept, s, []byte(redacted))
		}
	}
}

func (r *redactor) emit(n int) {
	if n > 0 {
		r.pass(r.kept[:n])
		r.kept = append(r.kept[:0], r.kept[n:]...)
	}
}

// end passes on what was kept back.
func (r *redactor) end() {
	r.replace()
	r.emit(len(r.kept))
}

package agent

import (
	"regexp"
	"strings"

	"github.com/muster-ci/muster/internal/trace"
)

// redaction hides secrets in the text of events: those that the agent knows, and what
// looks like one. It works on a copy of what it changes.
type redaction struct{ known *strings.Replacer }

// newRedaction hides the given texts wherever they stand, those shorter than 8 bytes excepted.
func newRedaction(secrets ...string) redaction {
	var pairs []string
	for _, s := range secrets {
		if len(s) >= 8 {
			pairs = append(pairs, s, redacted)
		}
	}
	if len(pairs) == 0 {
		return redaction{}
	}
	return redaction{strings.NewReplacer(pairs...)}
}

// hints are what one of the patterns below cannot be without, in lower case; looking for them is
// far cheaper than the patterns.
var hints = []string{"pass", "pwd", "secret", "token", "key", "auth", "cred", "bearer", "basic ", "@", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "eyj", "akia", "xox", "sk-", "npm_", "glpat-", "-----begin", "sig="}

// sensitive is part of the names of options and variables whose values are hidden.
const sensitive = `(?:pass(?:word|wd|phrase)?|pwd|secret|token|api[_-]?key|access[_-]?key|account[_-]?key|private[_-]?key|signing[_-]?key|credentials?|auth)`

var (
	// --password=x, API_KEY=x, "token": "x", …; the name may have more on both sides.
	assigned = regexp.MustCompile(`(?i)((?:\b|[_-])[a-z0-9_.-]*` + sensitive + `(?:s|[0-9]+|[_-][a-z0-9_-]*)?["']?\s*[=:]\s*["']?)([^\s"'&;,}]+)`)
	// --password x: the value is the next argument.
	named = regexp.MustCompile(`(?i)\A-{1,2}(?:[a-z0-9]+[_-])*` + sensitive + `\z`)
	// https://user:password@host and https://token@host.
	credentials = regexp.MustCompile(`(?i)\b([a-z][a-z0-9+.-]*://)([^\s/@"']+)@`)
	// Authorization: Bearer x
	bearer = regexp.MustCompile(`(?i)\b((?:bearer|basic|token)\s+)([A-Za-z0-9._~+/=-]{8,})`)
	// Tokens that say themselves what they are.
	shapes = regexp.MustCompile(`\b(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[A-Za-z0-9_-]{16,}|npm_[A-Za-z0-9]{20,}|xox[abprs]-[A-Za-z0-9-]{10,}|sk-[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{16}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?)`)
	// A signature in the query of an address.
	signature = regexp.MustCompile(`(?i)([?&](?:sig|signature|x-amz-signature|x-goog-signature|x-amz-security-token)=)([^&\s"']+)`)
)

// text returns s without secrets.
func (r redaction) text(s string) string {
	if r.known != nil {
		s = r.known.Replace(s)
	}
	if !hinted(s) {
		return s
	}
	s = credentials.ReplaceAllStringFunc(s, func(m string) string {
		scheme, user, _ := strings.Cut(m, "://")
		if user == "git@" { // everybody's
			return m
		}
		return scheme + "://" + redacted + "@"
	})
	s = bearer.ReplaceAllString(s, "${1}"+redacted)
	s = assigned.ReplaceAllStringFunc(s, func(m string) string {
		parts := assigned.FindStringSubmatch(m)
		switch strings.ToLower(parts[2]) {
		case "bearer", "basic", "token", redacted: // hidden already, or the name of what is
			return m
		}
		return parts[1] + redacted
	})
	s = signature.ReplaceAllString(s, "${1}"+redacted)
	return shapes.ReplaceAllString(s, redacted)
}

// hinted reports whether a text has a hint, in one pass: a job starts thousands of programs.
func hinted(s string) bool {
	for i := range len(s) {
		for _, h := range byFirst[lower(s[i])] {
			if len(s)-i >= len(h) && begins(s[i:], h) {
				return true
			}
		}
	}
	return false
}

// byFirst are the hints by their first byte.
var byFirst = func() (t [256][]string) {
	for _, h := range hints {
		t[h[0]] = append(t[h[0]], h)
	}
	return t
}()

func begins(s, hint string) bool {
	for i := range len(hint) {
		if lower(s[i]) != hint[i] {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// event hides what the event must not show.
func (r redaction) event(e *trace.Event) {
	for i := 0; i < len(e.Args); i++ {
		if i > 0 && strings.HasPrefix(e.Args[i-1], "-") && named.MatchString(e.Args[i-1]) && !strings.HasPrefix(e.Args[i], "-") {
			e.Args = replaced(e.Args, i, redacted)
			continue
		}
		if clean := r.text(e.Args[i]); clean != e.Args[i] {
			e.Args = replaced(e.Args, i, clean)
		}
	}
	for _, s := range []*string{&e.Path, &e.NewPath, &e.Source, &e.Dir, &e.Name} {
		if *s != "" && r.known != nil {
			*s = r.known.Replace(*s)
		}
	}
}

// replaced returns args with one changed, and leaves the slice itself alone.
func replaced(args []string, i int, text string) []string {
	own := append([]string(nil), args...)
	own[i] = text
	return own
}

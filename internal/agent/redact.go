package agent

import (
	"slices"
	"strings"

	"github.com/muster-ci/muster/internal/trace"
)

// redaction hides in the text of events the secrets that this agent knows. What only
// looks like a secret is hidden where events are made.
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

// event hides what the event must not show. It leaves the slices of the event alone.
func (r redaction) event(e *trace.Event) {
	if r.known == nil {
		return
	}
	for i, a := range e.Args {
		if clean := r.known.Replace(a); clean != a {
			e.Args = slices.Clone(e.Args)
			e.Args[i] = clean
		}
	}
	for _, s := range []*string{&e.Path, &e.NewPath, &e.Source, &e.Dir, &e.Name, &e.Hostname} {
		*s = r.known.Replace(*s)
	}
}

package workflow

import (
	"slices"
	"strings"
)

// defaultTypes are the activity types that start a run where a file names none
// (docs.github.com, "Events that trigger workflows"). Events that are not here
// start a run for every type.
var defaultTypes = map[string][]string{
	"pull_request":        {"opened", "synchronize", "reopened"},
	"pull_request_target": {"opened", "synchronize", "reopened"},
	"merge_group":         {"checks_requested"},
}

// TriggeredBy says whether an event starts a run of this workflow.
func (w *Workflow) TriggeredBy(e Event) bool {
	return slices.ContainsFunc(w.Triggers, func(t Trigger) bool { return t.Matches(e) })
}

// Matches says whether an event passes this trigger's filters.
func (t Trigger) Matches(e Event) bool {
	if !strings.EqualFold(t.Event, e.Name) {
		return false
	}
	if e.Action != "" {
		types := t.Types
		if len(types) == 0 {
			types = defaultTypes[t.Event]
		}
		if len(types) > 0 && !slices.Contains(types, e.Action) {
			return false
		}
	}
	if tag, ok := strings.CutPrefix(e.Ref, "refs/tags/"); ok {
		// A filter of branches alone keeps tags out, and the other way round.
		if t.hasBranchFilter && !t.hasTagFilter {
			return false
		}
		return passes(t.Tags, t.TagsIgnore, tag) // path filters do not apply to tags
	}
	if t.hasTagFilter && !t.hasBranchFilter {
		return false
	}
	if branch, ok := strings.CutPrefix(e.Ref, "refs/heads/"); ok && !passes(t.Branches, t.BranchesIgnore, branch) {
		return false
	}
	if e.Paths == nil {
		return true
	}
	if len(t.Paths) > 0 {
		return slices.ContainsFunc(e.Paths, func(p string) bool { return passes(t.Paths, nil, p) })
	}
	if len(t.PathsIgnore) > 0 {
		return slices.ContainsFunc(e.Paths, func(p string) bool { return passes(nil, t.PathsIgnore, p) })
	}
	return true
}

// passes applies patterns in order, a later one wins, ! excludes.
func passes(include, ignore []string, name string) bool {
	if len(ignore) > 0 {
		return !slices.ContainsFunc(ignore, func(p string) bool { return glob(p, name) })
	}
	if len(include) == 0 {
		return true
	}
	ok := false
	for _, p := range include {
		if negated, is := strings.CutPrefix(p, "!"); is {
			if glob(negated, name) {
				ok = false
			}
		} else if glob(p, name) {
			ok = true
		}
	}
	return ok
}

// glob matches GitHub's filter patterns: * within a segment, ** across them, ?
// and + repeat the character before, [] is a class, \ quotes.
func glob(pattern, name string) bool {
	set, ok := compile(pattern)
	if !ok {
		return false
	}
	return match(set, name)
}

// piece is one element of a pattern and how often it may stand.
type piece struct {
	accepts  func(byte) bool
	min, max int // max < 0: no limit
}

func compile(p string) ([]piece, bool) {
	var out []piece
	for i := 0; i < len(p); i++ {
		c := p[i]
		switch {
		case c == '*' && i+1 < len(p) && p[i+1] == '*':
			i++
			out = append(out, piece{func(byte) bool { return true }, 0, -1})
			// "**/x" also matches "x" at the root.
			if i+1 < len(p) && p[i+1] == '/' {
				i++
				out = append(out, piece{func(b byte) bool { return b == '/' }, 0, 1})
			}
		case c == '*':
			out = append(out, piece{func(b byte) bool { return b != '/' }, 0, -1})
		case c == '?' && len(out) > 0:
			out[len(out)-1].min, out[len(out)-1].max = 0, 1
		case c == '+' && len(out) > 0:
			out[len(out)-1].min, out[len(out)-1].max = 1, -1
		case c == '[':
			end := strings.IndexByte(p[i:], ']')
			if end < 2 {
				return nil, false
			}
			class := p[i+1 : i+end]
			out = append(out, piece{func(b byte) bool { return inClass(class, b) }, 1, 1})
			i += end
		default:
			if c == '\\' && i+1 < len(p) {
				i++
				c = p[i]
			}
			literal := c
			out = append(out, piece{func(b byte) bool { return b == literal }, 1, 1})
		}
	}
	return out, true
}

func inClass(class string, b byte) bool {
	for i := 0; i < len(class); i++ {
		if i+2 < len(class) && class[i+1] == '-' {
			if class[i] <= b && b <= class[i+2] {
				return true
			}
			i += 2
		} else if class[i] == b {
			return true
		}
	}
	return false
}

// match runs the pieces as a set of positions, so that no pattern takes
// exponential time.
func match(pieces []piece, name string) bool {
	at := map[int]bool{0: true}
	for _, p := range pieces {
		next := map[int]bool{}
		for start := range at {
			n := 0
			for pos := start; ; pos++ {
				if n >= p.min {
					next[pos] = true
				}
				if pos >= len(name) || p.max >= 0 && n >= p.max || !p.accepts(name[pos]) {
					break
				}
				n++
			}
		}
		at = next
	}
	return at[len(name)]
}

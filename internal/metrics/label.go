package metrics

import "sync"

// labelSet is the values that each label has taken. The zero value is ready to use.
type labelSet struct {
	app, pool, provider, event, outcome, route, state, phase, conclusion, rule, kind, procedure, code, account, lane label
}

const (
	// maxValues is how many values a label takes before the rest becomes "other".
	// Pools, providers and Apps come from the configuration, all other values
	// from lists in our code, except for events: GitHub has about 60 of those.
	maxValues = 200
	// maxValue is the longest value, in bytes.
	maxValue = 100
)

// label bounds the values of one label.
type label struct {
	mu   sync.RWMutex
	seen map[string]bool
}

// of returns the value, "none" for an empty one, or "other".
func (l *label) of(value string) string {
	if value == "" {
		return "none"
	}
	l.mu.RLock()
	known := l.seen[value]
	l.mu.RUnlock()
	if known {
		return value
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.seen) >= maxValues || len(value) > maxValue || !plain(value) {
		return "other"
	}
	if l.seen == nil {
		l.seen = map[string]bool{}
	}
	l.seen[value] = true
	return value
}

// plain reports whether the value is made of printable ASCII only.
func plain(value string) bool {
	for i := range len(value) {
		if value[i] < ' ' || value[i] > '~' {
			return false
		}
	}
	return true
}

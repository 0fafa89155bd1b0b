package query

import (
	"strings"
	"unicode/utf8"
)

// Glob reports whether a pattern matches a whole path: "?" is one character and "*" any
// number of them, neither of them "/"; "**" is any number of any; "{a,b}" is either.
// Everything else stands for itself. It takes time proportional to both lengths.
func Glob(path, pattern string) bool {
	patterns, ok := alternatives(pattern)
	if !ok {
		return false
	}
	for _, p := range patterns {
		if globOne(path, p) {
			return true
		}
	}
	return false
}

// maxAlternatives bounds what braces may multiply to.
const maxAlternatives = 64

// alternatives writes out the braces of a pattern; false if there are too many.
func alternatives(pattern string) ([]string, bool) {
	open := strings.IndexByte(pattern, '{')
	if open < 0 {
		return []string{pattern}, true
	}
	size := strings.IndexByte(pattern[open:], '}')
	if size < 0 {
		return []string{pattern}, true
	}
	rest, ok := alternatives(pattern[open+size+1:])
	choices := strings.Split(pattern[open+1:open+size], ",")
	if !ok || len(choices)*len(rest) > maxAlternatives {
		return nil, false
	}
	var out []string
	for _, c := range choices {
		for _, r := range rest {
			out = append(out, pattern[:open]+c+r)
		}
	}
	return out, true
}

// globOne goes back to the last "*" and the last "**" only, which is enough: what an
// earlier one could match more, a later one of its kind could match as well, and a "**"
// whatever a "*" before it could. Where that takes long, globTable does it.
func globOne(s, p string) bool {
	si, pi := 0, 0
	star, starAt := -1, 0 // after the last "*", and where in s it stands
	deep, deepAt := -1, 0 // the same of the last "**"
	for left := 64 + 8*(len(s)+len(p)); si < len(s) || pi < len(p); left-- {
		if left == 0 {
			return globTable(s, p)
		}
		switch {
		case strings.HasPrefix(p[pi:], "**"):
			pi += 2
			deep, deepAt, star = pi, si, -1
		case pi < len(p) && p[pi] == '*':
			pi++
			star, starAt = pi, si
		case si < len(s) && pi < len(p) && p[pi] == '?' && s[si] != '/':
			pi, si = pi+1, si+width(s[si:])
		case si < len(s) && pi < len(p) && p[pi] == s[si] && p[pi] != '?':
			pi, si = pi+1, si+1
		case star >= 0 && starAt < len(s) && s[starAt] != '/':
			starAt += width(s[starAt:])
			pi, si = star, starAt
		case deep >= 0 && deepAt < len(s):
			deepAt += width(s[deepAt:])
			pi, si, star = deep, deepAt, -1
		default:
			return false
		}
	}
	return true
}

func width(s string) int {
	_, n := utf8.DecodeRuneInString(s)
	return n
}

// globTable is globOne without going back: it keeps every place in the pattern at which
// it may be after each character.
func globTable(s, p string) bool {
	at, next := make([]bool, len(p)+1), make([]bool, len(p)+1)
	at[0] = true
	for {
		for i := range p { // what a star matches may be empty
			if n := starWidth(p[i:]); at[i] && n > 0 {
				at[i+n] = true
			}
		}
		if s == "" {
			return at[len(p)]
		}
		n := width(s)
		clear(next)
		for i := range p {
			if at[i] {
				step(next, i, s[:n], p)
			}
		}
		at, next, s = next, at, s[n:]
	}
}

// step marks where one character c leads to from place i in the pattern.
func step(next []bool, i int, c, p string) {
	switch stars := starWidth(p[i:]); {
	case stars == 2, stars == 1 && c != "/":
		next[i] = true
	case stars == 0 && p[i] == '?' && c != "/":
		next[i+1] = true
	case stars == 0 && p[i] != '?' && strings.HasPrefix(p[i:], c):
		next[i+len(c)] = true
	}
}

// starWidth is 2 of "**", 1 of another "*", 0 of anything else.
func starWidth(p string) int {
	switch {
	case strings.HasPrefix(p, "**"):
		return 2
	case strings.HasPrefix(p, "*"):
		return 1
	}
	return 0
}

package view

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/muster-ci/muster/internal/trace"
)

// Normal is a path without what differs from run to run, so that two runs of the same
// work have the same ones. Each such part becomes "*". The rules, in their order:
//
//  1. The job's workspace becomes "$WORKSPACE", the runner's directory around it "$RUNNER",
//     and a home (/root, /home/NAME, /Users/NAME) "~".
//  2. /proc/NUMBER becomes /proc/*.
//  3. A UUID, and the id of a runner (r- and 16 letters and figures).
//  4. Directly below a directory for temporary files (/tmp, /var/tmp, /dev/shm,
//     $RUNNER/_work/_temp, /var/folders): after the first "-", "." or "_", or after "tmp", what has
//     six or more letters and digits, and any number.
//  5. A version: numbers joined by dots, with a "v" before and a word such as "rc1" behind.
//  6. Eight or more hexadecimal digits, at least one of them a figure.
//  7. Four or more figures in a row.
//  8. Eight or more letters and figures that change between the two three times or more, or mix
//     cases and figures: names that chance made.
//
// Rules 5 to 8 look at the parts between "/", "-", "_", ".", "@", "+", "=", "~" and ",".
func Normal(path string, j trace.Job) string {
	path = places(path, j)
	parts := strings.Split(path, "/")
	below := tempRoot(parts)
	for i, p := range parts {
		switch {
		case i == 2 && parts[1] == "proc" && parts[0] == "" && digits(p):
			parts[i] = "*"
		case runnerID(p):
			parts[i] = "*"
		case i == below:
			parts[i] = normalPart(normalTemp(withoutUUIDs(p)))
		case i > below && below > 0:
			parts[i] = stars(normalPart(figures(p)))
		default:
			parts[i] = normalPart(p)
		}
	}
	return strings.Join(parts, "/")
}

// places are rule 1.
func places(path string, j trace.Job) string {
	if w := strings.TrimSuffix(j.Workspace, "/"); w != "" {
		if rest, ok := below(path, w); ok {
			return "$WORKSPACE" + rest
		}
		if i := strings.Index(w, "/_work/"); i > 0 {
			if rest, ok := below(path, w[:i]); ok {
				return "$RUNNER" + rest
			}
		}
	}
	if i := strings.Index(path, "/_work/"); i > 0 {
		return "$RUNNER" + path[i:]
	}
	if rest, ok := below(path, "/root"); ok {
		return "~" + rest
	}
	for _, homes := range []string{"/home/", "/Users/"} {
		if rest, ok := strings.CutPrefix(path, homes); ok {
			if i := strings.IndexByte(rest, '/'); i > 0 {
				return "~" + rest[i:]
			}
		}
	}
	return path
}

// runnerID reports whether a part is the id of a runner, by which its folder is named.
func runnerID(p string) bool {
	id, ok := strings.CutPrefix(p, "r-")
	return ok && len(id) == 16 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// below is what follows a directory in a path.
func below(path, dir string) (string, bool) {
	rest, ok := strings.CutPrefix(path, dir)
	return rest, ok && (rest == "" || rest[0] == '/')
}

var tempRoots = [][]string{{"", "tmp"}, {"", "var", "tmp"}, {"", "dev", "shm"}, {"$RUNNER", "_work", "_temp"}, {"", "var", "folders"}, {"~", ".cache", "tmp"}}

// tempRoot is the index of the part that is directly below a directory for temporary
// files, -1 if there is none.
func tempRoot(parts []string) int {
next:
	for _, root := range tempRoots {
		if len(parts) <= len(root) {
			continue
		}
		for i, r := range root {
			if parts[i] != r {
				continue next
			}
		}
		return len(root)
	}
	return -1
}

// normalTemp is rule 4.
func normalTemp(p string) string {
	if rest, ok := strings.CutPrefix(p, "tmp"); ok && len(rest) >= 6 && isWord(rest) {
		return "tmp*"
	}
	if i := strings.IndexAny(p, "-._"); i >= 0 {
		return figures(p[:i]) + split(p[i:], func(token string) string {
			if len(token) >= 6 {
				return "*"
			}
			return figures(token)
		})
	}
	return figures(p)
}

// figures puts a star in the place of every number.
func figures(p string) string {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if !isFigure(p[i]) {
			b.WriteByte(p[i])
			continue
		}
		b.WriteByte('*')
		for i+1 < len(p) && isFigure(p[i+1]) {
			i++
		}
	}
	return b.String()
}

// normalPart are rules 3 and 5 to 8.
func normalPart(p string) string {
	if !strings.ContainsAny(p, "0123456789") {
		return p
	}
	p = withoutUUIDs(p)
	p = withoutVersions(p)
	return stars(split(p, normalToken))
}

func normalToken(t string) string {
	hex, run, longest, turns, upper, lower, number := true, 0, 0, 0, false, false, false
	for i := range len(t) {
		c := t[i]
		f := isFigure(c)
		if f {
			run++
			number = true
		} else {
			run = 0
		}
		longest = max(longest, run)
		hex = hex && (f || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F')
		upper = upper || c >= 'A' && c <= 'Z'
		lower = lower || c >= 'a' && c <= 'z'
		if i > 0 && f != isFigure(t[i-1]) {
			turns++
		}
	}
	switch {
	case len(t) >= 8 && number && (hex || turns >= 3 || upper && lower && turns >= 2):
		return "*"
	case longest >= 4:
		return longFigures(t)
	}
	return t
}

// longFigures puts a star in the place of every number of four figures or more.
func longFigures(t string) string {
	var b strings.Builder
	for i := 0; i < len(t); {
		n := i
		for n < len(t) && isFigure(t[n]) {
			n++
		}
		if n-i >= 4 {
			b.WriteByte('*')
		} else {
			n = max(n, i+1)
			b.WriteString(t[i:n])
		}
		i = n
	}
	return b.String()
}

const separators = "-_.@+=~,:"

// split changes what stands between separators.
func split(p string, change func(string) string) string {
	var b strings.Builder
	for p != "" {
		i := strings.IndexAny(p, separators)
		if i < 0 {
			b.WriteString(change(p))
			break
		}
		if i > 0 {
			b.WriteString(change(p[:i]))
		}
		b.WriteByte(p[i])
		p = p[i+1:]
	}
	return b.String()
}

var uuidShape = []int{8, 4, 4, 4, 12}

func withoutUUIDs(p string) string {
	for i := 0; i+36 <= len(p); i++ {
		if isUUID(p[i : i+36]) {
			p = p[:i] + "*" + p[i+36:]
		}
	}
	return p
}

func isUUID(s string) bool {
	at := 0
	for n, size := range uuidShape {
		for range size {
			c := s[at]
			if !isFigure(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
				return false
			}
			at++
		}
		if n < len(uuidShape)-1 {
			if s[at] != '-' {
				return false
			}
			at++
		}
	}
	return true
}

// withoutVersions is rule 5.
func withoutVersions(p string) string {
	var b strings.Builder
	for i := 0; i < len(p); {
		n := version(p[i:])
		if n == 0 || i > 0 && isFigure(p[i-1]) {
			b.WriteByte(p[i])
			i++
			continue
		}
		s := b.String()
		if strings.HasSuffix(s, "v") && (len(s) == 1 || strings.ContainsRune(separators, rune(s[len(s)-2]))) {
			b.Reset()
			b.WriteString(s[:len(s)-1])
		}
		b.WriteByte('*')
		i += n
	}
	return b.String()
}

// version is how long the version at the beginning of s is, 0 if there is none.
func version(s string) int {
	n, dots := 0, 0
	for {
		from := n
		for n < len(s) && isFigure(s[n]) {
			n++
		}
		if n == from {
			return 0
		}
		if n+1 >= len(s) || s[n] != '.' || !isFigure(s[n+1]) {
			break
		}
		n++
		dots++
	}
	if dots == 0 {
		return 0
	}
	return n + suffix(s[n:])
}

// suffix is how long the "-rc.1", "b2" or "+incompatible" behind a version is.
func suffix(s string) int {
	rest := strings.TrimLeft(s, "-+.")
	for _, w := range []string{"rc", "beta", "alpha", "pre", "dev", "incompatible", "a", "b"} {
		after, ok := strings.CutPrefix(rest, w)
		if !ok {
			continue
		}
		after = strings.TrimLeft(strings.TrimPrefix(after, "."), "0123456789")
		if after == "" || strings.ContainsRune(separators, rune(after[0])) {
			return len(s) - len(after)
		}
	}
	return 0
}

// stars makes one of several stars in a row.
func stars(p string) string {
	for strings.Contains(p, "**") {
		p = strings.ReplaceAll(p, "**", "*")
	}
	return p
}

func isFigure(c byte) bool { return c >= '0' && c <= '9' }

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func isWord(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isFigure(c) && c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return true
}

// NormalHost is a host without what differs from run to run: in every label left of the
// last two a number becomes "*", and so does a label that chance made (rules 3, 6 and 8 of
// Normal). Private IPv4 addresses keep their first two numbers, other addresses all.
func NormalHost(host string) string {
	if a, err := netip.ParseAddr(host); err == nil {
		if a = a.Unmap(); a.Is4() && (a.IsPrivate() || carrier.Contains(a)) {
			b := a.As4()
			return fmt.Sprintf("%d.%d.*.*", b[0], b[1])
		}
		return host
	}
	labels := strings.Split(host, ".")
	if n := len(labels); n >= 2 && labels[n-1] == "arpa" {
		return "*." + labels[n-2] + ".arpa"
	}
	for i := range max(0, len(labels)-2) {
		labels[i] = stars(figures(split(withoutUUIDs(labels[i]), normalToken)))
	}
	return strings.Join(labels, ".")
}

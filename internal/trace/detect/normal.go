package detect

import (
	"regexp"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/muster-ci/muster/internal/trace"
)

// normaliser writes paths and hosts so that they are the same in every run of a job:
// versions, temporary names and hashes become *.
type normaliser struct{ workspace, temp string }

func newNormaliser(j trace.Job) normaliser {
	n := normaliser{workspace: strings.TrimSuffix(j.Workspace, "/")}
	// The runner's folders: _work/REPOSITORY/REPOSITORY is the workspace, _work/_temp beside it.
	if work, ok := upTo(n.workspace, 2); ok {
		n.temp = work + "/_temp"
	}
	return n
}

func upTo(p string, parts int) (string, bool) {
	for range parts {
		i := strings.LastIndexByte(p, '/')
		if i <= 0 {
			return "", false
		}
		p = p[:i]
	}
	return p, true
}

var (
	homes    = regexp.MustCompile(`^/(root|home/[^/]+|Users/[^/]+|github/home)/`)
	randoms  = regexp.MustCompile(`^(/tmp|/var/tmp|/dev/shm|\$TEMP)/[^/]+`)
	hexes    = regexp.MustCompile(`[0-9a-fA-F]{8,}(-[0-9a-fA-F]{4,}){0,4}`)
	numbers  = regexp.MustCompile(`[0-9]+([._-][0-9]+)*((-?(rc|beta|alpha|pre|dev))[.0-9]*)?`)
	runnerID = regexp.MustCompile(`^r-[a-z2-7]{16}$`) // of every runner another
	tempLeaf = regexp.MustCompile(`\.[A-Za-z0-9]{6,}$`)
)

// path of a program or a file.
func (n normaliser) path(p string) string {
	if n.workspace != "" && (p == n.workspace || below(p, n.workspace)) {
		p = "$WORKSPACE" + p[len(n.workspace):]
	} else if n.temp != "" && below(p, n.temp) {
		p = "$TEMP" + p[len(n.temp):]
	}
	p = homes.ReplaceAllString(p, "~/")
	p = randoms.ReplaceAllString(p, "$1/*")
	parts := strings.Split(p, "/")
	for i, part := range parts {
		if runnerID.MatchString(part) {
			parts[i] = "*"
			continue
		}
		parts[i] = numbers.ReplaceAllString(hexes.ReplaceAllString(part, "*"), "*")
	}
	if last := len(parts) - 1; last > 0 && strings.HasPrefix(parts[last], ".") {
		parts[last] = tempLeaf.ReplaceAllString(parts[last], ".*")
	}
	return strings.Join(parts, "/")
}

// host is a name with what changes from run to run left out. Addresses stay as they are,
// but for those that a private network gives at random: their network stands for them.
func (n normaliser) host(h string) string {
	if h == "" || strings.Trim(h, "0123456789.") == "" || strings.Contains(h, ":") {
		return h
	}
	registered, given := domain(h), false
	if suffix, icann := publicsuffix.PublicSuffix(h); !icann && strings.Contains(suffix, ".") && suffix != h {
		registered, given = suffix, true // everybody gets names below it, so a random one says who it is
	}
	sub := strings.TrimSuffix(strings.TrimSuffix(h, registered), ".")
	if sub == "" {
		return h
	}
	parts := strings.Split(sub, ".")
	for i, p := range parts {
		random := len(p) >= 24 && strings.ContainsAny(p, "0123456789") || hexes.FindString(p) == p
		switch {
		case random && given:
		case random:
			parts[i] = "*"
		default:
			parts[i] = numbers.ReplaceAllString(hexes.ReplaceAllString(p, "*"), "*")
		}
	}
	return strings.Join(parts, ".") + "." + registered
}

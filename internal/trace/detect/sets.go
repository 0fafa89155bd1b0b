package detect

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Set is a named list that rules ask for by name. It has one of the kinds.
type Set struct {
	// Programs are names of programs ("npm", "python3*"): the last part of the path, or of
	// the script that an interpreter runs, without .js, .py, .sh and the like.
	Programs []string `yaml:"programs,omitempty"`
	// Commands are regular expressions on a whole command line.
	Commands []string `yaml:"commands,omitempty"`
	// Paths are globs: * is within one part, ** any number of parts. "~/" is below any folder.
	Paths []string `yaml:"paths,omitempty"`
	// Installed leaves out programs that the job copied into folders for temporary files, and
	// those without a file: nobody becomes one of a set that excuses by the name of a copy.
	Installed bool `yaml:"installed,omitempty"`
	// Hosts are names, "*.example.com" for any name below, addresses and networks.
	Hosts []string `yaml:"hosts,omitempty"`
}

// matcher answers whether text is in a set.
type matcher struct {
	installed bool
	names     map[string]bool
	globs     []string // of names
	commands  *regexp.Regexp
	paths     pathMatcher
	below     map[string]bool // hosts whose names below match
	nets      []netip.Prefix
}

func (s Set) compile() (*matcher, error) {
	m := &matcher{installed: s.Installed, names: map[string]bool{}, below: map[string]bool{}}
	for _, p := range s.Programs {
		if strings.ContainsAny(p, "*?[") {
			if _, err := path.Match(p, ""); err != nil {
				return nil, fmt.Errorf("program %q: %w", p, err)
			}
			m.globs = append(m.globs, p)
			continue
		}
		m.names[p] = true
	}
	if len(s.Commands) > 0 {
		re, err := regexp.Compile("(?:" + strings.Join(s.Commands, ")|(?:") + ")")
		if err != nil {
			return nil, fmt.Errorf("commands: %w", err)
		}
		m.commands = re
	}
	for _, p := range s.Paths {
		if err := m.paths.add(p); err != nil {
			return nil, err
		}
	}
	for _, h := range s.Hosts {
		m.addHost(h)
	}
	return m, nil
}

func (m *matcher) addHost(h string) {
	h = strings.ToLower(h)
	if n, err := netip.ParsePrefix(h); err == nil {
		m.nets = append(m.nets, n.Masked())
	} else if a, err := netip.ParseAddr(h); err == nil {
		m.nets = append(m.nets, netip.PrefixFrom(a, a.BitLen()))
	} else if below, ok := strings.CutPrefix(h, "*."); ok {
		m.below[below] = true
	} else {
		m.names[h] = true
	}
}

// has reports whether text is in the set as a path, a host, an address or a name.
func (m *matcher) has(text string) bool {
	if text == "" {
		return false
	}
	if m.names[text] || text[0] == '/' && m.paths.has(text) {
		return true
	}
	if len(m.nets) > 0 {
		if a, err := netip.ParseAddr(text); err == nil {
			return slices.ContainsFunc(m.nets, func(n netip.Prefix) bool { return n.Contains(a.Unmap()) })
		}
	}
	if len(m.below) > 0 {
		for rest := text; ; {
			_, up, ok := strings.Cut(rest, ".")
			if !ok {
				break
			}
			if m.below[up] {
				return true
			}
			rest = up
		}
	}
	return m.globbed(text)
}

func (m *matcher) globbed(name string) bool {
	for _, g := range m.globs {
		if ok, _ := path.Match(g, name); ok { // compile has looked at the pattern
			return true
		}
	}
	return false
}

// is reports whether a process is in the set, by its names or its command line.
func (m *matcher) is(n *node) bool {
	known, ok := n.being[m]
	if !ok {
		known = m.find(n)
		if n.being == nil {
			n.being = map[*matcher]bool{}
		}
		n.being[m] = known
	}
	return known
}

func (m *matcher) find(n *node) bool {
	if m.installed && n.copied {
		return false
	}
	for _, name := range n.names {
		if m.names[name] || m.globbed(name) {
			return true
		}
	}
	return m.commands != nil && m.commands.MatchString(n.line)
}

// pathMatcher finds globs by the last part of a path where that is literal, or by its
// ending, so that a file event costs two look-ups; the few others are tried only if the path
// has in it what they must have.
type pathMatcher struct {
	byLeaf map[string][][]string
	byExt  map[string][][]string
	rest   []looseGlob
}

type looseGlob struct {
	parts []string
	must  string // "" if nothing is sure
}

func (m *pathMatcher) add(glob string) error {
	if below, ok := strings.CutPrefix(glob, "~/"); ok {
		glob = "/**/" + below
	}
	if !strings.HasPrefix(glob, "/") {
		return fmt.Errorf("path %q: begin it with / or ~/", glob)
	}
	if _, err := path.Match(strings.ReplaceAll(glob, "**", "*"), ""); err != nil {
		return fmt.Errorf("path %q: %w", glob, err)
	}
	parts := strings.Split(glob[1:], "/")
	leaf := parts[len(parts)-1]
	ext, ending := strings.CutPrefix(leaf, "*.")
	switch {
	case !strings.ContainsAny(leaf, special):
		put(&m.byLeaf, leaf, parts)
	case ending && ext != "" && !strings.ContainsAny(ext, special+"."):
		put(&m.byExt, "."+ext, parts)
	default:
		m.rest = append(m.rest, looseGlob{parts, sure(parts)})
	}
	return nil
}

const special = "*?[\\"

func put(in *map[string][][]string, key string, parts []string) {
	if *in == nil {
		*in = map[string][][]string{}
	}
	(*in)[key] = append((*in)[key], parts)
}

// sure is the longest literal part of a glob but the last, with a slash at both ends.
func sure(parts []string) string {
	longest := ""
	for _, p := range parts[:len(parts)-1] {
		if !strings.ContainsAny(p, special) && len(p) > len(longest) {
			longest = p
		}
	}
	if longest == "" {
		return ""
	}
	return "/" + longest + "/"
}

func (m *pathMatcher) has(p string) bool {
	fits := func(g []string) bool { return globParts(g, p[1:]) }
	if len(m.byLeaf) > 0 && slices.ContainsFunc(m.byLeaf[p[strings.LastIndexByte(p, '/')+1:]], fits) {
		return true
	}
	if len(m.byExt) > 0 && slices.ContainsFunc(m.byExt[path.Ext(p)], fits) {
		return true
	}
	return slices.ContainsFunc(m.rest, func(g looseGlob) bool { return strings.Contains(p, g.must) && fits(g.parts) })
}

// globParts matches a path without its first slash against the parts of a glob.
func globParts(glob []string, p string) bool {
	for i, g := range glob {
		if g == "**" {
			rest := glob[i+1:]
			if len(rest) == 0 {
				return true
			}
			for {
				if globParts(rest, p) {
					return true
				}
				_, after, ok := strings.Cut(p, "/")
				if !ok {
					return false
				}
				p = after
			}
		}
		part, after, more := strings.Cut(p, "/")
		if g != part {
			if ok, _ := path.Match(g, part); !ok || g == "" {
				return false
			}
		}
		if i == len(glob)-1 {
			return !more
		}
		if !more {
			// The glob goes on; only a ** at its end could still match nothing.
			return false
		}
		p = after
	}
	return false
}

package detect

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"path"
	"strings"

	"github.com/muster-ci/muster/internal/trace"
)

// IOC are indicators of compromise to look for in stored traces.
//
// The text has one indicator per line; what follows a # at the begin of a line or after a
// space is a remark. An indicator may say its kind ("domain:", "host:", "ip:", "cidr:",
// "path:", "command:", "url:"); otherwise it is told from its looks. A domain stands for
// all names below it too, a path with * is a glob, a command is found anywhere in a
// command line. Defanged text ("hxxp://evil[.]example") is read. Hashes of files are
// refused: traces hold none.
type IOC struct {
	list  []Indicator
	hosts map[string]int // name → index
	nets  []netIndicator
	paths []pathIndicator
	words []int // indices of commands
}

// Indicator is one line.
type Indicator struct {
	// Kind is "domain", "ip", "cidr", "path" or "command".
	Kind string
	// Value is what is looked for; Note is the line's remark.
	Value string
	Note  string
	Line  int
}

// Hit is an indicator and the event's text that matched.
type Hit struct {
	Indicator Indicator
	What      string
}

type netIndicator struct {
	net   netip.Prefix
	index int
}

type pathIndicator struct {
	exact string
	glob  pathMatcher
	index int
}

// maxIndicators bounds a list.
const maxIndicators = 100_000

// errHash says why hashes are refused.
var errHash = errors.New("hashes cannot be looked for, because traces hold paths and not the files; give the path or the host")

// ParseIOC reads a list. Every line that cannot be used is an error that names it.
func ParseIOC(r io.Reader) (*IOC, error) {
	i := &IOC{hosts: map[string]int{}}
	var wrong []error
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		text, note := remark(lines.Text())
		if text == "" {
			continue
		}
		if err := i.add(text, note, n); err != nil {
			wrong = append(wrong, fmt.Errorf("line %d: %q: %w", n, text, err))
		}
		if len(i.list) > maxIndicators {
			return nil, fmt.Errorf("read indicators: there are more than %d", maxIndicators)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read indicators: %w", err)
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("read indicators: %w", errors.Join(wrong...))
	}
	if len(i.list) == 0 {
		return nil, errors.New("read indicators: there are none in it; write one on each line: a host, an address, a network, a path, or command:WORDS")
	}
	return i, nil
}

func remark(line string) (text, note string) {
	line = strings.TrimSpace(line)
	if strings.HasPrefix(line, "#") || strings.HasPrefix(line, "//") {
		return "", ""
	}
	if at := strings.Index(line, " #"); at >= 0 {
		return strings.TrimSpace(line[:at]), strings.TrimSpace(line[at+2:])
	}
	return line, ""
}

var refang = strings.NewReplacer("[.]", ".", "(.)", ".", "[:]", ":", "[://]", "://", "hxxp", "http", "[dot]", ".")

func (i *IOC) add(text, note string, line int) error {
	kind, value, given := strings.Cut(text, ":")
	switch kind = strings.ToLower(strings.TrimSpace(kind)); {
	case given && (kind == "sha256" || kind == "sha1" || kind == "md5" || kind == "hash"):
		return errHash
	case given && kindWord(kind):
		value = strings.TrimSpace(value)
	default:
		kind, value = "", text
	}
	if kind != "command" && kind != "path" {
		value = refang.Replace(value)
	}
	if kind == "" {
		kind = looks(value)
	}
	return i.put(kind, value, note, line)
}

func kindWord(kind string) bool {
	return has("domain host ip cidr path command url file", kind)
}

// looks tells the kind of an indicator that does not say it.
func looks(v string) string {
	switch _, err := netip.ParsePrefix(v); {
	case err == nil:
		return "cidr"
	case strings.Contains(v, "://"):
		return "url"
	case strings.HasPrefix(v, "/") || strings.HasPrefix(v, "~/"):
		return "path"
	case isHash(v):
		return "hash"
	case strings.ContainsAny(v, " \t"):
		return "command"
	}
	return "domain"
}

func isHash(v string) bool {
	_, err := hex.DecodeString(v)
	return err == nil && (len(v) == 32 || len(v) == 40 || len(v) == 64)
}

func (i *IOC) put(kind, value, note string, line int) error {
	index := len(i.list)
	switch kind {
	case "hash":
		return errHash
	case "url":
		u, err := url.Parse(value)
		if err != nil || u.Hostname() == "" {
			return errors.New("this is no address of a page")
		}
		return i.put("domain", u.Hostname(), note, line)
	case "domain", "host", "ip":
		host := strings.TrimPrefix(strings.TrimSuffix(strings.ToLower(value), "."), "*.")
		if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
			kind, value = "ip", a.String()
			i.nets = append(i.nets, netIndicator{netip.PrefixFrom(a, a.BitLen()), index})
			break
		}
		if kind == "ip" || host == "" || !strings.Contains(host, ".") && !strings.HasPrefix(value, "*.") || strings.ContainsAny(host, " /\\:*") {
			return errors.New("this is neither a name nor an address; write what it is before it, such as path:FILE or command:WORDS, and all names below a domain as *.DOMAIN")
		}
		kind, value = "domain", host
		if !strings.Contains(host, ".") {
			value = "*." + host // all of a top-level domain
		}
		i.hosts[host] = index
	case "cidr":
		n, err := netip.ParsePrefix(value)
		if err != nil {
			return errors.New("this is no network; write it like 192.0.2.0/24")
		}
		i.nets = append(i.nets, netIndicator{n.Masked(), index})
	case "path", "file":
		kind = "path"
		p := pathIndicator{exact: value, index: index}
		if strings.ContainsAny(value, "*?[") || strings.HasPrefix(value, "~/") {
			if err := p.glob.add(value); err != nil {
				return err
			}
			p.exact = ""
		} else {
			p.exact = path.Clean(value)
		}
		i.paths = append(i.paths, p)
	case "command":
		if len(value) < 4 {
			return errors.New("a command of less than 4 letters would be found everywhere")
		}
		i.words = append(i.words, index)
	}
	i.list = append(i.list, Indicator{Kind: kind, Value: value, Note: note, Line: line})
	return nil
}

// Indicators are all of them, in the order of their lines.
func (i *IOC) Indicators() []Indicator { return i.list }

// Match returns what an event has of the list, nil mostly.
func (i *IOC) Match(e trace.Event) []Hit {
	var hits []Hit
	if e.Hostname != "" {
		hits = i.host(hits, e.Hostname)
	}
	if e.Address != "" {
		hits = i.address(hits, e.Address)
	}
	for _, a := range e.Addresses {
		hits = i.address(hits, a)
	}
	for _, p := range []string{e.Path, e.NewPath} {
		if p != "" {
			hits = i.path(hits, p)
		}
	}
	if len(e.Args) > 0 {
		hits = i.arguments(hits, e.Args)
	}
	return hits
}

func (i *IOC) host(hits []Hit, name string) []Hit {
	name = strings.ToLower(name)
	for rest := name; rest != ""; _, rest, _ = strings.Cut(rest, ".") {
		if n, ok := i.hosts[rest]; ok {
			return append(hits, Hit{i.list[n], name})
		}
	}
	return hits
}

func (i *IOC) address(hits []Hit, text string) []Hit {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return hits
	}
	for _, n := range i.nets {
		if n.net.Contains(a.Unmap()) || n.net.Contains(a) {
			hits = append(hits, Hit{i.list[n.index], text})
		}
	}
	return hits
}

func (i *IOC) path(hits []Hit, p string) []Hit {
	for n := range i.paths {
		w := &i.paths[n]
		if w.exact != "" && w.exact == p || w.exact == "" && p[0] == '/' && w.glob.has(p) {
			hits = append(hits, Hit{i.list[w.index], p})
		}
	}
	return hits
}

// arguments finds commands, and names and addresses that stand in a command line: a tool
// may have been told of a host that it never reached.
func (i *IOC) arguments(hits []Hit, args []string) []Hit {
	if len(i.words) == 0 && len(i.hosts) == 0 {
		return hits
	}
	line := strings.Join(args, " ")
	for _, n := range i.words {
		if strings.Contains(line, i.list[n].Value) {
			hits = append(hits, Hit{i.list[n], line})
		}
	}
	for word := range strings.FieldsFuncSeq(line, notHost) {
		if strings.Contains(word, ".") {
			hits = i.host(hits, word)
		}
	}
	return hits
}

func notHost(r rune) bool {
	return r != '.' && r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
}

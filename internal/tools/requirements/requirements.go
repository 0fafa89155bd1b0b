package main

import (
	"bufio"
	"fmt"
	"go/scanner"
	"go/token"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// id is one requirement's id: its section ("S0", "4", "C") and its number.
type id struct {
	section string
	number  int
}

func (i id) String() string {
	if i.section == "C" {
		return "C" + strconv.Itoa(i.number)
	}
	return i.section + "-" + strconv.Itoa(i.number)
}

var idText = regexp.MustCompile(`(S[0-4]-|4-|C)([0-9]{1,3})`)

func newID(prefix, number string) id {
	n, _ := strconv.Atoi(number) // the pattern lets digits through only
	return id{strings.TrimSuffix(prefix, "-"), n}
}

// catalogue is docs/requirements.txt.
type catalogue struct {
	ids      []id
	titles   map[id]string
	sections []string
	names    map[string]string // of sections
}

const (
	cataloguePath = "docs/requirements.txt"
	maxWords      = 12 // of a title
)

func readCatalogue(tree fs.FS) (catalogue, error) {
	c := catalogue{titles: map[id]string{}, names: map[string]string{}}
	text, err := fs.ReadFile(tree, cataloguePath)
	if err != nil {
		return c, err
	}
	for n, line := range strings.Split(string(text), "\n") {
		if comment, ok := strings.CutPrefix(line, "# "); ok {
			if key, name, ok := strings.Cut(comment, ": "); ok && idText.MatchString(key+"-1"+key+"1") && !strings.Contains(key, " ") {
				c.names[key] = name
			}
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		word, title, _ := strings.Cut(line, " ")
		m := idText.FindStringSubmatch(word)
		if m == nil || m[0] != word || title == "" {
			return c, fmt.Errorf("%s:%d: want an id and a title", cataloguePath, n+1)
		}
		i := newID(m[1], m[2])
		if c.titles[i] != "" {
			return c, fmt.Errorf("%s:%d: %s is listed twice", cataloguePath, n+1, i)
		}
		if words := len(strings.Fields(title)); words > maxWords {
			return c, fmt.Errorf("%s:%d: %d words in a title, at most %d", cataloguePath, n+1, words, maxWords)
		}
		c.ids = append(c.ids, i)
		c.titles[i] = title
		if !slices.Contains(c.sections, i.section) {
			c.sections = append(c.sections, i.section)
		}
	}
	return c, nil
}

// sel is the ids that a list such as "S0-1…S0-19,4-6" names; all for "".
func (c catalogue) sel(list string) ([]id, error) {
	if strings.TrimSpace(list) == "" {
		return c.ids, nil
	}
	var ids []id
	for part := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
		cited := citations(part)
		if len(cited) != 1 || cited[0].text != part {
			return nil, fmt.Errorf("%q is neither an id nor a range of ids", part)
		}
		for _, i := range cited[0].ids {
			if c.titles[i] == "" {
				return nil, fmt.Errorf("%s does not exist", i)
			}
			if !slices.Contains(ids, i) {
				ids = append(ids, i)
			}
		}
	}
	return ids, nil
}

// citation is one id or range in a text, as written.
type citation struct {
	text string
	at   int // byte offset
	ids  []id
}

// citations finds the ids and ranges of ids in a text. An id stands alone: in
// 2024-1 or SC8 there is none.
func citations(text string) (found []citation) {
	for at := 0; at < len(text); {
		loc := idText.FindStringSubmatchIndex(text[at:])
		if loc == nil {
			return found
		}
		start, end := at+loc[0], at+loc[1]
		from := newID(text[at+loc[2]:at+loc[3]], text[at+loc[4]:at+loc[5]])
		at = end
		before, _ := utf8.DecodeLastRuneInString(text[:start])
		if start > 0 && glued(before) || joined(text[end:]) {
			continue
		}
		c := citation{at: start, ids: []id{from}}
		for _, dots := range []string{"…", "..."} {
			rest, ok := strings.CutPrefix(text[end:], dots)
			if !ok {
				continue
			}
			m := idText.FindStringSubmatchIndex(rest)
			if m == nil || m[0] != 0 || joined(rest[m[1]:]) {
				continue
			}
			to := newID(rest[m[2]:m[3]], rest[m[4]:m[5]])
			if to.section != from.section {
				continue
			}
			end += len(dots) + m[1]
			for n := from.number + 1; n <= to.number; n++ {
				c.ids = append(c.ids, id{from.section, n})
			}
		}
		c.text = text[start:end]
		at = end
		found = append(found, c)
	}
	return found
}

// glued reports whether a rune before an id makes it part of another word.
func glued(r rune) bool {
	return r == '-' || r == '.' || r == '_' || r == '#' || r == '/' || unicode.IsLetter(r) || unicode.IsDigit(r)
}

// joined reports whether what follows an id makes it part of another word.
func joined(rest string) bool {
	r, size := utf8.DecodeRuneInString(rest)
	if size == 0 {
		return false
	}
	if r == '.' && !strings.HasPrefix(rest, "...") {
		next, size := utf8.DecodeRuneInString(rest[1:])
		return size > 0 && unicode.IsDigit(next)
	}
	return r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r)
}

// scan finds the citations in the comments of all tests: *_test.go, the
// conformance suites (packages whose name ends in test) and testscript files.
// proofs maps an id to the places that name it; problems are citations of ids
// that do not exist.
func scan(tree fs.FS, list catalogue) (proofs map[id][]string, problems []string, err error) {
	proofs = map[id][]string{}
	note := func(file string, line int, comment string) {
		for _, c := range citations(comment) {
			place := fmt.Sprintf("%s:%d", file, line+strings.Count(comment[:c.at], "\n"))
			for _, i := range c.ids {
				if list.titles[i] == "" {
					problems = append(problems, fmt.Sprintf("%s: %s does not exist", place, i))
				} else if !slices.Contains(proofs[i], place) {
					proofs[i] = append(proofs[i], place)
				}
			}
		}
	}
	err = fs.WalkDir(tree, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() {
			if file != "." && (base[0] == '.' || base == "node_modules" || base == "vendor") {
				return fs.SkipDir
			}
			return nil
		}
		var read func(string, []byte, func(string, int, string))
		switch dir := path.Dir(file); {
		case strings.HasSuffix(base, "_test.go"), strings.HasSuffix(base, ".go") && strings.HasSuffix(path.Base(dir), "test"):
			read = goComments
		case strings.HasSuffix(base, ".txtar"), strings.HasSuffix(base, ".txt") && strings.Contains("/"+dir+"/", "/testdata/"):
			read = scriptComments
		default:
			return nil
		}
		text, err := fs.ReadFile(tree, file)
		if err != nil {
			return err
		}
		read(file, text, note)
		return nil
	})
	return proofs, problems, err
}

func goComments(file string, text []byte, note func(string, int, string)) {
	set := token.NewFileSet()
	f := set.AddFile(file, -1, len(text))
	var s scanner.Scanner
	s.Init(f, text, nil, scanner.ScanComments) // the compiler reports errors
	for {
		pos, tok, lit := s.Scan()
		if tok == token.EOF {
			return
		}
		if tok == token.COMMENT {
			note(file, f.Line(pos), lit)
		}
	}
}

// scriptComments reads the script of a testscript file, which ends where its
// first embedded file begins.
func scriptComments(file string, text []byte, note func(string, int, string)) {
	for n, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "-- ") && strings.HasSuffix(line, " --") {
			return
		}
		if i := strings.Index(line, "#"); i == 0 || i > 0 && line[i-1] == ' ' {
			note(file, n+1, line[i+1:])
		}
	}
}

// report prints what of wanted is proven, by section, and returns how much is not.
func report(out io.Writer, list catalogue, wanted []id, proofs map[id][]string, verbose bool) (unproven int) {
	w := bufio.NewWriter(out)
	defer w.Flush()
	for _, section := range list.sections {
		var proven, open []id
		for _, i := range wanted {
			switch {
			case i.section != section:
			case len(proofs[i]) > 0:
				proven = append(proven, i)
			default:
				open = append(open, i)
			}
		}
		if len(proven)+len(open) == 0 {
			continue
		}
		unproven += len(open)
		fmt.Fprintf(w, "%s %s: %d of %d proven\n", section, list.names[section], len(proven), len(proven)+len(open))
		if verbose {
			for _, i := range proven {
				fmt.Fprintf(w, "  proven      %-6s %s: %s\n", i, list.titles[i], strings.Join(proofs[i], " "))
			}
		} else if len(proven) > 0 {
			fmt.Fprintf(w, "  proven      %s\n", ranges(proven))
		}
		for _, i := range open {
			fmt.Fprintf(w, "  not proven  %-6s %s\n", i, list.titles[i])
		}
	}
	fmt.Fprintf(w, "total: %d of %d proven\n", len(wanted)-unproven, len(wanted))
	return unproven
}

// ranges writes ids of one section with runs of them drawn together.
func ranges(ids []id) string {
	ids = slices.Clone(ids)
	slices.SortFunc(ids, func(a, b id) int { return a.number - b.number })
	var parts []string
	for i := 0; i < len(ids); {
		j := i
		for j+1 < len(ids) && ids[j+1].number == ids[j].number+1 {
			j++
		}
		switch j {
		case i:
			parts = append(parts, ids[i].String())
		case i + 1:
			parts = append(parts, ids[i].String(), ids[j].String())
		default:
			parts = append(parts, ids[i].String()+"…"+ids[j].String())
		}
		i = j + 1
	}
	return strings.Join(parts, " ")
}

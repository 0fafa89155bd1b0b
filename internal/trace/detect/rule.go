package detect

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
)

// Rule is one thing to look for. It fires on an event of one of On for which When is
// true and no Except; or at the end of its Sequence; or when its Group is full.
type Rule struct {
	Name string `yaml:"name"`
	// Title is the finding's line, with variables in braces: "{program} read {path}". Those
	// of an earlier event of a sequence have its number: "{1.path}".
	Title    string          `yaml:"title"`
	Severity muster.Severity `yaml:"severity"`
	On       []trace.Type    `yaml:"on,omitempty"`
	When     string          `yaml:"when,omitempty"`
	// Subject makes a finding one of its kind: events with the same subject are one finding.
	// It is written like Title; "" stands for the event's own: its path, its host, ….
	Subject  string  `yaml:"subject,omitempty"`
	Sequence []Stage `yaml:"sequence,omitempty"`
	// AnyOrder: the two events of the sequence may come in either order, as those of the
	// two ends of a pipe do.
	AnyOrder bool     `yaml:"any_order,omitempty"`
	Within   Duration `yaml:"within,omitempty"`
	Group    *Group   `yaml:"group,omitempty"`
	// Except are reasons not to fire, looked at for every event that would be counted.
	Except      []Exception `yaml:"except,omitempty"`
	Explanation string      `yaml:"explanation"`
	Remedy      string      `yaml:"remedy"`
	// References are published incidents and techniques, by name.
	References []string `yaml:"references,omitempty"`
	Disabled   bool     `yaml:"disabled,omitempty"`
	Tests      []Test   `yaml:"tests,omitempty"`
	// File is where the rule was read from.
	File string `yaml:"-"`
}

// Stage is one event of a sequence.
type Stage struct {
	On   []trace.Type `yaml:"on"`
	When string       `yaml:"when"`
	// By is what all stages must have in common, written like a title: "{path}". A stage
	// without it goes with any.
	By string `yaml:"by,omitempty"`
	// Tree: this event's process is the one of the stage before or came from it.
	Tree bool `yaml:"tree,omitempty"`
	// Beside: this event's process and the one of the stage before lived at the same time,
	// as those of one pipe do.
	Beside bool `yaml:"beside,omitempty"`
}

// Group counts events: the rule fires when Over different values of Distinct (or, if that
// is "", Over events) have come under the same By within the rule's Within.
type Group struct {
	By       string `yaml:"by"`
	Distinct string `yaml:"distinct,omitempty"`
	Over     int    `yaml:"over"`
}

// Exception is a reason not to fire.
type Exception struct {
	When    string `yaml:"when"`
	Because string `yaml:"because"`
}

// Test is a piece of a trace beside a rule: it fires, or it does not.
type Test struct {
	Name string `yaml:"name"`
	// Job is what the runner knew, such as its workspace.
	Job map[string]any `yaml:"job,omitempty"`
	// Events have the fields of a trace's lines. What is left out of timestamp and seq is
	// filled in: one event a second, numbered from 1.
	Events []map[string]any `yaml:"events"`
	// Fires is how many findings there must be.
	Fires int `yaml:"fires"`
	// Title, if it is not "", is the title of the first.
	Title string `yaml:"title,omitempty"`
	// Knows is what a mature baseline has learnt: "host:proxy.golang.org".
	Knows []string `yaml:"knows,omitempty"`
}

// Mark remembers paths as rules run: marks.has("name", path) asks for it. A renamed file
// keeps its marks; those that stay belong to the path, whatever becomes of the file.
type Mark struct {
	Name  string       `yaml:"name"`
	On    []trace.Type `yaml:"on"`
	When  string       `yaml:"when"`
	Stays bool         `yaml:"stays,omitempty"`
}

// Override changes a rule that is there already.
type Override struct {
	Rule     string          `yaml:"rule"`
	Severity muster.Severity `yaml:"severity,omitempty"`
	Disabled *bool           `yaml:"disabled,omitempty"`
	Except   []Exception     `yaml:"except,omitempty"`
}

// file is what one YAML file may hold.
type file struct {
	Sets      map[string]Set `yaml:"sets,omitempty"`
	Marks     []Mark         `yaml:"marks,omitempty"`
	Rules     []Rule         `yaml:"rules,omitempty"`
	Overrides []Override     `yaml:"overrides,omitempty"`
}

// Duration is a time.Duration as in "10m".
type Duration time.Duration

// UnmarshalYAML reads "90s".
func (d *Duration) UnmarshalYAML(text []byte) error {
	v, err := time.ParseDuration(strings.Trim(strings.TrimSpace(string(text)), `"'`))
	if err != nil || v <= 0 {
		return fmt.Errorf("%q is no duration; write it like 90s or 10m", text)
	}
	*d = Duration(v)
	return nil
}

// String is the duration without parts that are zero.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

//go:embed rules/*.yaml
var shipped embed.FS

// Rules is a set of rules, ready to run. It never changes, and any number of traces may
// be examined with it at a time.
type Rules struct {
	rules    []*compiled
	byType   map[trace.Type][]*compiled
	marks    map[trace.Type][]*compiledMark
	markers  []*compiledMark
	sets     map[string]*matcher
	stays    map[string]bool
	source   file
	language *language
}

// Shipped returns the rules that come with the program.
func Shipped() (*Rules, error) { return Load(nil) }

// Load returns the shipped rules with those of a folder's *.yaml files added: rules of
// the same name are replaced, sets of the same name extended, overrides applied last.
// nil adds nothing. An error tells the file, the rule and what is wrong with it.
func Load(more fs.FS) (*Rules, error) {
	own, err := fs.Sub(shipped, "rules")
	if err != nil {
		return nil, err
	}
	all := file{Sets: map[string]Set{}}
	for _, from := range []fs.FS{own, more} {
		if from == nil {
			continue
		}
		if err := all.read(from); err != nil {
			return nil, err
		}
	}
	if err := all.override(); err != nil {
		return nil, err
	}
	return compile(all)
}

func (f *file) read(from fs.FS) error {
	names, err := fs.Glob(from, "*.y*ml")
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(from, name)
		if err != nil {
			return fmt.Errorf("read rules: %w", err)
		}
		var one file
		if err := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(&one); err != nil {
			return fmt.Errorf("rules in %s: %w", name, err)
		}
		if err := f.add(one, name); err != nil {
			return fmt.Errorf("rules in %s: %w", name, err)
		}
	}
	return nil
}

func (f *file) add(one file, name string) error {
	seen := map[string]bool{}
	for _, r := range one.Rules {
		if seen[r.Name] {
			return fmt.Errorf("rule %s is there twice", r.Name)
		}
		seen[r.Name] = true
		r.File = name
		if i := slices.IndexFunc(f.Rules, func(o Rule) bool { return o.Name == r.Name }); i >= 0 {
			f.Rules[i] = r
			continue
		}
		f.Rules = append(f.Rules, r)
	}
	f.Marks = append(f.Marks, one.Marks...)
	f.Overrides = append(f.Overrides, one.Overrides...)
	for _, name := range slices.Sorted(maps.Keys(one.Sets)) {
		s, more := f.Sets[name], one.Sets[name]
		s.Programs = append(slices.Clone(s.Programs), more.Programs...)
		s.Commands = append(slices.Clone(s.Commands), more.Commands...)
		s.Paths = append(slices.Clone(s.Paths), more.Paths...)
		s.Hosts = append(slices.Clone(s.Hosts), more.Hosts...)
		s.Installed = s.Installed || more.Installed
		f.Sets[name] = s
	}
	return nil
}

func (f *file) override() error {
	for _, o := range f.Overrides {
		i := slices.IndexFunc(f.Rules, func(r Rule) bool { return r.Name == o.Rule })
		if i < 0 {
			return fmt.Errorf("override of %q: there is no such rule", o.Rule)
		}
		r := &f.Rules[i]
		r.Severity = cmp.Or(o.Severity, r.Severity)
		if o.Disabled != nil {
			r.Disabled = *o.Disabled
		}
		r.Except = append(slices.Clone(r.Except), o.Except...)
	}
	return nil
}

// List returns the rules in order of their names, for people: what they look for and how.
func (r *Rules) List() []Rule {
	out := slices.Clone(r.source.Rules)
	slices.SortFunc(out, func(a, b Rule) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Set returns a named set.
func (r *Rules) Set(name string) (Set, bool) {
	s, ok := r.source.Sets[name]
	return s, ok
}

var ruleName = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

// check looks at what needs no compiler.
func (r *Rule) check() error {
	switch {
	case !ruleName.MatchString(r.Name):
		return fmt.Errorf("rule %q: a name is words of small letters and digits, joined by -", r.Name)
	case !slices.Contains(muster.Severities, r.Severity):
		return fmt.Errorf("rule %s: severity %q; it is one of %v", r.Name, r.Severity, muster.Severities)
	case r.Title == "" || r.Explanation == "" || r.Remedy == "":
		return fmt.Errorf("rule %s: it needs a title, an explanation and a remedy", r.Name)
	case (len(r.Sequence) > 0) == (r.When != "" || len(r.On) > 0):
		return fmt.Errorf("rule %s: give either on and when, or a sequence", r.Name)
	case len(r.Sequence) == 1:
		return fmt.Errorf("rule %s: a sequence of one is no sequence; use on and when", r.Name)
	case len(r.Sequence) > 0 && r.Group != nil:
		return fmt.Errorf("rule %s: a sequence cannot be grouped", r.Name)
	case r.AnyOrder && (len(r.Sequence) != 2 || r.Sequence[1].Tree):
		return fmt.Errorf("rule %s: any_order is for two stages that are not of one tree", r.Name)
	case (len(r.Sequence) > 0 || r.Group != nil) && r.Within <= 0:
		return fmt.Errorf("rule %s: say within what time, such as within: 10m", r.Name)
	case r.Group != nil && (r.Group.Over < 2 || r.Group.By == ""):
		return fmt.Errorf("rule %s: a group needs by, and over of at least 2", r.Name)
	}
	return r.checkStages()
}

func (r *Rule) checkStages() error {
	if len(r.Sequence) == 0 && (r.When == "" || len(r.On) == 0) {
		return fmt.Errorf("rule %s: it needs both on (types of events) and when", r.Name)
	}
	for i, s := range r.Sequence {
		if len(s.On) == 0 || s.When == "" {
			return fmt.Errorf("rule %s: stage %d needs both on and when", r.Name, i+1)
		}
	}
	if i := slices.IndexFunc(r.Except, func(x Exception) bool { return x.Because == "" }); i >= 0 {
		return fmt.Errorf("rule %s: exception %d does not say why (because: …)", r.Name, i+1)
	}
	return nil
}

var errNoRules = errors.New("there are no rules")

// compile makes everything ready, and tells every mistake at once.
func compile(all file) (*Rules, error) {
	out := &Rules{byType: map[trace.Type][]*compiled{}, marks: map[trace.Type][]*compiledMark{}, sets: map[string]*matcher{}, stays: map[string]bool{}, source: all}
	var wrong []error
	for _, name := range slices.Sorted(maps.Keys(all.Sets)) {
		m, err := all.Sets[name].compile()
		if err != nil {
			wrong = append(wrong, fmt.Errorf("set %s: %w", name, err))
		}
		out.sets[name] = m
	}
	lang, err := newLanguage(out.sets)
	if err != nil {
		return nil, err
	}
	out.language = lang
	for _, m := range all.Marks {
		lang.marks[m.Name] = true
	}
	for _, m := range all.Marks {
		wrong = append(wrong, out.addMark(m))
	}
	for _, r := range all.Rules {
		wrong = append(wrong, out.addRule(r))
	}
	if len(out.source.Rules) == 0 {
		wrong = append(wrong, errNoRules)
	}
	return out, errors.Join(wrong...)
}

func (r *Rules) addMark(m Mark) error {
	when, err := r.language.compile(m.When)
	if err != nil {
		return fmt.Errorf("mark %s: %w", m.Name, err)
	}
	c := &compiledMark{name: m.Name, when: when}
	r.stays[m.Name] = m.Stays
	for _, t := range m.On {
		if !knownType(t) {
			return fmt.Errorf("mark %s: there are no events of type %q", m.Name, t)
		}
		r.marks[t] = append(r.marks[t], c)
	}
	r.markers = append(r.markers, c)
	return nil
}

func (r *Rules) addRule(rule Rule) error {
	if err := rule.check(); err != nil {
		return err
	}
	c, err := r.language.rule(rule)
	if err != nil {
		return fmt.Errorf("rule %s (%s): %w", rule.Name, path.Base(rule.File), err)
	}
	r.rules = append(r.rules, c)
	if rule.Disabled {
		return nil
	}
	r.listen(c)
	if rule.AnyOrder {
		r.listen(c.reversed())
	}
	return nil
}

func (r *Rules) listen(c *compiled) {
	for _, t := range c.types() {
		r.byType[t] = append(r.byType[t], c)
	}
}

package detect

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
)

// kind is what a fact is about.
type kind int

const (
	factHost kind = iota
	factBinary
	factSensitive
	kinds
)

var kindWords = [kinds]string{"host", "binary", "sensitive"}

// maxFacts bounds what is learnt of each kind.
const maxFacts = 4096

// Facts are what one job did, in the words of baselines.
type Facts struct {
	// Hosts are names (or addresses without one) outside that were connected to or asked
	// for, Binaries programs that ran, Sensitive the files with secrets that were opened;
	// each with how often.
	Hosts     map[string]int `json:"hosts,omitempty"`
	Binaries  map[string]int `json:"binaries,omitempty"`
	Sensitive map[string]int `json:"sensitive,omitempty"`
	// Unseen are the kinds of which the machine could record nothing.
	Unseen []string `json:"unseen,omitempty"`
	// Worst is the severity of the worst finding but for those of the baseline itself.
	Worst muster.Severity `json:"worst,omitempty"`
}

// unseen are the kinds of which a recorder does not tell all that is to be told.
func unseen(r *trace.Recorder) (words []string) {
	needs := [kinds][]trace.Type{
		factHost: {trace.NetConnect, trace.DNSQuery}, factBinary: {trace.ProcessExec}, factSensitive: {trace.FileOpen},
	}
	for k := range kinds {
		missing := func(t trace.Type) bool { return r.Missing[string(t)] != "" }
		if r.Missing["all"] != "" || slices.ContainsFunc(needs[k], missing) {
			words = append(words, kindWords[k])
		}
	}
	return words
}

func newFacts() Facts {
	return Facts{Hosts: map[string]int{}, Binaries: map[string]int{}, Sensitive: map[string]int{}}
}

func (f *Facts) of(k kind) map[string]int {
	return [kinds]map[string]int{f.Hosts, f.Binaries, f.Sensitive}[k]
}

// fact is what an event says of a kind, "" if nothing.
func (x *run) fact(k kind, s *scene) string {
	if x.rules == nil {
		return ""
	}
	e := s.e
	switch {
	case k == factHost && (e.Type == trace.NetConnect && e.Port != 53 || e.Type == trace.DNSQuery || e.Type == trace.TLSHello) && external(e):
		return x.normal.host(host(e))
	case k == factBinary && e.Type == trace.ProcessExec:
		return x.normal.path(e.Path)
	case k == factSensitive && e.Type == trace.FileOpen && x.rules.sets["sensitive"].has(e.Path):
		return x.normal.path(e.Path)
	}
	return ""
}

func (x *run) learn() {
	for k := range kinds {
		what := x.fact(k, &x.scene)
		if what == "" {
			continue
		}
		of := x.facts.of(k)
		if _, known := of[what]; known || len(of) < maxFacts {
			of[what] += int(max(1, x.scene.e.Count))
		}
	}
}

// unknown is the fact, if the baseline is mature and does not have it.
func (x *run) unknown(k kind, s *scene) string {
	if x.base == nil || !x.base.matureFor(kindWords[k]) {
		return ""
	}
	what := x.fact(k, s)
	if what == "" || x.base.Knows(kindWords[k], what) {
		return ""
	}
	return what
}

// fromBaseline reports whether a rule compares with a baseline: its findings do not keep
// a run from being learnt, or nothing new could ever become known.
func fromBaseline(rule string) bool { return strings.HasPrefix(rule, "new-") }

const (
	// MatureAfter is how many runs a baseline learns before what is new is a finding.
	MatureAfter = 5
	// UsualAfter is how many runs have to have what was new to a mature baseline before it
	// is taken for usual: it is a finding in each of them, unless somebody accepts it. What
	// happened once is not what a job usually does.
	UsualAfter = 3
)

// Act is what somebody did to a baseline, or to a fact in it.
type Act struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
}

// Fact is one thing that a job did, in the words of baselines.
type Fact struct {
	// Kind is "host", "binary" or "sensitive".
	Kind string
	What string
}

// String is the fact as findings and rules write it: "host:proxy.golang.org".
func (f Fact) String() string { return f.Kind + ":" + f.What }

// maxFact bounds the text of a fact that somebody names, in bytes.
const maxFact = 8 << 10

// ParseFact reads what String wrote. What changes from run to run is written as baselines
// write it, so that a fact may be named as a job has it: mirror7.example.com is
// mirror*.example.com. CodeInvalid if it is none.
func ParseFact(s string) (Fact, error) {
	kind, what, _ := strings.Cut(s, ":")
	f := Fact{kind, what}
	switch {
	case len(s) > maxFact:
		return f, muster.Errorf(muster.CodeInvalid, "a fact has %d bytes, and %d are the most", len(s), maxFact)
	case !slices.Contains(kindWords[:], kind) || strings.TrimSpace(what) == "":
		return f, muster.Errorf(muster.CodeInvalid, "%q is no fact of a baseline: write host:NAME, binary:PATH or sensitive:PATH, as muster trace baseline show does", cut(s))
	case kind == kindWords[factHost]:
		f.What = normaliser{}.host(what)
	default:
		f.What = normaliser{}.path(what)
	}
	return f, nil
}

// Seen is when something was met in the runs of a job.
type Seen struct {
	Runs  int       `json:"runs"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Trace is the one that it was first met in, "" if that is not known.
	Trace string `json:"trace,omitempty"`
	// Fresh: it came after the baseline had matured, and is not taken for usual yet.
	Fresh bool `json:"fresh,omitempty"`
	// Accepted is who said that it is expected, nil if nobody did.
	Accepted *Act `json:"accepted,omitempty"`
}

// Baseline is what the runs of one job have done. The zero value has learnt nothing. It is
// not safe for concurrent use.
type Baseline struct {
	Version int `json:"version"`
	// Runs is how many runs were learnt, Refused how many were not because of findings.
	Runs    int `json:"runs"`
	Refused int `json:"refused,omitempty"`
	// Unseen is of how many of the runs nothing of a kind was recorded: they count for the
	// other kinds alone.
	Unseen map[string]int `json:"unseen,omitempty"`
	// MatureAfter is how many runs are needed, 0 for the default. Accepted makes the
	// baseline mature at once: somebody looked at it.
	MatureAfter int  `json:"mature_after,omitempty"`
	Accepted    *Act `json:"accepted,omitempty"`
	// Forgotten is who had the baseline begin anew, the last time; nil if nobody did.
	Forgotten *Act            `json:"forgotten,omitempty"`
	Hosts     map[string]Seen `json:"hosts,omitempty"`
	Binaries  map[string]Seen `json:"binaries,omitempty"`
	Sensitive map[string]Seen `json:"sensitive,omitempty"`
	UpdatedAt time.Time       `json:"updated_at,omitzero"`
}

const baselineVersion = 1

// ParseBaseline reads what Encode wrote; empty text is a new one.
func ParseBaseline(doc []byte) (*Baseline, error) {
	b := &Baseline{}
	if len(doc) == 0 {
		return b, nil
	}
	if err := json.Unmarshal(doc, b); err != nil {
		return nil, fmt.Errorf("read baseline: %w", err)
	}
	if b.Version > baselineVersion {
		return nil, fmt.Errorf("read baseline: it has version %d, and this program knows %d", b.Version, baselineVersion)
	}
	return b, nil
}

// Encode returns the baseline's document.
func (b *Baseline) Encode() ([]byte, error) {
	b.Version = baselineVersion
	return json.Marshal(b)
}

// Mature reports whether what the baseline does not know is worth a finding.
func (b *Baseline) Mature() bool { return b.Accepted != nil || b.Runs >= b.Needs() }

// matureFor is Mature for the facts of one kind: a machine that records no connections
// teaches nothing of what is usual there.
func (b *Baseline) matureFor(kind string) bool {
	seen := b.Runs - b.Unseen[kind]
	return b.Accepted != nil && (seen > 0 || b.Runs == 0) || seen >= b.Needs()
}

// Needs is how many runs the baseline has to learn before it is mature.
func (b *Baseline) Needs() int {
	if b.MatureAfter > 0 {
		return b.MatureAfter
	}
	return MatureAfter
}

func (b *Baseline) of(word string) *map[string]Seen {
	switch word {
	case "host":
		return &b.Hosts
	case "binary":
		return &b.Binaries
	case "sensitive":
		return &b.Sensitive
	}
	return nil
}

// Knows reports whether something is usual: learnt before the baseline was mature, met in
// enough runs since, or accepted. kind is "host", "binary" or "sensitive".
func (b *Baseline) Knows(kind, what string) bool {
	s, met := b.Seen(Fact{kind, what})
	return met && !s.Fresh
}

// Seen is what is known of a fact, usual or not; false if it was never met.
func (b *Baseline) Seen(f Fact) (Seen, bool) {
	of := b.of(f.Kind)
	if of == nil {
		return Seen{}, false
	}
	s, met := (*of)[f.What]
	return s, met
}

// Facts are all that the baseline holds, by kind and then by text.
func (b *Baseline) Facts() []Fact {
	var out []Fact
	for _, kind := range kindWords {
		for _, what := range slices.Sorted(maps.Keys(*b.of(kind))) {
			out = append(out, Fact{kind, what})
		}
	}
	return out
}

// Fresh are the facts that came after the baseline had matured and are not usual yet.
func (b *Baseline) Fresh() []Fact {
	return slices.DeleteFunc(b.Facts(), func(f Fact) bool { return b.Knows(f.Kind, f.What) })
}

// Accept takes a fact for usual from now on: somebody said that it is expected. It reports
// whether that changed anything; who accepted it first stays.
func (b *Baseline) Accept(f Fact, by Act) bool {
	s, met := b.Seen(f)
	if b.of(f.Kind) == nil || f.What == "" || s.Accepted != nil {
		return false
	}
	if !met {
		s.First, s.Last = by.At, by.At
	}
	s.Fresh, s.Accepted = false, &by
	b.put(f, s)
	b.UpdatedAt = by.At
	return true
}

// AcceptAll takes all that the baseline holds for usual, and has it mature at once if it
// is not: somebody looked at it. It reports whether that changed anything.
func (b *Baseline) AcceptAll(by Act) bool {
	changed := false
	for _, f := range b.Fresh() {
		changed = b.Accept(f, by) || changed
	}
	if b.Mature() {
		return changed
	}
	b.Accepted, b.UpdatedAt = &by, by.At
	return true
}

// Forget has the baseline begin anew, and keeps who wanted that.
func (b *Baseline) Forget(by Act) {
	*b = Baseline{MatureAfter: b.MatureAfter, Forgotten: &by, UpdatedAt: by.At}
}

func (b *Baseline) put(f Fact, s Seen) {
	of := b.of(f.Kind)
	if *of == nil {
		*of = map[string]Seen{}
	}
	(*of)[f.What] = s
}

// Learn takes the facts of one more run, whose trace it names, and reports whether it did:
// a run with a finding of high severity or worse teaches nothing, or an attack would become
// normal.
func (b *Baseline) Learn(f Facts, from string, now time.Time) bool {
	if rank(f.Worst) >= rank(muster.SeverityHigh) {
		b.Refused++
		return false
	}
	var mature [kinds]bool
	for k := range kinds {
		mature[k] = b.matureFor(kindWords[k])
	}
	b.Runs++
	for _, word := range f.Unseen {
		if b.Unseen == nil {
			b.Unseen = map[string]int{}
		}
		b.Unseen[word]++
	}
	for k := range kinds {
		for what := range f.of(k) {
			fact := Fact{kindWords[k], what}
			s, met := b.Seen(fact)
			if !met {
				if len(*b.of(fact.Kind)) >= maxFacts {
					continue
				}
				s = Seen{First: now, Trace: from, Fresh: mature[k]}
			}
			s.Runs++
			s.Last = now
			s.Fresh = s.Fresh && s.Runs < UsualAfter
			b.put(fact, s)
		}
	}
	b.UpdatedAt = now
	return true
}

// New lists what the facts hold and the baseline does not, as "kind:what", sorted.
func (b *Baseline) New(f Facts) []string {
	var out []string
	for k := range kinds {
		for _, what := range slices.Sorted(maps.Keys(f.of(k))) {
			if !b.Knows(kindWords[k], what) {
				out = append(out, kindWords[k]+":"+what)
			}
		}
	}
	return out
}

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
	// Worst is the severity of the worst finding but for those of the baseline itself.
	Worst muster.Severity `json:"worst,omitempty"`
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
	if x.base == nil || !x.base.Mature() {
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

// MatureAfter is how many runs a baseline learns before what is new is a finding.
const MatureAfter = 5

// Seen is when something was met in the runs of a job.
type Seen struct {
	Runs  int       `json:"runs"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// Baseline is what the runs of one job have done. The zero value has learnt nothing. It is
// not safe for concurrent use.
type Baseline struct {
	Version int `json:"version"`
	// Runs is how many runs were learnt, Refused how many were not because of findings.
	Runs    int `json:"runs"`
	Refused int `json:"refused,omitempty"`
	// MatureAfter is how many runs are needed, 0 for the default. Accepted makes the
	// baseline mature at once: somebody looked at it.
	MatureAfter int             `json:"mature_after,omitempty"`
	Accepted    bool            `json:"accepted,omitempty"`
	Hosts       map[string]Seen `json:"hosts,omitempty"`
	Binaries    map[string]Seen `json:"binaries,omitempty"`
	Sensitive   map[string]Seen `json:"sensitive,omitempty"`
	UpdatedAt   time.Time       `json:"updated_at,omitzero"`
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
func (b *Baseline) Mature() bool {
	need := b.MatureAfter
	if need <= 0 {
		need = MatureAfter
	}
	return b.Accepted || b.Runs >= need
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

// Knows reports whether something was learnt: kind is "host", "binary" or "sensitive".
func (b *Baseline) Knows(kind, what string) bool {
	of := b.of(kind)
	if of == nil {
		return false
	}
	_, ok := (*of)[what]
	return ok
}

// Accept takes one thing for known: somebody said that it is expected.
func (b *Baseline) Accept(kind, what string, now time.Time) bool {
	of := b.of(kind)
	if of == nil || what == "" {
		return false
	}
	if *of == nil {
		*of = map[string]Seen{}
	}
	s, known := (*of)[what]
	if !known {
		s.First = now
	}
	s.Last = now
	(*of)[what] = s
	b.UpdatedAt = now
	return true
}

// Learn takes the facts of one more run, and reports whether it did: a run with a finding
// of high severity or worse teaches nothing, or an attack would become normal.
func (b *Baseline) Learn(f Facts, now time.Time) bool {
	if rank(f.Worst) >= rank(muster.SeverityHigh) {
		b.Refused++
		return false
	}
	b.Runs++
	for k := range kinds {
		for what := range f.of(k) {
			of := b.of(kindWords[k])
			if len(*of) >= maxFacts && !b.Knows(kindWords[k], what) {
				continue
			}
			b.Accept(kindWords[k], what, now)
			s := (*of)[what]
			s.Runs++
			(*of)[what] = s
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

package web

import (
	"cmp"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// egressPage is what a pool's jobs may reach, what was refused, and what they would need.
type egressPage struct {
	PoolView
	Allowlist
	Entries []allowRow
	Fresh   []allowRow
	Denied  []refusedRow
	// Unused is how many entries of the policy no job needed.
	Unused int
	YAML   string
	// Doubtful is how many proposals something speaks against: they are comments in YAML.
	Doubtful int
}

// allowRow is one line of an allow list.
type allowRow struct {
	AllowEntry
	Show, Hosts, Who clipped
}

// refusedRow is one destination that the policy refused or would have.
type refusedRow struct {
	RefusedHost
	Place clipped
	Where traceSummary
}

// Verdict is what the policy says of it.
func (r refusedRow) Verdict() string {
	if r.Denied {
		return trace.VerdictDenied
	}
	return trace.VerdictWouldDeny
}

// egressWords say what each mode does.
var egressWords = map[string]string{
	"": "No policy: jobs reach whatever the network lets them.", "audit": "What is not allowed passes and is marked.",
	"learn": "What is not allowed passes and is marked, and an allow list is proposed.", "enforce": "What is not allowed is refused in the kernel.",
}

// allowTTL is how long a proposal is kept: it is made of hundreds of traces.
const allowTTL = time.Minute

// egress shows the egress of a pool.
func (s *site) egress(w http.ResponseWriter, r *http.Request) error {
	pool, err := s.findPool(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	kept, _ := s.allow.LoadOrStore(pool.Name, new(cached[Allowlist]))
	list, err := kept.(*cached[Allowlist]).get(s.Now(), allowTTL, func() (Allowlist, error) { return s.Traces.Allowlist(r.Context(), pool.Name) })
	if err != nil {
		return err
	}
	v := egressPage{PoolView: pool, Allowlist: list}
	for _, e := range list.Present {
		v.Entries = append(v.Entries, allowRowOf(e))
		if e.Jobs == 0 {
			v.Unused++
		}
	}
	for _, e := range list.Proposed {
		v.Fresh = append(v.Fresh, allowRowOf(e))
		if e.Warning != "" {
			v.Doubtful++
		}
	}
	for _, h := range list.Refused {
		v.Denied = append(v.Denied, refusedRow{h, clip(90, placeOf(h.Host, h.Port, h.Protocol)), summaryOf(h.Trace)})
	}
	v.YAML = policyYAML(list)
	return s.show(w, r, "egress", page{Title: "Egress of " + pool.Name, Section: "pools", Body: v})
}

func allowRowOf(e AllowEntry) allowRow {
	return allowRow{e, clip(90, e.Entry), clip(300, strings.Join(e.Hosts, ", ")), clip(60, strings.Join(e.Programs, ", "))}
}

// policyYAML is the policy with what is proposed, as the configuration of a pool takes it.
// What something speaks against is a comment.
func policyYAML(list Allowlist) string {
	var b strings.Builder
	b.WriteString("egress:\n  mode: " + string(cmp.Or(list.Policy.Mode, trace.EgressLearn)) + "\n")
	if list.Policy.NoGitHub {
		b.WriteString("  no_github: true\n")
	}
	b.WriteString("  allow:\n")
	if len(list.Policy.Allow)+len(list.Proposed) == 0 {
		b.WriteString("    []\n")
	}
	for _, entry := range list.Policy.Allow {
		b.WriteString("    - " + strconv.QuoteToASCII(entry) + "\n")
	}
	for _, p := range list.Proposed {
		if p.Warning != "" {
			b.WriteString("    # - " + strconv.QuoteToASCII(p.Entry) + " # " + strings.Join(strings.Fields(visible(p.Warning, 200)), " ") + "\n")
			continue
		}
		b.WriteString("    - " + strconv.QuoteToASCII(p.Entry) + "\n")
	}
	return b.String()
}

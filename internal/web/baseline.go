package web

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace/detect"
)

// baselinePath is the address of what a job usually does, "" for a job without a name.
func baselinePath(name string) string {
	if name == "" {
		return ""
	}
	return address("/baseline", url.Values{"name": {name}})
}

// traceFinding is a finding in a trace, and who accepted what was new, nil if nobody did.
type traceFinding struct {
	muster.Detection
	Accepted *detect.Act
}

// expectable is a fact that may be accepted.
type expectable struct {
	Fact string
	Show clipped
}

// expectableOf leaves out what a form would not send as it is.
func expectableOf(facts []string) (out []expectable) {
	for _, f := range facts {
		if f != "" && !strings.ContainsAny(f, "\r\n\x00") && !slices.ContainsFunc(out, func(e expectable) bool { return e.Fact == f }) {
			out = append(out, expectable{f, clip(160, f)})
		}
	}
	return out
}

// Usual is the address of what the job usually does, "" if that is not learnt.
func (s traceSummary) Usual() string {
	if s.AnalysedAt.IsZero() {
		return ""
	}
	return baselinePath(s.Baseline())
}

// Expected are the facts of a group that nobody accepted yet.
func (g findingGroup) Expected() []expectable {
	var facts []string
	for _, f := range append([]traceFinding{g.traceFinding}, g.More...) {
		if f.Accepted == nil {
			facts = append(facts, f.Fact)
		}
	}
	return expectableOf(facts)
}

// baselinesView is the list of what is known of jobs.
type baselinesView struct {
	Text  string
	Rows  []baselineRow
	Next  string
	First string
}

// baselineRow is how far one baseline has come.
type baselineRow struct {
	Baseline
	Path  string
	Show  clipped
	Fresh int
}

// State says how far a baseline has come in a word or two, Tone how that looks.
func (b Baseline) State() string {
	switch {
	case !b.Mature():
		return fmt.Sprintf("learning, %d of %d", b.Runs, b.Needs())
	case b.Runs < b.Needs():
		return "accepted"
	}
	return "mature"
}

// Tone is the colour of State.
func (b Baseline) Tone() string {
	if b.Mature() {
		return "ok"
	}
	return "wait"
}

func (s *site) baselines(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	v := baselinesView{Text: text(q, "q")}
	after := q.Get("after")
	all, err := s.Traces.Baselines(r.Context(), v.Text, after, pageSize+1)
	if err != nil {
		return err
	}
	to := url.Values{}
	if v.Text != "" {
		to.Set("q", v.Text)
	}
	if after != "" {
		v.First = address("/baselines", to)
	}
	if len(all) > pageSize {
		all = all[:pageSize]
		to.Set("after", all[pageSize-1].Name)
		v.Next = address("/baselines", to)
	}
	for _, b := range all {
		v.Rows = append(v.Rows, baselineRow{b, baselinePath(b.Name), clip(120, b.Name), len(b.Fresh())})
	}
	return s.show(w, r, "baselines", page{Title: "What jobs usually do", Section: "findings", Body: v})
}

// baselineView is what one job usually does.
type baselineView struct {
	Baseline
	Show       clipped
	Repository string
	// Command shows it on the command line, "" if its name cannot be typed.
	Command string
	Kinds   []factKind
	// Expected are the facts that are new.
	Expected []expectable
}

// factKind are the facts of one kind.
type factKind struct {
	Name, Title string
	Rows        []factRow
	More        int // that are not shown
}

// factRow is one fact.
type factRow struct {
	detect.Seen
	Show clipped
	From string // the address of the trace that it was first met in
}

// maxFactRows is how many facts of a kind a page has.
const maxFactRows = 300

func (s *site) baseline(w http.ResponseWriter, r *http.Request) error {
	b, err := s.Traces.Baseline(r.Context(), r.URL.Query().Get("name"))
	if err != nil {
		return err
	}
	v := baselineView{Baseline: b, Show: clip(120, b.Name)}
	if parts := strings.SplitN(b.Name, "/", 3); len(parts) == 3 {
		v.Repository = parts[0] + "/" + parts[1]
	}
	if visible(b.Name, len(b.Name)) == b.Name {
		v.Command = "muster trace baseline show '" + strings.ReplaceAll(b.Name, "'", `'\''`) + "'"
	}
	var fresh []string
	for _, f := range b.Fresh() {
		fresh = append(fresh, f.String())
	}
	v.Expected = expectableOf(fresh)
	for _, k := range []factKind{{Name: "host", Title: "Hosts"}, {Name: "binary", Title: "Programs"}, {Name: "sensitive", Title: "Files with secrets"}} {
		k.Rows = factRows(b, k.Name)
		if k.More = max(0, len(k.Rows)-maxFactRows); k.More > 0 {
			k.Rows = k.Rows[:maxFactRows]
		}
		v.Kinds = append(v.Kinds, k)
	}
	return s.show(w, r, "baseline", page{Title: "What " + visible(b.Name, maxShown) + " usually does", Section: "findings", Body: v})
}

// factRows are the facts of a kind: what is new first, then what was accepted.
func factRows(b Baseline, kind string) (out []factRow) {
	for _, f := range b.Facts() {
		if f.Kind != kind {
			continue
		}
		s, _ := b.Seen(f)
		row := factRow{Seen: s, Show: clip(120, f.What)}
		if id, err := muster.ParseTraceID(s.Trace); err == nil {
			row.From = summaryOf(muster.Trace{ID: id}).Open()
		}
		out = append(out, row)
	}
	rank := func(r factRow) int {
		switch {
		case r.Fresh:
			return 0
		case r.Accepted != nil:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(out, func(x, y factRow) int { return cmp.Compare(rank(x), rank(y)) })
	return out
}

// maxBaselineForm bounds a form with all facts of a page.
const maxBaselineForm = 4 << 20

// baselineForm reads what a form says of a baseline: of one that it names, or of that of a
// trace, whose findings it is on. Back is the page that it is on.
func (s *site) baselineForm(w http.ResponseWriter, r *http.Request) (name, back, hash, reason string, err error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBaselineForm)
	if err := r.ParseForm(); err != nil {
		return "", "", "", "", muster.Errorf(muster.CodeInvalid, "the form could not be read")
	}
	reason = strings.TrimSpace(r.PostForm.Get("reason"))
	reason = cmp.Or(strings.ToValidUTF8(reason[:min(len(reason), maxQueryText)], ""), "on the dashboard")
	if name = r.PostForm.Get("name"); name != "" {
		return name, baselinePath(name), "", reason, nil
	}
	id, err := muster.ParseTraceID(r.PostForm.Get("trace"))
	if err != nil {
		return "", "", "", "", muster.Errorf(muster.CodeInvalid, "the form names neither a baseline nor a trace")
	}
	t, err := s.traceOf(r.Context(), id)
	if err != nil {
		return "", "", "", "", err
	}
	if t.Baseline() == "" {
		return "", "", "", "", muster.Errorf(muster.CodeNotFound, "trace %s has no baseline: the runner did not tell which job of which workflow it is of", id)
	}
	return t.Baseline(), summaryOf(t).Open(), "#r-findings", reason, nil
}

// traceOf finds a trace by its id.
func (s *site) traceOf(ctx context.Context, id muster.TraceID) (muster.Trace, error) {
	list, err := s.Traces.Traces(ctx, TraceQuery{Runner: id.Runner, Limit: maxRunnerTraces})
	if err != nil {
		return muster.Trace{}, err
	}
	i := slices.IndexFunc(list, func(t muster.Trace) bool { return t.ID == id })
	if i < 0 {
		return muster.Trace{}, errNoTrace("runner " + string(id.Runner))
	}
	return list[i], nil
}

func (s *site) acceptBaseline(w http.ResponseWriter, r *http.Request) error {
	name, back, hash, reason, err := s.baselineForm(w, r)
	if err != nil {
		return err
	}
	a := Acceptance{All: r.PostForm.Get("all") != "", Reason: reason}
	for _, text := range r.PostForm["fact"] {
		f, err := detect.ParseFact(text)
		if err != nil {
			return err
		}
		a.Facts = append(a.Facts, f)
	}
	if len(a.Facts) == 0 && !a.All {
		return muster.Errorf(muster.CodeInvalid, "nothing was ticked that is expected")
	}
	if v := r.PostForm.Get("version"); v != "" {
		if a.Version, err = strconv.ParseInt(v, 10, 64); err != nil || a.Version < 0 {
			return muster.Errorf(muster.CodeInvalid, "%q is no version of a baseline", v)
		}
	}
	if err := s.Commands.AcceptBaseline(r.Context(), name, a); err != nil {
		return err
	}
	return doneAt(w, r, back, "accept", hash)
}

func (s *site) resetBaseline(w http.ResponseWriter, r *http.Request) error {
	name, back, hash, reason, err := s.baselineForm(w, r)
	if err != nil {
		return err
	}
	if err := s.Commands.ResetBaseline(r.Context(), name, reason); err != nil {
		return err
	}
	return doneAt(w, r, back, "reset", hash)
}

// doneAt is done for a page whose address has parameters, and for a part of it.
func doneAt(w http.ResponseWriter, r *http.Request, path, notice, hash string) error {
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	http.Redirect(w, r, path+sep+"done="+notice+hash, http.StatusSeeOther)
	return nil
}

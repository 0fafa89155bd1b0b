package web

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace/view"
)

// traceTabs are the pages about one trace, in the order in which they are offered.
var traceTabs = []struct{ Name, Title string }{
	{"overview", "Overview"}, {"timeline", "Timeline"}, {"execution", "Execution"}, {"network", "Network"},
	{"files", "File access"}, {"query", "Query"}, {"diff", "Diff"}, {"performance", "Performance"},
}

// tracePage is what the pages about one trace have in common.
type tracePage struct {
	traceSummary
	// Job is the job on GitHub, nil if it is not known.
	Job *muster.Job
	Tab string
	// Views are nil if there is nothing to look at, and Problem then says why.
	Views   *view.Views
	Problem string
	// Tabbed is what the tab shows.
	Tabbed any

	params url.Values
	steps  map[int]*view.Step
}

// Tabs are the names and titles of the tabs.
func (s traceSummary) Tabs() any { return traceTabs }

// Link is the address of another tab.
func (p *tracePage) Link(tab string) string { return p.Base + "/" + tab + p.Suffix }

// With is the address of a tab with parameters: names and values by turns; those with
// the value "" are left out, and long ones cut.
func (s traceSummary) With(tab string, params ...any) string {
	q := url.Values{}
	if s.Suffix != "" {
		name, value, _ := strings.Cut(s.Suffix[1:], "=")
		q.Set(name, value)
	}
	for i := 0; i+1 < len(params); i += 2 {
		if v := fmt.Sprint(params[i+1]); v != "" {
			q.Set(fmt.Sprint(params[i]), strings.ToValidUTF8(v[:min(len(v), maxTitle)], ""))
		}
	}
	return address(s.Base+"/"+tab, q)
}

// Nothing says why there is nothing to look at.
func (p *tracePage) Nothing() string {
	if p.State == muster.TraceComplete && p.DeletedAt.IsZero() {
		return sentence(visible(p.Problem, maxTitle))
	}
	return p.Line()
}

// NotRecorded says why the machine did not record a kind of events, "" if it did: a page without
// them proves nothing then.
func (p *tracePage) NotRecorded(kind string) string {
	return visible(p.Views.Overview.Missing[kind], 300)
}

// Keep are the parameters that a form has to send along: names and values.
func (p *tracePage) Keep() [][2]string {
	if p.Suffix == "" {
		return nil
	}
	name, value, _ := strings.Cut(p.Suffix[1:], "=")
	return [][2]string{{name, value}}
}

// Step is what a step is called on a page: "3 · Run tests".
func (p *tracePage) Step(number int) clipped {
	st := p.steps[number]
	switch {
	case number == 0:
		return clipped{Text: "outside of steps"}
	case st == nil || st.Name == "":
		return clipped{Text: "step " + strconv.Itoa(number)}
	}
	return clip(60, strconv.Itoa(number)+" · "+st.Name)
}

// processLink is the address of a process, "" if it is not listed.
func (p *tracePage) processLink(i int) string {
	if p.Views == nil || i < 0 || i >= len(p.Views.Processes) {
		return ""
	}
	return p.With("execution", "of", i)
}

// OfPID is the address of the process with a number: its own page if there is but one.
func (p *tracePage) OfPID(pid int) string {
	if p.Views != nil {
		if i, one := ofPID(p.Views.Processes, pid); one {
			return p.processLink(i)
		}
	}
	return p.traceSummary.OfPID(pid)
}

// OfStep is the address of the step with a name, "" if none or several have it.
func (p *tracePage) OfStep(name string) string {
	found, n := 0, 0
	for _, st := range p.steps {
		if st.Name == name {
			found, n = st.Number, n+1
		}
	}
	if n != 1 {
		return ""
	}
	return p.With("timeline", "step", found) + "#r-events"
}

// ofPID is the index of the process with a number, and whether exactly one has it.
func ofPID(list []view.Process, pid int) (found int, one bool) {
	n := 0
	for i := range list {
		if list[i].PID == pid {
			found, n = i, n+1
		}
	}
	return found, n == 1
}

// traceSearch is the address of a query over one trace.
func (p *tracePage) traceSearch(expr string) string {
	return p.With("query", "q", expr)
}

// Search is traceSearch for templates.
func (p *tracePage) Search(expr string) string { return p.traceSearch(expr) }

// typeLink narrows events to a type.
type typeLink struct {
	Title   string
	Link    string
	Current bool
}

// traceSummary is how a trace stands in a few lines.
type traceSummary struct {
	muster.Trace
	// Base is the address of its pages without the tab, Suffix what follows the tab.
	Base, Suffix string
	Findings     []traceFinding
	// CanAccept: what is new may be accepted here.
	CanAccept bool
}

// summaryOf gives a trace its address: that of its job or, until that is known, of its runner.
func summaryOf(t muster.Trace) traceSummary {
	s := traceSummary{Trace: t}
	if t.Job.ID != 0 {
		s.Base = fmt.Sprintf("/jobs/%d/trace", t.Job.ID)
		if t.Job.Attempt > 1 {
			s.Suffix = "?attempt=" + strconv.Itoa(t.Job.Attempt)
		}
		return s
	}
	s.Base = "/runners/" + url.PathEscape(string(t.ID.Runner)) + "/trace"
	if t.ID.Number > 1 {
		s.Suffix = "?number=" + strconv.Itoa(t.ID.Number)
	}
	return s
}

// Open is the address of the trace's first page, "" if there is nothing behind it.
func (s traceSummary) Open() string {
	if s.Base == "" {
		return ""
	}
	return s.Base + "/overview" + s.Suffix
}

// Argument is what the command line calls the trace.
func (s traceSummary) Argument() string {
	if s.Job.ID != 0 {
		return s.Job.String()
	}
	return s.ID.String()
}

// findingGroup is what one rule found: the first in full, the others in a line each.
type findingGroup struct {
	traceFinding
	More []traceFinding
}

// Groups are the findings by rule, in the order of the first of each.
func (s traceSummary) Groups() []findingGroup {
	var out []findingGroup
	for _, d := range s.Findings {
		if i := slices.IndexFunc(out, func(g findingGroup) bool { return g.Rule == d.Rule && g.Severity == d.Severity }); i >= 0 {
			out[i].More = append(out[i].More, d)
			continue
		}
		out = append(out, findingGroup{traceFinding: d})
	}
	return out
}

// OfStep is "": the steps of a trace are known only where its views are.
func (traceSummary) OfStep(string) string { return "" }

// OfPID is the address of the process with a number, or of those that had it by turns.
func (s traceSummary) OfPID(pid int) string { return s.With("execution", "pid", pid) }

// EventsOf is the address of the events that made a rule fire, "" if it names none.
func (s traceSummary) EventsOf(d muster.Detection) string {
	if len(d.Seq) == 0 {
		return ""
	}
	const most = 50
	list := make([]string, 0, most)
	for _, n := range d.Seq[:min(most, len(d.Seq))] {
		list = append(list, strconv.FormatUint(n, 10))
	}
	return s.With("query", "q", "seq in ["+strings.Join(list, ", ")+"]")
}

// Recording reports whether the trace still grows.
func (s traceSummary) Recording() bool { return s.State == muster.TraceRecording }

// Line says in one line what became of the trace.
func (s traceSummary) Line() string {
	there := fmt.Sprintf("%s in %s", plural(int(s.Events), "event", "events"), plural(s.Segments, "segment", "segments"))
	why := strings.TrimSuffix(visible(s.Reason, 400), ".")
	switch {
	case !s.DeletedAt.IsZero():
		return fmt.Sprintf("Its %s were deleted on %s, as the workspace keeps them so long. What was found in them is still here.", plural(int(s.Events), "event", "events"), s.DeletedAt.UTC().Format("2 January 2006"))
	case s.Damage != muster.TraceDamage{}:
		return fmt.Sprintf("Damaged since it was stored: %s. What was stored had %s.", why, there)
	case s.State == muster.TraceRecording:
		return fmt.Sprintf("Recording now: %s so far.", there)
	case s.State == muster.TraceComplete:
		return fmt.Sprintf("Complete: %s, %s packed, sealed by the agent and the chain of hashes whole.", there, formatBytes(s.Bytes))
	case s.State == muster.TraceTruncated:
		return fmt.Sprintf("Truncated, because %s. %s are there.", cmp.Or(why, "no seal came"), there)
	case s.State == muster.TraceLost:
		return fmt.Sprintf("Lost, because %s. Nothing of it is there.", cmp.Or(why, "nothing arrived"))
	case s.State == muster.TraceAbsent:
		return fmt.Sprintf("Not recorded, because %s.", cmp.Or(why, "the runner's machine could not"))
	}
	return word(s.State)
}

// Beside is Line without the reason, if the verdict that it stands below has said it.
func (s traceSummary) Beside(verdict string) string {
	if s.State == muster.TraceTruncated && s.Damage == (muster.TraceDamage{}) && s.DeletedAt.IsZero() && s.Reason != "" && strings.Contains(verdict, s.Reason) {
		return fmt.Sprintf("%s in %s are there.", plural(int(s.Events), "event", "events"), plural(s.Segments, "segment", "segments"))
	}
	return s.Line()
}

// lostWords are the reasons for which a recorder drops events.
var lostWords = map[string]string{
	"recorder_gone": "the recorder ended before the job",
	"buffer_full":   "the ring buffer was full", "job_limit": "the job's limit was reached",
	"rate_limit": "one process was too fast", "disk_full": "the machine's disk was full",
}

// LostLine says how many events were dropped; also when none were.
func (s traceSummary) LostLine() string {
	var sum int64
	var why []string
	for _, k := range slices.Sorted(maps.Keys(s.Lost)) {
		if n := s.Lost[k]; n > 0 {
			sum += n
			why = append(why, fmt.Sprintf("%s because %s", formatNumber(n), cmp.Or(lostWords[k], visible(k, 60))))
		}
	}
	switch {
	case sum == 0 && s.State == muster.TraceTruncated:
		return "No event before the cut was lost."
	case sum == 0:
		return "No event was lost."
	}
	return fmt.Sprintf("%s lost: %s.", plural(int(sum), "event was", "events were"), strings.Join(why, ", "))
}

// LostAny reports whether events were dropped.
func (s traceSummary) LostAny() bool {
	for _, n := range s.Lost {
		if n > 0 {
			return true
		}
	}
	return false
}

// EgressLine says what the policy did, "" without a policy.
func (s traceSummary) EgressLine() string {
	switch {
	case s.Refused > 0:
		return fmt.Sprintf("The egress policy refused %s.", plural(int(s.Refused), "connection or lookup", "connections and lookups"))
	case s.WouldRefuse > 0:
		return fmt.Sprintf("The egress policy (%s) let pass what enforcing it would have refused: %s.", visible(s.Egress, 20), plural(int(s.WouldRefuse), "connection or lookup", "connections and lookups"))
	case s.Egress != "" && s.Missing["egress"] != "":
		return fmt.Sprintf("The egress policy (%s) was not watched, because: %s.", visible(s.Egress, 20), visible(s.Missing["egress"], 300))
	case s.Egress != "":
		return fmt.Sprintf("The egress policy (%s) had nothing to refuse.", visible(s.Egress, 20))
	}
	return ""
}

// severityCount is one severity and how many findings have it.
type severityCount struct {
	Severity muster.Severity
	N        int
}

// Severities are the counts of its findings, the worst first.
func (s traceSummary) Severities() []severityCount {
	var out []severityCount
	for _, sev := range slices.Backward(muster.Severities) {
		if n := s.Trace.Findings[sev]; n > 0 {
			out = append(out, severityCount{sev, n})
		}
	}
	return out
}

// MissingRows are the kinds of events that were not recorded, with why.
func (s traceSummary) MissingRows() [][2]string {
	var out [][2]string
	for _, k := range slices.Sorted(maps.Keys(s.Missing)) {
		out = append(out, [2]string{visible(k, 60), visible(s.Missing[k], 300)})
	}
	return out
}

// errNoTrace is the answer to whoever asks for a trace that there is none of.
func errNoTrace(of string) error {
	return muster.Errorf(muster.CodeNotFound, "there is no trace of %s", of)
}

// jobTrace is the trace of a job, nil if there is none.
func (s *site) jobTrace(ctx context.Context, j muster.Job) (*muster.Trace, error) {
	list, err := s.Traces.Traces(ctx, TraceQuery{Job: j.Key, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(list) == 0 && j.Runner != "" { // recorded, and not yet known to be this job's
		if list, err = s.Traces.Traces(ctx, TraceQuery{Runner: j.Runner, Limit: 1}); err != nil {
			return nil, err
		}
		if len(list) > 0 && list[0].Job.ID != 0 {
			list = nil
		}
	}
	if len(list) == 0 {
		return nil, nil
	}
	return &list[0], nil
}

// traceSection is what the page of a job says of its trace, nil where none are made.
func (s *site) traceSection(ctx context.Context, j muster.Job) (*traceSummary, error) {
	if s.Traces == nil || !j.RanOnRunner() && j.State != muster.JobInProgress {
		return nil, nil
	}
	t, err := s.jobTrace(ctx, j)
	if err != nil || t == nil {
		return nil, err
	}
	sum := summaryOf(*t)
	sum.Base, sum.Suffix = fmt.Sprintf("/jobs/%d/trace", j.Key.ID), ""
	if j.Key.Attempt > 1 {
		sum.Suffix = "?attempt=" + strconv.Itoa(j.Key.Attempt)
	}
	sum.CanAccept = s.Commands != nil
	sum.Findings, err = s.findingsIn(ctx, t.ID)
	return &sum, err
}

// findingsIn are what rules found in a trace, the worst first.
func (s *site) findingsIn(ctx context.Context, id muster.TraceID) ([]traceFinding, error) {
	rows, err := s.Traces.Detections(ctx, DetectionQuery{Trace: id, Limit: 500})
	if err != nil {
		return nil, err
	}
	out := make([]traceFinding, len(rows))
	for i, r := range rows {
		out[i] = traceFinding{r.Detection, r.Accepted}
	}
	slices.SortStableFunc(out, func(a, b traceFinding) int {
		return cmp.Or(cmp.Compare(severityRank(b.Severity), severityRank(a.Severity)), a.At.Compare(b.At))
	})
	return out, nil
}

// severityRank orders severities; an unknown one is as the least.
func severityRank(s muster.Severity) int { return slices.Index(muster.Severities, s) }

// tracesOf are the traces that match q with their addresses.
func (s *site) tracesOf(ctx context.Context, q TraceQuery) ([]traceSummary, error) {
	if s.Traces == nil {
		return nil, nil
	}
	list, err := s.Traces.Traces(ctx, q)
	if err != nil {
		return nil, err
	}
	out := make([]traceSummary, len(list))
	for i, t := range list {
		out[i] = summaryOf(t)
	}
	return out, nil
}

// traceRoutes are the pages about traces.
func (s *site) traceRoutes(get func(string, handler)) {
	if s.Traces == nil {
		return
	}
	first := func(w http.ResponseWriter, r *http.Request) error {
		http.Redirect(w, r, r.URL.Path+"/overview", http.StatusFound)
		return nil
	}
	get("/jobs/{id}/trace", first)
	get("/jobs/{id}/trace/{tab}", s.traceOfJob)
	get("/runners/{id}/trace", first)
	get("/runners/{id}/trace/{tab}", s.traceOfRunner)
}

func (s *site) traceOfJob(w http.ResponseWriter, r *http.Request) error {
	key, err := jobKey(r)
	if err != nil {
		return err
	}
	attempt, err := number(r.URL.Query(), "attempt")
	if err != nil {
		return err
	}
	key.Attempt = int(attempt)
	j, err := s.Reads.Job(r.Context(), key)
	if err != nil {
		return err
	}
	t, err := s.jobTrace(r.Context(), j)
	if err != nil {
		return err
	}
	if t == nil {
		return errNoTrace(fmt.Sprintf("job %d", key.ID))
	}
	p := &tracePage{traceSummary: summaryOf(*t), Job: &j}
	p.Base, p.Suffix = fmt.Sprintf("/jobs/%d/trace", key.ID), ""
	if key.Attempt > 1 {
		p.Suffix = "?attempt=" + strconv.Itoa(key.Attempt)
	}
	return s.tracePage(w, r, p)
}

func (s *site) traceOfRunner(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	id := muster.TraceID{Runner: muster.RunnerID(r.PathValue("id")), Number: 1}
	nth, err := number(r.URL.Query(), "number")
	if err != nil {
		return err
	}
	id.Number = max(int(nth), 1)
	list, err := s.Traces.Traces(ctx, TraceQuery{Runner: id.Runner, Limit: maxRunnerTraces})
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(t muster.Trace) bool { return t.ID == id })
	if i < 0 {
		return errNoTrace("runner " + r.PathValue("id"))
	}
	p := &tracePage{traceSummary: summaryOf(list[i])}
	p.Base, p.Suffix = "/runners/"+url.PathEscape(string(id.Runner))+"/trace", ""
	if id.Number > 1 {
		p.Suffix = "?number=" + strconv.Itoa(id.Number)
	}
	if job := list[i].Job; job.ID != 0 {
		if p.Job, err = optional(s.Reads.Job(ctx, job)); err != nil {
			return err
		}
	}
	return s.tracePage(w, r, p)
}

// maxRunnerTraces bounds how many traces of one runner are listed.
const maxRunnerTraces = 200

// traceTab makes what a tab shows, and may have it shown alone (part) where the script
// asks for some of it only.
type traceTab func(s *site, r *http.Request, p *tracePage) (shown any, err error)

var tabsOf = map[string]traceTab{
	"overview": (*site).traceOverview, "timeline": (*site).traceTimeline, "execution": (*site).traceExecution, "network": (*site).traceNetwork,
	"files": (*site).traceFiles, "query": (*site).traceQuery, "diff": (*site).traceDiff, "performance": (*site).tracePerformance,
}

// tracePage shows one tab of a trace.
func (s *site) tracePage(w http.ResponseWriter, r *http.Request, p *tracePage) error {
	ctx := r.Context()
	p.Tab, p.params = r.PathValue("tab"), r.URL.Query()
	tab := tabsOf[p.Tab]
	if tab == nil {
		return muster.Errorf(muster.CodeNotFound, "a trace has no page %q", p.Tab)
	}
	var err error
	switch p.Views, err = s.Traces.Views(ctx, p.ID); muster.CodeOf(err) {
	case muster.CodeNotFound, muster.CodeGone:
		p.Problem = muster.MessageOf(err)
	default:
		if err != nil {
			return err
		}
	}
	p.CanAccept = s.Commands != nil
	if p.Findings, err = s.findingsIn(ctx, p.ID); err != nil {
		return err
	}
	if p.Views != nil {
		p.steps = map[int]*view.Step{}
		for i := range p.Views.Steps {
			p.steps[p.Views.Steps[i].Number] = &p.Views.Steps[i]
		}
		if p.Tabbed, err = tab(s, r, p); err != nil {
			return err
		}
	}
	title := cmp.Or(p.JobName, "Trace")
	if p.Job != nil {
		title = p.Job.Name
	}
	out := page{Title: visible(title, maxShown) + " trace", Section: "jobs", Body: p}
	if part, ok := p.Tabbed.(interface{ Part() string }); ok {
		out.Part = part.Part()
	}
	return s.show(w, r, "trace_"+p.Tab, out)
}

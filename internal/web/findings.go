package web

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// findingsView is what rules found in traces, all over the workspace.
type findingsView struct {
	Severity, Rule, Repository string
	Severities                 []typeLink
	Rows                       []findingRow
	Older, Newest              string
	Filtered                   bool
}

// findingRow is one finding and where it was.
type findingRow struct {
	traceFinding
	Where traceSummary
	Title, Subject,
	Step, Process clipped
}

// findings shows what jobs did; without traces there is only what the sweep found.
func (s *site) findings(w http.ResponseWriter, r *http.Request) error {
	if s.Traces == nil {
		return s.sweep(w, r)
	}
	q := r.URL.Query()
	v := findingsView{Severity: q.Get("severity"), Rule: text(q, "rule"), Repository: text(q, "repository")}
	if v.Severity != "" && !slices.Contains(muster.Severities, muster.Severity(v.Severity)) {
		return muster.Errorf(muster.CodeInvalid, "there is no severity %q: use info, low, medium, high or critical", text(q, "severity"))
	}
	v.Filtered = v.Rule != "" || v.Repository != "" || v.Severity != ""
	before, err := number(q, "before")
	if err != nil {
		return err
	}
	query := DetectionQuery{Severity: muster.Severity(v.Severity), Rule: v.Rule, Repository: v.Repository, Limit: pageSize + 1}
	if before > 0 {
		query.Before = time.UnixMicro(before)
		v.Newest = v.link(v.Severity, "")
	}
	rows, err := s.Traces.Detections(r.Context(), query)
	if err != nil {
		return err
	}
	if len(rows) > pageSize {
		rows = rows[:pageSize]
		v.Older = v.link(v.Severity, strconv.FormatInt(rows[pageSize-1].At.UnixMicro(), 10))
	}
	for _, d := range rows {
		v.Rows = append(v.Rows, findingRow{traceFinding: traceFinding{d.Detection, d.Accepted}, Where: summaryOf(d.Of), Title: clip(maxShown, d.Title), Subject: clipPath(80, d.Subject), Step: clip(60, d.Step), Process: clip(90, d.Process)})
	}
	v.Severities = append(v.Severities, typeLink{"All", v.link("", ""), v.Severity == ""})
	for _, sev := range slices.Backward(muster.Severities[1:]) { // from the least on is all
		title := string(sev)
		if sev != muster.SeverityCritical {
			title += " and above"
		}
		v.Severities = append(v.Severities, typeLink{strings.ToUpper(title[:1]) + title[1:], v.link(string(sev), ""), v.Severity == string(sev)})
	}
	return s.show(w, r, "detections", page{Title: "Findings", Section: "findings", Body: v})
}

// link is the address of the same list from a severity on.
func (v findingsView) link(severity, before string) string {
	q := url.Values{}
	for name, value := range map[string]string{"severity": severity, "rule": v.Rule, "repository": v.Repository, "before": before} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return address("/findings", q)
}

// RuleLink and RepositoryLink narrow the list.
func (v findingsView) RuleLink(rule string) string {
	v.Rule = rule
	return v.link(v.Severity, "")
}

// RepositoryLink narrows the list to a repository.
func (v findingsView) RepositoryLink(repository string) string {
	v.Repository = repository
	return v.link(v.Severity, "")
}

// sweepView is what the sweep found.
type sweepView struct {
	Rows   []Finding
	Traces bool // there are findings in traces too
}

func (s *site) sweep(w http.ResponseWriter, r *http.Request) error {
	list, err := s.Reads.Findings(r.Context(), 200)
	if err != nil {
		return err
	}
	return s.show(w, r, "findings", page{Title: "Findings", Section: "findings", Body: sweepView{list, s.Traces != nil}})
}

// about shows what this control plane is; everything is in the page's frame.
func (s *site) about(w http.ResponseWriter, r *http.Request) error {
	return s.show(w, r, "about", page{Title: "About", Section: "about"})
}

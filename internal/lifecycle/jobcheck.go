package lifecycle

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/muster-ci/muster"
)

// check is what a job's check run says: how the job stands, and what rules found in its
// trace. A job has one check run, whoever of its workflow and its trace's writes it last.
func (a *Activities) check(ctx context.Context, j muster.Job) (muster.Check, error) {
	traces, err := a.Store.TracesOfJob(ctx, j.Workspace, j.Key)
	if err != nil {
		return muster.Check{}, fmt.Errorf("read the traces of job %s: %w", j.Key, err)
	}
	var found []muster.Detection
	for _, t := range traces {
		ds, err := a.Store.DetectionsOf(ctx, t.Workspace, t.ID)
		if err != nil {
			return muster.Check{}, fmt.Errorf("read the findings of trace %s: %w", t.ID, err)
		}
		found = append(found, ds...)
	}
	return checkOf(j, traces, worstFirst(found), a.jobPage(j.Key)), nil
}

// jobPage is where the dashboard shows a job, "" for none.
func (d Deps) jobPage(k muster.JobKey) string {
	if k.ID == 0 || d.URL == "" {
		return ""
	}
	return strings.TrimRight(d.URL, "/") + "/jobs/" + k.String()
}

// maxListed is how many findings a check run lists; GitHub takes 65,535 characters.
const maxListed = 50

// checkOf composes a check run. Findings of high severity make it fail, and lesser ones
// neutral, unless the job itself failed already.
func checkOf(j muster.Job, traces []muster.Trace, found []muster.Detection, page string) muster.Check {
	c := muster.Check{
		Name: "muster: " + j.Name, HeadSHA: j.HeadSHA, Status: string(j.State), Conclusion: j.Conclusion, ExternalID: j.Key.String(), DetailsURL: page,
		Title: "Job " + string(j.State), Summary: fmt.Sprintf("Pool %s, runner %s.", j.Pool, cmp.Or(j.RunnerName, "none yet")),
	}
	if j.State == muster.JobWaiting {
		c.Status = "queued"
	}
	for _, t := range traces {
		if t.State == muster.TraceTruncated || t.State == muster.TraceLost {
			c.Summary += fmt.Sprintf("\n\nTrace %s: %s.", t.State, plain(t.Reason))
		}
	}
	if len(found) > 0 {
		c.Title = titleOf(found)
		c.Summary += "\n\n" + listOf(found, page)
		if accept := acceptCommand("", j.Key, found); accept != "" {
			c.Summary += "\nIs what this job never did before expected? Then `" + accept + "` accepts it, and the next runs have no finding for it.\n"
		}
	}
	if j.State != muster.JobCompleted {
		c.Conclusion = ""
		return c
	}
	if c.Conclusion == "success" && len(found) > 0 {
		switch rank(found[0].Severity) {
		case rank(muster.SeverityInfo):
		case rank(muster.SeverityLow), rank(muster.SeverityMedium):
			c.Conclusion = "neutral"
		default:
			c.Conclusion = "failure"
		}
	}
	return c
}

// acceptCommand is the command that accepts what was new in a job, "" if nothing was. It holds
// no text of the job's: it is there to be pasted.
func acceptCommand(trace string, job muster.JobKey, found []muster.Detection) string {
	if !slices.ContainsFunc(found, func(d muster.Detection) bool { return d.Fact != "" }) {
		return ""
	}
	if job.ID != 0 {
		trace = job.String()
	}
	return "muster trace baseline accept " + trace + " --new"
}

func titleOf(found []muster.Detection) string {
	n := fmt.Sprintf("%d findings", len(found))
	if len(found) == 1 {
		n = "1 finding"
	}
	return fmt.Sprintf("%s, the worst %s: %s", n, found[0].Severity, clipTo(plain(found[0].Title), 120))
}

func listOf(found []muster.Detection, page string) string {
	var b strings.Builder
	b.WriteString("| Severity | Rule | What |\n|---|---|---|\n")
	for _, d := range found[:min(len(found), maxListed)] {
		what := plain(clipTo(d.Title, 200))
		if d.Step != "" {
			what += " (step " + plain(clipTo(d.Step, 80)) + ")"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", d.Severity, plain(d.Rule), what)
	}
	if n := len(found) - maxListed; n > 0 {
		fmt.Fprintf(&b, "\n%d more.\n", n)
	}
	if page != "" {
		fmt.Fprintf(&b, "\n[All of it, with processes and remedies](%s)\n", page)
	}
	return b.String()
}

// plain is a text that means nothing in Markdown: jobs choose what stands in findings.
func plain(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r < ' ':
			b.WriteByte(' ')
		case strings.ContainsRune("\\`*_{}[]<>()#+-!|@~&", r):
			fmt.Fprintf(&b, "&#%d;", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func clipTo(s string, n int) string {
	if runes := []rune(s); len(runes) > n {
		return string(runes[:n]) + "…"
	}
	return s
}

// worstFirst sorts findings by severity; those alike stay in their order.
func worstFirst(found []muster.Detection) []muster.Detection {
	out := slices.Clone(found)
	slices.SortStableFunc(out, func(x, y muster.Detection) int { return cmp.Compare(rank(y.Severity), rank(x.Severity)) })
	return out
}

func rank(s muster.Severity) int { return slices.Index(muster.Severities, s) }

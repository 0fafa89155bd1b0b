package view

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Known is what is known of a trace beside its events. The zero value knows nothing.
type Known struct {
	// Findings counts what the rules found, by severity ("info" … "critical"). Those below
	// medium do not change the verdict.
	Findings map[string]int
	// Incomplete is why the trace is not whole ("the agent was killed before it sealed the
	// trace"); "" if it is.
	Incomplete string
}

// Judge makes the verdict of the views, with what is known beside the events. The builder
// has judged without; call it again when the findings and the state are there.
func (v *Views) Judge(k Known) {
	o := &v.Overview
	reasons := []struct {
		word Word
		text string
	}{
		{VerdictRefused, refusedText(o.Counts)},
		{VerdictFindings, findingsText(k.Findings)},
		{VerdictIncomplete, incompleteText(o, k.Incomplete)},
	}
	o.Verdict = Verdict{}
	for _, r := range reasons {
		if r.text == "" {
			continue
		}
		o.Verdict.Word = cmp.Or(o.Verdict.Word, r.word)
		o.Verdict.Why = append(o.Verdict.Why, r.text)
	}
	switch {
	case o.Verdict.Word != "":
		o.Verdict.Text = sentence(strings.Join(o.Verdict.Why, "; "))
	case !v.Ended && k.Incomplete == "":
		o.Verdict.Word, o.Verdict.Text = VerdictRunning, sentence("nothing was found so far in "+number(o.Counts.Events, "event"))
	default:
		o.Verdict.Word, o.Verdict.Text = VerdictClean, sentence(cleanText(k.Findings, number(o.Counts.Events, "event")))
	}
}

func refusedText(c Counts) string {
	if c.Refused == 0 {
		return ""
	}
	what := "connections and lookups"
	if c.Refused == 1 {
		what = "connection or lookup"
	}
	return fmt.Sprintf("the egress policy refused %d %s", c.Refused, what)
}

// severities are all of them, the worst first. Low ones and news alone change no verdict.
var severities = []string{"critical", "high", "medium", "low", "info"}

func findingsText(found map[string]int) string {
	total, worst, list := countFindings(found)
	if worst == "" || slices.Index(severities, worst) >= slices.Index(severities, "low") {
		return ""
	}
	return "the rules found " + number(total, "thing") + " (" + list + ")"
}

func cleanText(found map[string]int, events string) string {
	_, worst, list := countFindings(found)
	if worst == "" {
		return "nothing was found in " + events
	}
	return "nothing worse than " + worst + " was found in " + events + " (" + list + ")"
}

// countFindings says how many there are, how grave the worst is, and lists them: "1 high, 2 low".
func countFindings(found map[string]int) (total int64, worst, list string) {
	var parts []string
	for _, s := range severities {
		if n := found[s]; n > 0 {
			total += int64(n)
			worst = cmp.Or(worst, s)
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	return total, worst, strings.Join(parts, ", ")
}

func incompleteText(o *Overview, why string) string {
	var parts []string
	if why != "" {
		parts = append(parts, why)
	}
	var lost int64
	for _, n := range o.Lost {
		lost += n
	}
	if lost > 0 {
		parts = append(parts, number(lost, "event")+" were lost ("+strings.Join(slices.Sorted(maps.Keys(o.Lost)), ", ")+")")
	}
	if all, ok := o.Missing["all"]; ok {
		parts = append(parts, "nothing was recorded: "+all)
	} else if len(o.Missing) > 0 {
		parts = append(parts, "not recorded: "+strings.Join(slices.Sorted(maps.Keys(o.Missing)), ", "))
	}
	return strings.Join(parts, "; ")
}

// number writes "1 event", "1,234 events".
func number(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return thousands(n) + " " + what + "s"
}

func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] + "." }

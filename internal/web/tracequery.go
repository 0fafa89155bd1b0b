package web

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace/query"
)

// queryTab asks for events in a language.
type queryTab struct {
	Expr  string
	Scope string // "trace" or "workspace"
	Since string
	// Asked is false before anything was asked.
	Asked  bool
	Answer EventAnswer
	Lines  []eventLine
	// Problem is why the question was not understood and Remedy what to write instead;
	// Before, At and After are the expression around the place.
	Problem, Remedy   string
	Before, At, After string
	Command           string
	Examples          []queryExample
	Fields            []query.Field
	Periods           []periodChoice
	Next              string
}

// queryExample is a question worth asking.
type queryExample struct{ Title, Expr, Link string }

// periodChoice is how far back a workspace is asked.
type periodChoice struct {
	Value, Label string
	Current      bool
}

var queryExamples = []queryExample{
	{Title: "Was curl or wget run?", Expr: `type == "process_exec" && path.matches("/(curl|wget)$")`},
	{Title: "Connections that are not HTTPS", Expr: `type == "net_connect" && port != 443 && protocol == "tcp"`},
	{Title: "Names below .xyz", Expr: `type == "dns_query" && hostname.endsWith(".xyz")`},
	{Title: "Reads of credentials", Expr: `type == "file_open" && path.matches("/(\\.netrc|\\.npmrc|\\.aws/credentials|id_[a-z0-9]+)$")`},
	{Title: "Memory of other processes", Expr: `type == "mem_read"`},
	{Title: "What egress refused", Expr: `verdict in ["denied", "would_deny"]`},
	{Title: "Programs that failed", Expr: `type == "process_exit" && (exit_code != 0 || signal != 0)`},
	{Title: "More than 10 MiB written", Expr: `type == "file_write" && bytes > 10485760`},
}

// querySpans are how far back a workspace is asked.
var querySpans = []struct {
	Value, Label string
	Days         int
}{{"1d", "Last day", 1}, {"7d", "Last 7 days", 7}, {"30d", "Last 30 days", 30}, {"90d", "Last 90 days", 90}}

const (
	// maxExpr is the longest expression that is taken, in bytes; queryRows how many events
	// are shown of the answer.
	maxExpr   = 4096
	queryRows = 200
)

func (s *site) traceQuery(r *http.Request, p *tracePage) (any, error) {
	t := queryTab{Expr: strings.TrimSpace(p.params.Get("q")), Scope: "trace", Since: cmp.Or(p.params.Get("since"), "30d")}
	if p.params.Get("scope") == "workspace" {
		t.Scope = "workspace"
	}
	t.Fields = query.Fields()
	for _, e := range queryExamples {
		e.Link = p.traceSearch(e.Expr)
		t.Examples = append(t.Examples, e)
	}
	var since time.Time
	for _, k := range querySpans {
		t.Periods = append(t.Periods, periodChoice{k.Value, k.Label, k.Value == t.Since})
		if k.Value == t.Since {
			since = s.Now().AddDate(0, 0, -k.Days)
		}
	}
	if since.IsZero() {
		return nil, muster.Errorf(muster.CodeInvalid, "a query goes back 1d, 7d, 30d or 90d, not %q", text(p.params, "since"))
	}
	if t.Expr == "" {
		return t, nil
	}
	t.Asked = true
	return t, s.askQuery(r, p, &t, since)
}

// askQuery puts the question, or says in t why it could not be put.
func (s *site) askQuery(r *http.Request, p *tracePage, t *queryTab, since time.Time) error {
	if len(t.Expr) > maxExpr {
		t.Expr = strings.ToValidUTF8(t.Expr[:maxExpr], "")
		t.Problem = "The expression is longer than 4,096 bytes."
		return nil
	}
	after, err := number(p.params, "after")
	if err != nil {
		return err
	}
	q := EventQuery{Expr: t.Expr, Trace: p.ID, Limit: queryRows}
	if after > 0 {
		q.Expr = fmt.Sprintf("(%s) && seq > %d", t.Expr, after)
	}
	t.Command = "muster trace query " + shellWord(t.Expr) + " --job " + p.Argument()
	if t.Scope == "workspace" {
		q.Trace, q.Since = muster.TraceID{}, since
		t.Command = "muster trace query " + shellWord(t.Expr) + " --since " + t.Since
	}
	if _, err := query.Compile(t.Expr); err != nil {
		t.wrong(err)
		return nil
	}
	t.Answer, err = s.Traces.TraceEvents(r.Context(), q)
	switch muster.CodeOf(err) {
	case muster.CodeInvalid, muster.CodeNotFound, muster.CodeGone, muster.CodeUnavailable:
		t.Problem = visible(muster.MessageOf(err), 1000)
		return nil
	}
	if err != nil {
		return err
	}
	if t.Scope == "trace" {
		t.Lines = p.eventLines(t.Answer.Rows)
		if n := len(t.Answer.Rows); n > 0 && t.Answer.More {
			t.Next = p.With("query", "q", t.Expr, "after", t.Answer.Rows[n-1].Event.Seq)
		}
		return nil
	}
	for _, row := range t.Answer.Rows {
		l := lineOf(row.Event)
		sum := summaryOf(row.Trace)
		l.Where = &sum
		l.Link = sum.Base + "/query" + withQuery(sum.Suffix, t.Expr)
		t.Lines = append(t.Lines, l)
	}
	return nil
}

// wrong says what is wrong with the expression, and where.
func (t *queryTab) wrong(err error) {
	var at *query.Error
	if !errors.As(err, &at) {
		t.Problem = visible(err.Error(), 1000)
		return
	}
	t.Problem, t.Remedy = visible(at.Message, 1000), visible(at.Remedy, 1000)
	if strings.Contains(t.Problem, "did you mean") && strings.HasPrefix(t.Remedy, "did you mean") {
		t.Remedy = "" // CEL has said so
	}
	t.Problem, t.Remedy = sentence(t.Problem), sentence(t.Remedy)
	lines := strings.SplitAfter(t.Expr, "\n")
	if at.Line < 1 || at.Line > len(lines) {
		return
	}
	before := strings.Join(lines[:at.Line-1], "")
	rs := []rune(lines[at.Line-1])
	cut := min(max(at.Column, 0), len(rs))
	end := cut
	for end < len(rs) && end < cut+1 || end < len(rs) && wordRune(rs[end]) && wordRune(rs[cut]) {
		end++
	}
	t.Before, t.At, t.After = before+string(rs[:cut]), strings.TrimRight(string(rs[cut:end]), "\n"), string(rs[end:])+strings.Join(lines[at.Line:], "")
	if t.At == "" {
		t.At = "⏎"
	}
}

// sentence begins with a capital letter and ends with a stop.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	r, n := utf8.DecodeRuneInString(s)
	s = string(unicode.ToUpper(r)) + s[n:]
	if strings.ContainsAny(s[len(s)-1:], ".?!)") {
		return s
	}
	return s + "."
}

func wordRune(r rune) bool {
	return r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

// withQuery adds a question to what follows a tab's address.
func withQuery(suffix, expr string) string {
	sep := "?"
	if suffix != "" {
		sep = suffix + "&"
	}
	return sep + "q=" + url.QueryEscape(expr)
}

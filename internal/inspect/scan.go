package inspect

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/detect"
	"github.com/muster-ci/muster/internal/trace/query"
)

// DefaultScanLimit is how many events of one trace a Scan tells without a limit.
const DefaultScanLimit = 10

// Scan yields, per trace that has events with one of the indicators in a text, these events,
// at most limit of each trace, the newest trace first. The error is CodeInvalid if the text is
// no list of indicators.
func (i *Inspector) Scan(ctx context.Context, ws, indicators string, where Where, limit int, yield func(muster.Trace, []Hit) bool) (Stats, error) {
	ioc, err := detect.ParseIOC(strings.NewReader(indicators))
	if err != nil {
		return Stats{}, &muster.Error{Code: muster.CodeInvalid, Message: err.Error(), Err: err}
	}
	if len(ioc.Indicators()) == 0 {
		return Stats{}, muster.Errorf(muster.CodeInvalid, "there is no indicator to look for: give one per line")
	}
	q, err := query.Compile(sieve(ioc.Indicators()))
	if err != nil {
		return Stats{}, fmt.Errorf("look for indicators: %w", err)
	}
	limit = min(cmp.Or(max(limit, 0), DefaultScanLimit), MaxLimit)
	look := func(ctx context.Context, t muster.Trace) (hits []Hit, seen looked, err error) {
		seen, err = i.scan(ctx, ws, t, q, 0, func(e trace.Event) bool {
			if found := ioc.Match(e); len(found) > 0 {
				hits = append(hits, Hit{t, e, named(found[0].Indicator)})
			}
			return len(hits) < limit
		})
		seen.limited = len(hits) == limit
		return hits, seen, err
	}
	return i.search(ctx, ws, where, look, func(t muster.Trace, hits []Hit, s *Stats) bool {
		s.Matched += int64(len(hits))
		return len(hits) == 0 || yield(t, hits)
	})
}

// named is an indicator with its remark.
func named(i detect.Indicator) string {
	if i.Note == "" {
		return i.Value
	}
	return i.Value + " (" + i.Note + ")"
}

// maxTerms is how many names or paths are put into an expression one by one.
const maxTerms = 100

// sieve is an expression that lets all events pass that can have one of the indicators, and
// spares the index the rest: what passes is looked at by the list itself.
func sieve(all []detect.Indicator) string {
	terms := map[string]bool{}
	var order, names, paths []string
	add := func(term string) {
		if !terms[term] {
			terms[term] = true
			order = append(order, term)
		}
	}
	anyPath := false
	for _, i := range all {
		switch i.Kind {
		case "domain": // reached, or named in a command line
			names = append(names, fmt.Sprintf("hostname.endsWith(%q)", i.Value))
			add(`type == "process_exec"`)
		case "ip", "cidr":
			add(`type in ["net_connect", "dns_query"]`)
			add(`address != ""`)
		case "path":
			if strings.ContainsAny(i.Value, "*?[{~") {
				anyPath = true
				continue
			}
			paths = append(paths, fmt.Sprintf("path == %q || new_path == %[1]q", i.Value))
		default:
			add(`type == "process_exec"`)
		}
	}
	if len(names) > maxTerms {
		names = []string{`hostname != ""`}
	}
	if anyPath || len(paths) > maxTerms {
		paths = []string{`path != "" || new_path != ""`}
	}
	return strings.Join(append(append(order, names...), paths...), " || ")
}

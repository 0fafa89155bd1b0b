package detect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
)

// Check runs the tests beside the rules that are on, and returns every failure. A rule without a test
// that fires and one that does not is a failure too.
func (r *Rules) Check() []error {
	var wrong []error
	for _, c := range r.rules {
		if c.Disabled {
			continue
		}
		fires, quiet := false, false
		for _, t := range c.Tests {
			fires, quiet = fires || t.Fires > 0, quiet || t.Fires == 0
			if err := r.test(c, t); err != nil {
				wrong = append(wrong, fmt.Errorf("rule %s, test %q: %w", c.Name, t.Name, err))
			}
		}
		if !fires || !quiet {
			wrong = append(wrong, fmt.Errorf("rule %s: it needs a test that fires and one that does not", c.Name))
		}
	}
	return wrong
}

// epoch is when events of tests begin.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (r *Rules) test(c *compiled, t Test) error {
	var job trace.Job
	if err := convert(t.Job, &job); err != nil {
		return fmt.Errorf("job: %w", err)
	}
	events, err := t.events()
	if err != nil {
		return err
	}
	report, err := r.Examine(job, known(t.Knows), events)
	if err != nil {
		return err
	}
	var of []muster.Detection
	for _, d := range report.Detections {
		if d.Rule == c.Name {
			of = append(of, d)
		}
	}
	if len(of) != t.Fires {
		return fmt.Errorf("%d findings instead of %d: %v", len(of), t.Fires, titles(of))
	}
	if t.Title != "" && of[0].Title != t.Title {
		return fmt.Errorf("the title is %q instead of %q", of[0].Title, t.Title)
	}
	return nil
}

func titles(of []muster.Detection) []string {
	var out []string
	for _, d := range of {
		out = append(out, d.Title)
	}
	return out
}

func known(facts []string) *Baseline {
	if facts == nil {
		return nil
	}
	by := Act{By: "a rule's test", At: epoch}
	b := &Baseline{Accepted: &by}
	for _, f := range facts {
		kind, what, _ := strings.Cut(f, ":")
		b.Accept(Fact{kind, what}, by)
	}
	return b
}

// convert reads a map as the JSON that it would be, and refuses unknown names.
func convert(from map[string]any, into any) error {
	b, err := json.Marshal(from)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// events fills in what a test leaves out.
func (t Test) events() (iter.Seq2[trace.Event, error], error) {
	if len(t.Events) == 0 {
		return nil, errors.New("it has no events")
	}
	var list []trace.Event
	for i, given := range t.Events {
		var e trace.Event
		if err := convert(given, &e); err != nil {
			return nil, fmt.Errorf("event %d: %w", i+1, err)
		}
		if !knownType(e.Type) {
			return nil, fmt.Errorf("event %d: there are no events of type %q", i+1, e.Type)
		}
		if e.Timestamp.IsZero() {
			e.Timestamp = epoch.Add(time.Duration(i) * time.Second)
		}
		if e.Seq == 0 {
			e.Seq = uint64(i + 1) //nolint:gosec // an index
		}
		list = append(list, e)
	}
	return func(yield func(trace.Event, error) bool) {
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}, nil
}

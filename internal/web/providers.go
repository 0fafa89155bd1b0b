package web

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// providerRow is a provider as the page shows it.
type providerRow struct {
	muster.ProviderStatus
	Breakers []breakerRow
	Test     *testView
}

type breakerRow struct {
	muster.ProviderBreaker
	Where string
	Until moment
}

// testView is the last test of a provider.
type testView struct {
	muster.ProviderCheck
	Steps        []muster.CheckStep
	Done, Passed bool
}

// Tone is the semantic colour of the state.
func (p providerRow) Tone() string {
	return map[string]string{muster.ProviderOK: "ok", muster.ProviderRefusing: "wait", muster.ProviderUnreachable: "bad"}[p.State]
}

// Machines is "2 running, 1 ended".
func (p providerRow) Machines() string {
	var parts []string
	for _, state := range []string{"starting", "running", "ended"} {
		if n := p.Instances[state]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// Sizes are the offerings that pools of it ask for.
func (p providerRow) Sizes() (out []string) {
	for _, o := range p.Offerings {
		text := o.Name + ": " + o.Size()
		if o.GPUs > 0 {
			text += fmt.Sprintf(", %d GPU", o.GPUs)
		}
		if o.Spot {
			text += ", spot"
		}
		if o.PriceMicroUSD > 0 {
			text += fmt.Sprintf(", $%g/min", float64(o.PriceMicroUSD)/1e6)
		}
		out = append(out, text)
	}
	return out
}

// Answered is how long the platform took for its list.
func (p providerRow) Answered() string { return p.AnsweredIn.Round(time.Millisecond).String() }

// Word says how the test stands.
func (t testView) Word() string {
	switch {
	case !t.Done:
		return "under way"
	case t.Passed:
		return "passed"
	}
	return "failed"
}

// Tone is the semantic colour of the test.
func (t testView) Tone() string {
	return map[string]string{"under way": "info", "passed": "ok", "failed": "bad"}[t.Word()]
}

func (s *site) providers(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Reads.Providers(r.Context())
	if err != nil {
		return err
	}
	rows := make([]providerRow, 0, len(all))
	for _, p := range all {
		row := providerRow{ProviderStatus: p}
		for _, b := range p.Breakers {
			where := "pool " + b.Pool
			if b.Pool == "" {
				where = "zone " + b.Zone + ", " + b.Offering
			}
			row.Breakers = append(row.Breakers, breakerRow{b, where, moment{At: b.Until(), Text: formatStamp(b.Until())}})
		}
		if p.Check != nil {
			steps, done := p.Check.Steps(p.Tester)
			row.Test = &testView{*p.Check, steps, done, done && muster.Passed(steps)}
		}
		rows = append(rows, row)
	}
	return s.show(w, r, "providers", page{Title: "Providers", Section: "providers", Body: rows})
}

// checkProvider begins a test of a provider.
func (s *site) checkProvider(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	all, err := s.Reads.Providers(r.Context())
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(p muster.ProviderStatus) bool { return p.Name == name }) {
		return muster.Errorf(muster.CodeNotFound, "there is no provider %q", name)
	}
	if err := s.Commands.CheckProvider(r.Context(), name); err != nil {
		return err
	}
	http.Redirect(w, r, "/providers?done=check#"+url.PathEscape("provider-"+name), http.StatusSeeOther)
	return nil
}

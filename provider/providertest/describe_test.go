package providertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/muster-ci/muster/provider"
)

func described() provider.Kind {
	type section struct {
		Max int `json:"max"`
	}
	return provider.Kind{
		Description: provider.Description{
			Kind: "paper", Summary: "Runners on paper.", Isolation: "That of paper.", Needs: []string{"Paper."},
			Settings: provider.Settings(section{Max: 3}, map[string]string{"max": "how many sheets"}),
			Example: `providers: [{name: desk, kind: paper, config: {max: 2}}]
offerings: [{name: a4}]
pools: [{name: letters, provider: desk, offering: a4}]
`,
			Guide: "## Set-up\n\nx\n\n## Trust\n\nx\n\n## Limits\n\nx\n\n## Clean-up\n\nx\n\n## When it fails\n\n| what | then |\n|---|---|\n| wet | dry |\n",
		},
		Read: func(raw json.RawMessage, _ provider.Env) (func() (provider.Provider, error), error) {
			s := section{Max: 3}
			return func() (provider.Provider, error) { return nil, errors.New("paper") }, provider.DecodeConfig(raw, &s)
		},
	}
}

func TestDescribe(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*provider.Kind)
		want   string // "" for no complaint
	}{
		"as it should be": {func(*provider.Kind) {}, ""},
		"two words":       {func(k *provider.Kind) { k.Kind = "Two words" }, "not one word"},
		"no sentence":     {func(k *provider.Kind) { k.Summary = "runners on paper" }, "summary is not a sentence"},
		"no needs":        {func(k *provider.Kind) { k.Needs = nil }, "what it needs"},
		"no help":         {func(k *provider.Kind) { k.Settings = append(k.Settings, provider.Setting{Key: "x", Type: "text"}) }, "x has no help"},
		"not strict": {func(k *provider.Kind) {
			k.Read = func(json.RawMessage, provider.Env) (func() (provider.Provider, error), error) { return nil, nil }
		}, "is taken"},
		"no YAML":            {func(k *provider.Kind) { k.Example = "providers: [" }, "no YAML"},
		"another kind":       {func(k *provider.Kind) { k.Example = strings.ReplaceAll(k.Example, "paper", "stone") }, "no provider of kind paper"},
		"unknown key":        {func(k *provider.Kind) { k.Example = strings.ReplaceAll(k.Example, "max: 2", "min: 2") }, "sets min"},
		"other offering":     {func(k *provider.Kind) { k.Example = strings.ReplaceAll(k.Example, "offering: a4", "offering: a5") }, `offering "a5"`},
		"other provider":     {func(k *provider.Kind) { k.Example = strings.ReplaceAll(k.Example, "provider: desk", "provider: bed") }, `provider "bed"`},
		"no pool":            {func(k *provider.Kind) { k.Example = strings.ReplaceAll(k.Example, "pools", "fools") }, "0 pools"},
		"heading lacks":      {func(k *provider.Kind) { k.Guide = strings.ReplaceAll(k.Guide, "## Limits", "## Borders") }, "## Limits"},
		"nothing below":      {func(k *provider.Kind) { k.Guide = strings.ReplaceAll(k.Guide, "## Trust\n\nx\n", "## Trust\n") }, `nothing stands below "## Trust"`},
		"no table":           {func(k *provider.Kind) { k.Guide = strings.ReplaceAll(k.Guide, "|---|---|\n", "") }, "no table"},
		"a title of its own": {func(k *provider.Kind) { k.Guide = "# Paper\n\n" + k.Guide }, "first level"},
	} {
		t.Run(name, func(t *testing.T) {
			k := described()
			c.change(&k)
			r := &recorder{ctx: t.Context()}
			Describe(r, k)
			all := strings.Join(r.failures, "\n")
			if c.want == "" && all != "" || !strings.Contains(all, c.want) {
				t.Errorf("complaints %q, want %q", all, c.want)
			}
		})
	}
}

// lines is what Figure needs of a test.
type lines []string

func (*lines) Helper()                        {}
func (l *lines) Logf(format string, a ...any) { *l = append(*l, fmt.Sprintf(format, a...)) }

func TestFigureIsOneLine(t *testing.T) {
	var got lines
	Figure(&got, "paper", FigureConnect, "41 ms\n(n=20)")
	Survived(&got, "paper", "fire on %d sheets", 2)
	want := lines{`muster-provider-figure kind=paper what=create-to-connect-p50 value="41 ms (n=20)"`, `muster-provider-figure kind=paper what=fault-survived value="fire on 2 sheets"`}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

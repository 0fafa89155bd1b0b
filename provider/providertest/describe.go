package providertest

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml"

	"github.com/muster-ci/muster/provider"
)

// Headings are what the guide of every kind has, on the second level and in this
// order. A guide may have more.
var Headings = []string{"Set-up", "Trust", "Limits", "Clean-up", "When it fails"}

// example is the part of a configuration that a description shows.
type example struct {
	Providers []struct {
		Name   string         `yaml:"name"`
		Kind   string         `yaml:"kind"`
		Config map[string]any `yaml:"config"`
	} `yaml:"providers"`
	Offerings []struct {
		Name string `yaml:"name"`
	} `yaml:"offerings"`
	Pools []struct {
		Name     string `yaml:"name"`
		Provider string `yaml:"provider"`
		Offering string `yaml:"offering"`
	} `yaml:"pools"`
}

// Describe checks that a kind says of itself what an operator has to know, and that
// it is true as far as it can be told without the platform. That the example as a
// whole passes `muster config check` is tested where all kinds are known.
func Describe(t T, k provider.Kind) {
	t.Helper()
	if !regexp.MustCompile(`\A[a-z][a-z0-9]*\z`).MatchString(k.Kind) {
		t.Errorf("kind %q is not one word of small letters", k.Kind)
	}
	sentence(t, "summary", k.Summary)
	sentence(t, "isolation", k.Isolation)
	if len(k.Needs) == 0 {
		t.Errorf("it says nothing of what it needs")
	}
	for _, need := range k.Needs {
		sentence(t, "need", need)
	}
	if k.ConnectTimeout < 0 {
		t.Errorf("connect timeout %s", k.ConnectTimeout)
	}
	settings(t, k)
	decodes(t, k)
	guide(t, k.Guide)
}

func sentence(t T, what, text string) {
	t.Helper()
	first, _ := firstRune(text)
	if text == "" || !strings.HasSuffix(text, ".") || !unicode.IsUpper(first) && first != '`' && !unicode.IsDigit(first) {
		t.Errorf("the %s is not a sentence: %q", what, text)
	}
}

func firstRune(text string) (rune, bool) {
	for _, r := range text {
		return r, true
	}
	return 0, false
}

func settings(t T, k provider.Kind) {
	t.Helper()
	seen := map[string]bool{}
	for _, s := range k.Settings {
		if s.Key == "" || seen[s.Key] {
			t.Errorf("setting %q is there twice or has no name", s.Key)
		}
		seen[s.Key] = true
		if strings.TrimSpace(s.Help) == "" || s.Type == "" {
			t.Errorf("setting %s has no help or no type", s.Key)
		}
	}
	if k.Read == nil {
		t.Errorf("there is no Read")
		return
	}
	env := provider.Env{Name: "described", Owner: "muster", DataDir: "/nonexistent/data", Dir: "/nonexistent", Logger: slog.New(slog.DiscardHandler)}
	if _, err := k.Read(json.RawMessage(`{"no-such-key": 1}`), env); err == nil || !strings.Contains(err.Error(), "no-such-key") {
		t.Errorf("a key that is no setting is taken: %v", err)
	}
	if _, err := k.Read(json.RawMessage(`[]`), env); err == nil {
		t.Errorf("a section that is a list is taken")
	}
}

// decodes checks that the example is YAML with one entry of each list, that they
// refer to each other, and that its section has no key that is no setting.
func decodes(t T, k provider.Kind) {
	t.Helper()
	var e example
	if err := yaml.Unmarshal([]byte(k.Example), &e); err != nil {
		t.Errorf("the example is no YAML: %v", err)
		return
	}
	var providers, offerings []string
	of := false
	for _, p := range e.Providers {
		providers = append(providers, p.Name)
		if p.Kind != k.Kind {
			continue
		}
		of = true
		for key := range p.Config {
			if !slices.ContainsFunc(k.Settings, func(s provider.Setting) bool { return s.Key == key }) {
				t.Errorf("the example sets %s, which is no setting", key)
			}
		}
	}
	if !of {
		t.Errorf("the example has no provider of kind %s", k.Kind)
	}
	for _, o := range e.Offerings {
		offerings = append(offerings, o.Name)
	}
	if len(offerings) == 0 || len(e.Pools) == 0 {
		t.Errorf("the example has %d offerings and %d pools; one of each shows how they belong together", len(offerings), len(e.Pools))
	}
	for _, p := range e.Pools {
		if !slices.Contains(providers, p.Provider) {
			t.Errorf("pool %s of the example is of provider %q, which it does not have", p.Name, p.Provider)
		}
		if p.Offering != "" && !slices.Contains(offerings, p.Offering) {
			t.Errorf("pool %s of the example has offering %q, which it does not have", p.Name, p.Offering)
		}
	}
}

func guide(t T, text string) {
	t.Helper()
	rest := "\n" + text
	for _, h := range Headings {
		_, after, ok := strings.Cut(rest, "\n## "+h+"\n")
		if !ok {
			t.Errorf("the guide has no heading %q at its place; the order is %s", "## "+h, strings.Join(Headings, ", "))
			return
		}
		body, _, _ := strings.Cut(after, "\n## ")
		if strings.TrimSpace(body) == "" {
			t.Errorf("nothing stands below %q", "## "+h)
		}
		rest = "\n" + after
	}
	if !strings.Contains(rest, "\n|---") {
		t.Errorf("%q has no table: a row for what goes wrong, a column for what happens then", Headings[len(Headings)-1])
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "# ") {
			t.Errorf("the guide has a heading of the first level: %s", fmt.Sprintf("%q", strings.TrimSpace(line)))
		}
	}
}

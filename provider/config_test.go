package provider_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster/provider"
)

type config struct {
	Root  string            `json:"root"`
	Max   int               `json:"max"`
	Env   []string          `json:"env"`
	Grace provider.Duration `json:"grace"`
	Owner string            `json:"-"`
}

func TestDecodeConfig(t *testing.T) {
	c := config{Max: 20, Grace: provider.Duration(5 * time.Second)}
	if err := provider.DecodeConfig(json.RawMessage(`{"root":"/r","grace":"90s","env":["A"]}`), &c); err != nil {
		t.Fatal(err)
	}
	if c.Root != "/r" || c.Max != 20 || time.Duration(c.Grace) != 90*time.Second || len(c.Env) != 1 {
		t.Errorf("got %+v", c)
	}
	for _, empty := range []string{"", " ", "null", "{}"} {
		if err := provider.DecodeConfig(json.RawMessage(empty), &c); err != nil || c.Max != 20 {
			t.Errorf("%q: %v, %+v", empty, err, c)
		}
	}
	if err := provider.DecodeConfig(json.RawMessage(`[1]`), &c); err == nil {
		t.Error("a list was accepted")
	}
}

// A list replaces the default one whole.
func TestDecodeConfigMixesNoLists(t *testing.T) {
	type rule struct {
		CIDR   string   `json:"cidr"`
		Except []string `json:"except"`
	}
	c := struct {
		Egress []rule `json:"egress"`
	}{Egress: []rule{{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8"}}}}
	if err := provider.DecodeConfig(json.RawMessage(`{"egress":[{"cidr":"192.0.2.0/24"}]}`), &c); err != nil {
		t.Fatal(err)
	}
	if len(c.Egress) != 1 || c.Egress[0].CIDR != "192.0.2.0/24" || c.Egress[0].Except != nil {
		t.Errorf("got %+v", c.Egress)
	}
}

func TestDecodeConfigReportsEverythingAtOnce(t *testing.T) {
	var c config
	err := provider.DecodeConfig(json.RawMessage(`{"max":"many","rooot":1,"grace":5,"env":"PATH","Owner":"x","root":null}`), &c)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"max: is a string and must be a whole number", "rooot: unknown key; known are root, max, env, grace",
		`grace: must be a text with a unit`, "env: is a string and must be a list", "Owner: unknown key",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %q in:\n%v", want, err)
		}
	}
}

package garm

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
)

func TestKind(t *testing.T) { providertest.Describe(t, Kind()) }

// 4-14 4-32 4-51 4-52: the conformance suite against an executable that is built on
// GARM's own library of the interface, in both of its versions, on clouds that say
// clearly, vaguely and late what they have.
func TestConformance(t *testing.T) {
	for name, c := range map[string]struct {
		version string
		own     settings
	}{
		"v0.1.0":              {Version010, nil},
		"v0.1.1":              {Version011, nil},
		"v0.1.1 vague cloud":  {Version011, settings{"vague": true}},
		"v0.1.0 late deletes": {Version010, settings{"lingers": 2}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLocal(t)
			cfg := func(t providertest.T, owner string) Config {
				cfg := l.config(t, owner, c.own)
				cfg.InterfaceVersion = c.version
				return cfg
			}
			cannot := map[string]string{
				"MaxAge": "the interface between GARM and its providers knows no age of a machine, neither as a parameter nor as a fact; the control plane ends what is too old",
			}
			if c.own["vague"] == true {
				cannot["MachineUnknown"] = "an executable that ends with 1 for a machine that does not exist leaves no way to tell this from a failure, and operators' machines are in no pool that could be listed"
			}
			machines := 0
			providertest.Run(t, providertest.Harness{
				Patience: 30 * time.Second,
				Open:     func(t providertest.T, owner string) provider.Provider { return open(t, cfg(t, owner)) },
				OpenWith: func(t providertest.T, owner string, max int) provider.Provider {
					cfg := cfg(t, owner)
					cfg.Max = max
					return open(t, cfg)
				},
				Machine: func(t providertest.T, _ string) provider.Machine {
					machines++
					m := provider.Machine{Name: fmt.Sprintf("box-%d", machines)}
					l.put(t, m.Name)
					return m
				},
				End: func(t providertest.T, owner string, id muster.RunnerID) {
					for _, m := range l.of(t, open(t, cfg(t, owner)), id) {
						m.kill()
					}
				},
				Remains: func(t providertest.T, owner string, id muster.RunnerID) (left []string) {
					p := open(t, cfg(t, owner))
					for _, m := range l.of(t, p, id) {
						left = append(left, m.dir)
					}
					files, err := filepath.Glob(filepath.Join(p.dir, p.prefix+string(id)+"*"))
					if err != nil {
						t.Fatalf("%v", err)
					}
					return append(left, files...)
				},
				Exposed: func(t providertest.T, owner string, id muster.RunnerID) map[string]string {
					places := map[string]string{}
					for _, m := range l.of(t, open(t, cfg(t, owner)), id) {
						for _, what := range []string{"cmdline", "environ"} {
							text, err := os.ReadFile("/proc/" + strconv.Itoa(m.PID) + "/" + what)
							if err != nil {
								t.Fatalf("%v", err)
							}
							places["the machine's "+what] = string(text)
						}
					}
					for _, e := range l.journal(t) {
						places["the executable's environment"] += strings.Join(e.Env, "\n")
					}
					readable(l.dir, places)
					records, _ := filepath.Glob(filepath.Join(l.dir, "records", "*", "*"))
					for _, name := range records {
						if text, err := os.ReadFile(name); err == nil {
							places[name] = string(text)
						}
					}
					return places
				},
				Cannot: cannot,
			})
		})
	}
}

package fleet_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/fleet"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/fake"
)

// The four modules fit their interfaces without knowing of each other (S1-2).
var (
	_ fleet.Autoscaler   = muster.Plan
	_ fleet.Provisioner  = (*github)(nil)
	_ fleet.QueueMonitor = (*github)(nil)
	_ provider.Provider  = (*fake.Provider)(nil)
)

// S1-2 S1-87: each module, and what joins them, has a package and unit tests of its own. How much of this
// package they cover is printed by go test -cover.
func TestEveryModuleHasTests(t *testing.T) {
	for module, dir := range map[string]string{
		"autoscaler": "../..", "provisioner and queue monitor": "../github", "machines": "../../provider/process", "lifecycle": ".", "fleets file": "../config", "commands": "../cli",
	} {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		tests := 0
		for _, f := range files {
			if !strings.HasSuffix(f.Name(), "_test.go") {
				continue
			}
			text, err := os.ReadFile(filepath.Join(dir, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			tests += strings.Count(string(text), "\nfunc Test")
		}
		if tests == 0 {
			t.Errorf("%s: %s has no tests", module, dir)
		}
	}
}

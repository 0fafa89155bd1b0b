package muster_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/muster-ci/muster"

// boundaries says which packages of this module a package may import: the map
// of docs/architecture.md as a table. The first row that matches decides. Paths
// are below the module; "." is the domain, "x/..." is x and all below it, "*" is
// every package. A package without a row fails the test: whoever adds one says
// here where it belongs. What only tests import is not looked at.
var boundaries = []struct{ packages, mayImport string }{
	// The domain and the contracts.
	{".", ""},
	{"provider", "."},
	{"internal/wire", "internal/trace"},
	{"internal/proc", ""},
	{"internal/guest", ""},
	{"internal/recorder", ""},
	{"gen/...", "gen/..."},
	// GitHub in a box never sees our client, nor our client it.
	{"githubsim/...", "githubsim/..."},
	// Adapters: never each other, never a use case.
	{"provider/providertest", ". provider"},
	{"internal/instancedir", ". provider internal/proc"},
	{"provider/qemu", ". provider internal/proc internal/instancedir internal/guest"},
	// Its gateway speaks the words of wire.
	{"provider/slurm", ". provider internal/proc internal/wire"},
	{"provider/...", ". provider internal/proc internal/instancedir internal/recorder"},
	{"internal/store/storetest", ". internal/store internal/secretbox"},
	{"internal/store", ". internal/secretbox"},
	{"internal/secretbox", "."},
	{"internal/github", "."},
	{"internal/engine", ". provider"},
	{"internal/metrics", ". provider"},
	// Pure rules.
	{"internal/usage", "."},
	{"internal/schedule", "."},
	{"internal/dryrun", ". internal/usage internal/schedule"},
	{"internal/authz", "."},
	{"internal/migrate", ""},
	// Traces: the record itself is carried by the agent too; the rest looks at it.
	{"internal/trace", ""},
	{"internal/trace/view", "internal/trace"},
	{"internal/trace/query", "internal/trace"},
	{"internal/trace/detect", ". internal/trace internal/trace/query internal/trace/view"},
	{"internal/trace/detect/replays", ""},
	{"internal/trace/attest", "internal/trace"},
	{"internal/archive", ". internal/trace"},
	{"internal/inspect", ". internal/trace/..."},
	// Use cases: never each other.
	{"internal/ingress", ". provider internal/usage internal/authz internal/trace gen/..."},
	{"internal/fleet", ". provider internal/wire"},
	{"internal/lifecycle", ". provider internal/usage internal/schedule internal/authz internal/trace internal/wire gen/..."},
	{"internal/api", ". provider internal/usage internal/schedule internal/dryrun internal/authz internal/trace/... internal/wire gen/..."},
	{"internal/web", ". provider internal/usage internal/authz internal/trace/... gen/..."},
	{"internal/gateway", ". provider internal/wire"},
	{"internal/compat", ". provider internal/wire internal/usage internal/authz internal/trace gen/..."},
	{"internal/garm", ". internal/wire"},
	// The agent is small: nothing of the server reaches it.
	{"internal/agent/bpf", "internal/trace internal/proc"},
	{"internal/agent", ". internal/wire internal/proc internal/guest internal/trace internal/agent/bpf gen/..."},
	{"cmd/muster-agent", "internal/agent"},
	// Configuration is read by the command line and handed to the server.
	{"internal/config", ". provider internal/usage internal/schedule"},
	{"internal/server", ". provider/... gen/... internal/agent internal/api internal/authz internal/compat internal/config internal/engine internal/gateway internal/fleet internal/garm internal/github internal/ingress internal/lifecycle internal/metrics internal/schedule internal/secretbox internal/store internal/archive internal/inspect internal/trace/... internal/usage internal/web internal/wire"},
	{"internal/demo", ". githubsim/... internal/cli internal/config internal/proc internal/server internal/store gen/..."},
	{"internal/cli", ". gen/... githubsim/... provider internal/config internal/migrate internal/server internal/trace/... internal/usage"},
	{"cmd/muster", "internal/cli internal/demo internal/server"},
	// Tools stand alone; stories and benchmarks see everything.
	{"internal/tools/clidocs", "internal/cli"},
	{"internal/tools/providerdocs", "internal/cli internal/server"},
	{"internal/tools/...", ""},
	{"examples", ""},
	{"e2e/...", "*"},
	{"bench/...", "*"},
}

// match reports whether a package's path fits a space-separated list of patterns.
func match(patterns, pkg string) bool {
	for p := range strings.FieldsSeq(patterns) {
		below, tree := strings.CutSuffix(p, "/...")
		if p == "*" || p == pkg || tree && (pkg == below || strings.HasPrefix(pkg, below+"/")) {
			return true
		}
	}
	return false
}

// source is what the tests below need to know of one package.
type source struct {
	imports   map[string]string // path below the module → the file that imports it
	libraries map[string]string // the same for what is neither ours nor Go's
	doc       string
}

// sources reads every package of the module but its tests. It reads by
// os.ReadFile and directories by os.ReadDir, so that the go command knows what
// the result depends on and does not answer from its cache.
func sources(t *testing.T) map[string]*source {
	t.Helper()
	all := map[string]*source{}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() {
			if name != "." && (base == "testdata" || base == "node_modules" || base[0] == '.' || base[0] == '_') {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil && name != "." {
				return filepath.SkipDir // a module of its own
			}
			return nil
		}
		if !strings.HasSuffix(base, ".go") || strings.HasSuffix(base, "_test.go") || base[0] == '.' || base[0] == '_' {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		pkg := path.Dir(filepath.ToSlash(name))
		if all[pkg] == nil {
			all[pkg] = &source{imports: map[string]string{}, libraries: map[string]string{}}
		}
		if file.Doc != nil {
			all[pkg].doc += file.Doc.Text()
		}
		for _, imp := range file.Imports {
			p, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			host, _, _ := strings.Cut(p, "/")
			if own, ok := strings.CutPrefix(p+"/", module+"/"); ok {
				all[pkg].imports[path.Clean(own)] = name
			} else if strings.Contains(host, ".") {
				all[pkg].libraries[p] = name
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// S0-13: who may import whom.
func TestBoundaries(t *testing.T) {
	all := sources(t)
	for _, pkg := range sorted(all) {
		row := slices.IndexFunc(boundaries, func(b struct{ packages, mayImport string }) bool { return match(b.packages, pkg) })
		if row < 0 {
			t.Errorf("package %s has no row in boundaries: say there what it may import", pkg)
			continue
		}
		for _, imp := range sorted(all[pkg].imports) {
			if !match(boundaries[row].mayImport, imp) {
				t.Errorf("%s imports %s; %s may import [%s] only", all[pkg].imports[imp], imp, pkg, boundaries[row].mayImport)
			}
		}
	}
}

// What decides and what is shared by both sides of a wire needs nothing but Go's
// own library, and so do tools, and the fleet's loop, whose only way out is the
// one GitHub client (S1-114).
func TestStandardLibraryOnly(t *testing.T) {
	const pure = ". provider internal/wire internal/proc internal/instancedir internal/guest internal/usage internal/fleet internal/tools/..."
	all := sources(t)
	for _, pkg := range sorted(all) {
		if !match(pure, pkg) {
			continue
		}
		for _, lib := range sorted(all[pkg].libraries) {
			t.Errorf("%s imports %s; package %s uses the standard library only", all[pkg].libraries[lib], lib, pkg)
		}
	}
}

// S0-13: nothing of the control plane reaches the agent, by no detour.
func TestAgentHoldsNoServer(t *testing.T) {
	all := sources(t)
	const forbidden = "internal/server/... internal/store/... internal/engine/... internal/lifecycle/... internal/github/... internal/secretbox/..."
	came := map[string]string{"cmd/muster-agent": ""}
	for queue := []string{"cmd/muster-agent"}; len(queue) > 0; queue = queue[1:] {
		src := all[queue[0]]
		if src == nil {
			continue
		}
		for _, imp := range sorted(src.imports) {
			if _, seen := came[imp]; seen {
				continue
			}
			came[imp] = queue[0]
			queue = append(queue, imp)
			if match(forbidden, imp) {
				way := imp
				for p := queue[0]; p != ""; p = came[p] {
					way = p + " → " + way
				}
				t.Errorf("the agent holds a part of the control plane: %s", way)
			}
		}
	}
}

// Every package says what it owns. Generated ones cannot.
func TestPackagesAreDocumented(t *testing.T) {
	all := sources(t)
	for _, pkg := range sorted(all) {
		if strings.TrimSpace(all[pkg].doc) == "" && !match("gen/...", pkg) {
			t.Errorf("package %s has no doc comment: write a doc.go that says what it owns, what it never does, and who calls it", pkg)
		}
	}
}

func TestBoundaryPatterns(t *testing.T) {
	for _, c := range []struct {
		patterns, pkg string
		want          bool
	}{
		{".", ".", true}, {".", "provider", false}, {"", ".", false},
		{"a b", "b", true}, {"a/...", "a", true}, {"a/...", "a/b/c", true}, {"a/...", "ab", false}, {"a", "a/b", false}, {"*", "x/y", true},
	} {
		if got := match(c.patterns, c.pkg); got != c.want {
			t.Errorf("%q matches %q: %t", c.patterns, c.pkg, got)
		}
	}
}

package agent

import (
	"go/parser"
	"go/token"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A rehearsal ends by itself, well before its own deadline, and leaves nothing that
// runs: a template is made of what is there after it.
func TestRehearsalEnds(t *testing.T) {
	before, began := runtime.NumGoroutine(), time.Now()
	rehearse("test", slog.New(slog.DiscardHandler))
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("took %s: its call was not answered", took)
	}
	for deadline := time.After(30 * time.Second); runtime.NumGoroutine() > before; {
		select {
		case <-deadline:
			buf := make([]byte, 64<<10)
			t.Fatalf("goroutines are left:\n%s", buf[:runtime.Stack(buf, true)])
		case <-time.After(time.Millisecond):
		}
	}
}

// What backoffs leave out is drawn below its bound, and not twice the same.
func TestBelow(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 100 {
		d := below(time.Second)
		if d < 0 || d >= time.Second || seen[d] {
			t.Fatalf("%s after %d others", d, len(seen))
		}
		seen[d] = true
	}
}

// Copies of a virtual machine have the runtime's random numbers in common, so that
// nothing of the agent may take any from it.
func TestNoSharedRandomness(t *testing.T) {
	for _, dir := range []string{".", "../guest", "../wire", "../proc"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", dir, len(files), err)
		}
		for _, name := range files {
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range f.Imports {
				if strings.HasPrefix(i.Path.Value, `"math/rand`) && !strings.HasSuffix(name, "_test.go") {
					t.Errorf("%s imports %s: use crypto/rand", name, i.Path.Value)
				}
			}
		}
	}
}

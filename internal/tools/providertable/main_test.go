package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func lines(t *testing.T, events ...event) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("# a message of the build\n")
	for _, e := range events {
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
		b.WriteByte('\n')
	}
	return b.String()
}

func TestTable(t *testing.T) {
	const pkg = "example.com/m/provider/paper"
	in := lines(t,
		event{"pass", pkg, "TestConformance/CreateTwiceIsOneInstance", ""},
		event{"pass", pkg, "TestConformance/gvisor/CreateTwiceIsOneInstance", ""},
		event{"fail", pkg, "TestConformance/NoSecrets", ""},
		event{"output", pkg, "TestConformance/MaxAge", "not applicable to this platform: it knows no age\n"},
		event{"pass", pkg, "TestConformance/MaxAge", ""},
		event{"pass", pkg, "TestSomethingElse/Capacities", ""},
		// A line that comes in two pieces, of a test that passes.
		event{"output", pkg, "TestFigures", `    x_test.go:1: muster-provider-figure kind=paper what=create-to-connect-p50 val`},
		event{"output", pkg, "TestFigures", "ue=\"41 ms (n=20)\"\n"},
		event{"output", pkg, "TestFigures", "    x_test.go:2: muster-provider-figure kind=paper what=fault-survived value=\"the \\\"pen\\\" broke\"\n"},
		event{"output", pkg, "TestFigures", "    x_test.go:2: muster-provider-figure kind=paper what=fault-survived value=\"the \\\"pen\\\" broke\"\n"},
		event{"pass", pkg, "TestFigures", ""},
		// And one of a test that does not.
		event{"output", pkg, "TestLiar", "muster-provider-figure kind=paper what=memory-per-idle-runner value=\"0 MiB\"\n"},
		event{"fail", pkg, "TestLiar", ""},
		event{"output", "example.com/m/e2e", "TestProvidersChaos/paper", "muster-provider-figure kind=paper what=chaos value=\"100 runners, 5 kills: 0 leaked\"\n"},
		event{"pass", "example.com/m/e2e", "TestProvidersChaos/paper", ""},
		event{"pass", "example.com/m/provider/fake", "TestConformance/NoSecrets", ""},
	)
	file := filepath.Join(t.TempDir(), "README.md")
	if err := os.WriteFile(file, []byte("# Before\n"+begin+"\nold\n"+end+"\n# After\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	if err := run(strings.NewReader(in), file, "2 cores", at); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# Before\n", "# After\n", "Measured on 2026-11-21, 2 cores.",
		"| [paper](paper.md) | 1 of 2, 1 not applicable – FAILED: NoSecrets | 41 ms (n=20) | – | 1 | 100 runners, 5 kills: 0 leaked |",
		`- **paper** survives: the "pen" broke.`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "old") || strings.Contains(string(text), "fake") {
		t.Errorf("%s", text)
	}
	if err := run(strings.NewReader("nothing"), file, "", at); err == nil {
		t.Error("nothing makes a table")
	}
	if err := os.WriteFile(file, []byte("no marks"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(strings.NewReader(in), file, "", at); err == nil {
		t.Error("a file without marks is written to")
	}
}

package view

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"testing"

	"github.com/muster-ci/muster/internal/trace"
)

var update = flag.Bool("update", false, "write the golden files anew")

// testdata/recorded.jsonl is what the recorder wrote of a small script on Linux 6.1 or later:
// three steps, an exec chain (env, sh, tar), a subshell, a key that is read, a connection
// that nobody answers, and a process that outlives the job.
func recorded(t *testing.T) *Views {
	t.Helper()
	text, err := os.ReadFile("testdata/recorded.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	b := NewBuilder(trace.Job{Name: "build", Repository: "octo/app", Key: "build", Workflow: "CI", Workspace: "/home/runner/_work/app/app"})
	for e, err := range trace.Events(bytes.NewReader(text)) {
		if err != nil {
			t.Fatal(err)
		}
		b.Add(e)
	}
	return b.Views()
}

func TestRecorded(t *testing.T) {
	v := recorded(t)
	sane(t, v)
	got, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/recorded.views.json"
	if *update {
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(append(got, '\n'), want) {
		t.Errorf("the views are not those of %s; look at the difference, and if it is meant run go test -update", golden)
	}
}

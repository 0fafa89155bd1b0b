package muster_test

import (
	"os"
	"strings"
	"testing"
)

// S0-26: one diagram shows the four actors and the way of a job from the push to the
// end of its machine, in this order.
func TestTheDiagramIsInOrder(t *testing.T) {
	text, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "```mermaid\nsequenceDiagram\n")
	diagram, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("docs/architecture.md has no sequence diagram")
	}
	if strings.Contains(rest[len(diagram):], "sequenceDiagram") {
		t.Error("there is a second sequence diagram")
	}
	for _, step := range []string{
		"actor Developer", "participant GitHub", "participant Control Plane", "participant Data Plane",
		"Developer->>GitHub: push",
		"GitHub->>Control Plane: workflow_job queued",
		"Control Plane->>Data Plane: create a machine",
		"Control Plane->>GitHub: generate-jitconfig",
		"Control Plane-->>Data Plane: JIT configuration",
		"Data Plane->>Data Plane: start the eBPF recorder",
		"GitHub->>Data Plane: the job",
		"Data Plane->>GitHub: steps, logs, conclusion",
		"GitHub->>Control Plane: workflow_job completed",
		"Data Plane->>Control Plane: the rest of the trace and its seal",
		"Control Plane->>Control Plane: store the trace with the job",
		"Control Plane->>Data Plane: delete",
	} {
		_, after, found := strings.Cut(diagram, step)
		if !found {
			t.Fatalf("%q is missing, or comes before what it follows", step)
		}
		diagram = after
	}
}

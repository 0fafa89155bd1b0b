package muster_test

import (
	"testing"

	"github.com/muster-ci/muster"
)

func TestTraceID(t *testing.T) {
	for _, id := range []muster.TraceID{{Runner: "r-abcdefghijklmnop", Number: 1}, {Runner: "r-abcdefghijklmnop", Number: 12}} {
		if got, err := muster.ParseTraceID(id.String()); err != nil || got != id {
			t.Errorf("%s was read as %v: %v", id, got, err)
		}
	}
	for _, text := range []string{"", "7", "r-abcdefghijklmnop.", "r-abcdefghijklmnop.0", "r-abcdefghijklmnop.-1", "r-abcdefghijklmnop.x", "x.1", "R.1"} {
		if id, err := muster.ParseTraceID(text); muster.CodeOf(err) != muster.CodeInvalid {
			t.Errorf("%q was read as %v: %v", text, id, err)
		}
	}
}

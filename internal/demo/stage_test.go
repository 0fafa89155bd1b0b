package demo

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/muster-ci/muster/internal/server"
)

// A demo that cannot be played says what is missing and what to do about it.
func TestStageRefusals(t *testing.T) {
	all := func(string) (string, error) { return "/bin/true", nil }
	none := func(string) (string, error) { return "", exec.ErrNotFound }
	if _, err := stageFor("process", none); err != nil {
		t.Errorf("process needs nothing: %v", err)
	}
	if _, err := stageFor("no-such-kind", all); err == nil || !strings.Contains(err.Error(), "plays on") || !strings.Contains(err.Error(), "process") {
		t.Errorf("%v", err)
	}
	for _, k := range server.Kinds() {
		s, playable := stages[k.Kind]
		_, err := stageFor(k.Kind, none)
		switch {
		case playable && len(s.programs) == 0:
		case err == nil:
			t.Errorf("kind %s is played without its programs %v", k.Kind, s.programs)
		case playable && !strings.Contains(err.Error(), s.remedy):
			t.Errorf("kind %s: no remedy in %v", k.Kind, err)
		case !playable && !strings.Contains(err.Error(), "muster provider show "+k.Kind):
			t.Errorf("kind %s: no remedy in %v", k.Kind, err)
		}
		if playable && len(s.programs) > 0 && s.remedy == "" {
			t.Errorf("stage %s needs %v and says not how they get here", k.Kind, s.programs)
		}
		if _, err := stageFor(k.Kind, all); playable && err != nil {
			t.Errorf("kind %s: %v", k.Kind, err)
		}
	}
}

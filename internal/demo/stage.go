package demo

import (
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"

	"github.com/muster-ci/muster/internal/server"
)

// stage is a platform that the demo can play on.
type stage struct {
	// programs have to be on this machine; remedy says how they get here.
	programs []string
	remedy   string
	// section writes the config of the provider as lines of YAML without indentation,
	// and makes on the way what it names.
	section func(set props) (string, error)
	// pool are further settings of the pool, a line each.
	pool string
}

// props is what a stage gets to work with.
type props struct {
	// dir is the demo's own directory, agent the program, and runnerDir a directory
	// with the simulated GitHub's runner, run.sh at its top.
	dir, agent, runnerDir string
	// control and github are how this machine reaches the control plane and the
	// simulated GitHub, as host:port.
	control, github string
	// runners is how many there are at once at most.
	runners int
}

// stages are the platforms that the demo can play on. One more is an entry here.
var stages = map[string]stage{
	"process": {
		section: func(set props) (string, error) {
			return fmt.Sprintf("agent: %s\nrunner_dir: %s\nmax: %d\ngrace: 1s\n", set.agent, set.runnerDir, set.runners), nil
		},
	},
	"qemu": onQEMU,
}

// stageFor finds the stage of a kind, and refuses with what to do if the demo cannot
// play on it here.
func stageFor(kind string, look func(string) (string, error)) (stage, error) {
	s, ok := stages[kind]
	if !ok {
		var known []string
		for _, k := range server.Kinds() {
			known = append(known, k.Kind)
		}
		playable := strings.Join(slices.Sorted(maps.Keys(stages)), ", ")
		if slices.Contains(known, kind) {
			return s, fmt.Errorf("the demo does not play on providers of kind %s, which need a platform of your own: use one of %s, or configure one (muster provider show %s) and test it with muster provider check", kind, playable, kind)
		}
		return s, fmt.Errorf("there is no kind of provider %q: the demo plays on %s", kind, playable)
	}
	var missing []string
	for _, p := range s.programs {
		if _, err := look(p); err != nil {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		return s, fmt.Errorf("the demo on %s needs %s on this machine: %s", kind, strings.Join(missing, " and "), s.remedy)
	}
	return s, nil
}

// lookPath is exec.LookPath.
func lookPath(name string) (string, error) { return exec.LookPath(name) }

// indented moves lines of YAML to their place below config.
func indented(lines string) string {
	return "      " + strings.ReplaceAll(strings.TrimSpace(lines), "\n", "\n      ")
}

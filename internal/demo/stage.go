package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

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
	// build is for a platform on which something has to be removed in the end, instead
	// of section.
	build func(ctx context.Context, set props) (built, error)
	// pool are further settings of the pool, a line each.
	pool string
}

// built is a stage that is ready.
type built struct {
	// section is the config of the provider, as lines of YAML.
	section string
	// end removes what the stage made, and what an interrupted demo has left on it.
	end func(ctx context.Context) error
}

// props is what a stage gets to work with.
type props struct {
	// name is the control plane's, and no other demo's.
	name string
	// dir is the demo's own directory, agent the program, and runnerDir a directory
	// with the simulated GitHub's runner, run.sh at its top.
	dir, agent, runnerDir string
	// runner is the program of that runner.
	runner string
	// control and github are how this machine reaches the control plane and the
	// simulated GitHub, as host:port.
	control, github string
	// runners is how many there are at once at most.
	runners int
	// own are the user's keys, laid over the section.
	own map[string]any
	// look finds a program of this machine.
	look func(string) (string, error)
}

// word is what the user's own key says, "" if there is none.
func (p props) word(key string) string {
	if text, ok := p.own[key].(string); ok {
		return text
	}
	return ""
}

// make builds the stage, and lays the user's own keys over its section.
func (s stage) make(ctx context.Context, set props) (b built, err error) {
	b.end = func(context.Context) error { return nil }
	if s.build != nil {
		b, err = s.build(ctx, set)
	} else {
		b.section, err = s.section(set)
	}
	if err != nil || len(set.own) == 0 {
		return b, err
	}
	keys := map[string]any{}
	if err := yaml.Unmarshal([]byte(b.section), &keys); err != nil {
		return b, errors.Join(fmt.Errorf("read the stage's own section: %w", err), undo(ctx, b.end))
	}
	maps.Copy(keys, set.own)
	text, err := yaml.Marshal(keys)
	if err != nil {
		return b, errors.Join(fmt.Errorf("write the provider's section: %w", err), undo(ctx, b.end))
	}
	b.section = string(text)
	return b, nil
}

// undo calls what removes things, also when ctx has ended, which is why it is called.
func undo(ctx context.Context, end func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if err := end(ctx); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

// ownKeys reads the file of --provider-config.
func ownKeys(file string) (keys map[string]any, err error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if err := yaml.Unmarshal(text, &keys); err != nil {
		return nil, fmt.Errorf("%s: write the provider's settings as YAML, key: value on each line: %w", file, err)
	}
	return keys, nil
}

// stages are the platforms that the demo can play on. One more is an entry here.
var stages = map[string]stage{
	"process": {
		section: func(set props) (string, error) {
			return fmt.Sprintf("agent: %s\nrunner_dir: %s\nmax: %d\ngrace: 1s\n", set.agent, set.runnerDir, set.runners), nil
		},
	},
	"qemu":       onQEMU,
	"container":  onContainers,
	"slurm":      onSlurm,
	"kubernetes": onKubernetes,
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

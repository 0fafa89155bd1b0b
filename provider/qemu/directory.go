//go:build linux

package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/muster-ci/muster"
)

// A machine's directory, below Root and the owner's directory:
//
//	state.json  what this provider knows
//	qmp         QEMU's control socket
//	agent       the host's end of the agent's port
//	console     what the machine printed, its end at least
//	events      what QEMU told of itself: how it ended, above all
//	qemu.log    what QEMU complained about
//	ended       how the process ended, where it was our child
//
// A disk's changes lie in a file that has no name, so that it is gone with QEMU.
const (
	stateFile   = "state.json"
	qmpSocket   = "qmp"
	agentSocket = "agent"
	consoleFile = "console"
	eventsFile  = "events"
	logFile     = "qemu.log"
	endedFile   = "ended"
)

// stage is how far a start has come, written before the step that it names.
type stage string

const (
	preparing stage = "preparing" // no process exists
	starting  stage = "starting"  // a process may exist
	started   stage = "started"   // the process is recorded
	born      stage = "born"      // it has its boot data
)

// state is the file in a machine's directory.
type state struct {
	Runner    muster.RunnerID `json:"runner,omitempty"`
	Owner     string          `json:"owner"`
	Workspace string          `json:"workspace,omitempty"`
	Pool      string          `json:"pool,omitempty"`
	TraceID   string          `json:"trace_id,omitempty"`
	CreatedAt time.Time       `json:"created_at"`
	MaxAge    time.Duration   `json:"max_age_ns,omitempty"`
	// URL is the control plane, to which the agent's port leads.
	URL string `json:"url,omitempty"`
	// Image and Digest are what it was started from, Template which template of it, if any.
	Image    string `json:"image,omitempty"`
	Digest   string `json:"digest,omitempty"`
	Template string `json:"template,omitempty"`
	Tap      string `json:"tap,omitempty"`
	Stage    stage  `json:"stage,omitempty"`
	// PID, Start and Boot identify QEMU.
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"`
	Boot  string `json:"boot,omitempty"`
	// Told is when it was first asked to end.
	Told time.Time `json:"told,omitzero"`
	// UpAt is when a kept machine was started.
	UpAt time.Time `json:"up_at,omitzero"`
	// Ended is why it ended, where we ended it.
	Ended string `json:"ended,omitempty"`
}

func (st state) tooOld(now time.Time, margin time.Duration) bool {
	return st.MaxAge > 0 && now.After(st.CreatedAt.Add(st.MaxAge+margin))
}

func readState(dir string) (state, error) {
	var st state
	err := readJSON(filepath.Join(dir, stateFile), &st)
	return st, err
}

func (st state) write(dir string) error { return writeJSON(filepath.Join(dir, stateFile), st) }

func readJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file at once, so that a reader sees the old or the new one.
func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// removeDir removes a machine's directory. state.json goes last, so that an
// interrupted removal is still an instance that can be found.
func removeDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != stateFile {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(dir)
}

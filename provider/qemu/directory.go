//go:build linux

package qemu

import (
	"os"
	"path/filepath"
	"time"

	"github.com/muster-ci/muster/internal/instancedir"
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
	qmpSocket   = "qmp"
	agentSocket = "agent"
	consoleFile = "console"
	eventsFile  = "events"
	logFile     = "qemu.log"
)

// born is the stage after instancedir.Started: it has its boot data.
const born instancedir.Stage = "born"

// state is the file in a machine's directory.
type state struct {
	instancedir.State
	// URL is the control plane, to which the agent's port leads.
	URL string `json:"url,omitempty"`
	// Image and Digest are what it was started from, Template which template of it, if any.
	Image    string `json:"image,omitempty"`
	Digest   string `json:"digest,omitempty"`
	Template string `json:"template,omitempty"`
	Tap      string `json:"tap,omitempty"`
	// UpAt is when a kept machine was started.
	UpAt time.Time `json:"up_at,omitzero"`
	// Ended is why it ended, where we ended it.
	Ended string `json:"ended,omitempty"`
}

func readState(dir string) (state, error) {
	var st state
	err := instancedir.ReadJSON(filepath.Join(dir, instancedir.StateFile), &st)
	return st, err
}

func (st state) write(dir string) error {
	return instancedir.WriteJSON(filepath.Join(dir, instancedir.StateFile), st)
}

// removeDir removes a machine's directory. state.json goes last, so that an
// interrupted removal is still an instance that can be found.
func removeDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != instancedir.StateFile {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(dir)
}

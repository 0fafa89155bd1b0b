package web

import (
	"net/http"
	"net/url"

	"github.com/muster-ci/muster"
)

// Word is State, and whether a job runs on the machine.
func (m MachineView) Word() string {
	if m.Status == muster.MachineRunning && m.Occupation(m.Demand.Running) == muster.WorkBusy {
		return m.State() + ", busy"
	}
	return m.State()
}

// State is the machine's status in a word of ours; the platform's own stands beside it.
func (m MachineView) State() string {
	switch {
	case m.Status == "":
		return "not looked at yet"
	case m.Status == muster.MachineRepairing:
		return "repairing"
	case m.Status.Starting():
		return "starting"
	case m.Status.Stopping():
		return "stopping"
	case m.Status == muster.MachineRunning:
		return "up"
	case m.Status == muster.MachineTerminated:
		return "stopped"
	case m.Status == muster.MachineSuspended:
		return "suspended"
	}
	return string(m.Status)
}

// Tone is the semantic colour of the status.
func (m MachineView) Tone() string {
	switch {
	case m.Status == muster.MachineRunning && m.Occupation(m.Demand.Running) == muster.WorkBusy:
		return "info"
	case m.Status == muster.MachineRunning:
		return "ok"
	case m.Status == muster.MachineTerminated, m.Status == "":
		return "mute"
	}
	return "wait"
}

// Runner says whether a job runs on the machine, as far as anybody knows.
func (m MachineView) Runner() string {
	switch m.Occupation(m.Demand.Running) {
	case muster.WorkBusy:
		return "busy"
	case muster.WorkIdle:
		return "idle"
	case muster.WorkMissing:
		return "not known to GitHub"
	case muster.WorkUnknown:
		return "GitHub does not say, which counts as busy"
	}
	if m.Status == muster.MachineRunning {
		return "not asked about yet"
	}
	return "away"
}

// Error is the platform's last error in its own words, nil if its last answers
// were none.
func (m MachineView) Error() *machineError {
	words, at := m.Trouble()
	if words == "" {
		return nil
	}
	return &machineError{Words: words, At: moment{At: at, Text: formatStamp(at)}}
}

type machineError struct {
	Words string
	At    moment
}

// keptMachine is the machine of a pool that keeps one, nil for others.
func (s *site) keptMachine(r *http.Request, p PoolView) (*MachineView, error) {
	if !p.Keeps() {
		return nil, nil
	}
	m, err := s.Reads.Machine(r.Context(), p.MachineID())
	return &m, err
}

// doMachine starts or stops the machine of a pool, as the form's "do" says, and
// tells what came of it.
func (s *site) doMachine(w http.ResponseWriter, r *http.Request) error {
	do, err := formText(w, r, "do")
	if err != nil {
		return err
	}
	p, err := s.findPool(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	if !p.Keeps() {
		return muster.Errorf(muster.CodeInvalid, "pool %s keeps no machine: it makes runners of its own", p.Name)
	}
	var answer muster.MachineAnswer
	switch do {
	case "start":
		answer, err = s.Commands.StartMachine(r.Context(), p.MachineID())
	case "stop":
		answer, err = s.Commands.StopMachine(r.Context(), p.MachineID())
	default:
		return muster.Errorf(muster.CodeInvalid, "a machine can be started or stopped, not %q", do)
	}
	if err != nil {
		return err
	}
	return done(w, r, "/pools/"+url.PathEscape(p.Name), "machine-"+answer.Status)
}

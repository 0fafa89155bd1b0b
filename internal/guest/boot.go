package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Names of the ports, as the host gives them to the devices.
const (
	BootPort  = "muster.boot"
	AgentPort = "muster.agent"
)

// ControlPlane is the address under which the host serves the control plane.
const ControlPlane = "control-plane"

// SeedBytes is how many random bytes a machine is sent at least.
const SeedBytes = 64

// Boot is the line that a machine is born with. It is secret.
type Boot struct {
	Token string `json:"token,omitempty"`
	// Seed is stirred into the kernel's random numbers before anything else runs: the
	// copies of a template all start with the same ones.
	Seed []byte `json:"seed"`
	// Now sets the clock of a copy, which believes in the hour of its template. A
	// machine that boots reads the hardware's clock, and gets a zero Now.
	Now      time.Time `json:"now,omitzero"`
	Hostname string    `json:"hostname"`
	// Runner is the tag of everything that the runner starts.
	Runner string `json:"runner,omitempty"`
	// Environ is what else the agent gets to see: its own settings and what the runner needs.
	Environ []string `json:"environ,omitempty"`
	// Listen are addresses of the guest's own loopback that lead to the same address
	// of the host, and Proxy one where an HTTP proxy leads to whatever the host allows.
	Listen []string `json:"listen,omitempty"`
	Proxy  string   `json:"proxy,omitempty"`
	// MAC is given to the first network card, where there is one.
	MAC string `json:"mac,omitempty"`
	// Kept runs the runner that is registered in the machine's own disk, again and
	// again, instead of asking the control plane for one.
	Kept bool `json:"kept,omitempty"`
}

// Line is the Boot as it is written to the port.
func (b Boot) Line() ([]byte, error) {
	line, err := json.Marshal(b)
	return append(line, '\n'), err
}

// ParseBoot reads the line.
func ParseBoot(line []byte) (Boot, error) {
	var b Boot
	if err := json.Unmarshal(line, &b); err != nil {
		// The text may be in the error, and is secret.
		return b, fmt.Errorf("read boot data: %d bytes that are no JSON", len(line))
	}
	if len(b.Seed) < SeedBytes {
		return b, errors.New("read boot data: it has no seed, and a machine without one may share its random numbers with another")
	}
	return b, nil
}

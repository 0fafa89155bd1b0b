// Command muster-agent runs one GitHub Actions runner inside a machine, for a
// Muster control plane. Everything is in internal/agent.
package main

import (
	"os"

	"github.com/muster-ci/muster/internal/agent"
)

// version is set by the build: -ldflags "-X main.version=…".
var version = "dev"

func main() {
	os.Exit(agent.Main(os.Args[1:], version, os.Stdout, os.Stderr))
}

// Command muster is the control plane and its command line.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/muster-ci/muster/internal/cli"
	"github.com/muster-ci/muster/internal/demo"
	"github.com/muster-ci/muster/internal/server"
)

// version is set by the linker.
var version = "dev"

func main() {
	// The first signal asks for an orderly end; a second one is not caught and ends at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(cli.Main(ctx, os.Args[1:], cli.OSEnv(version), cli.Programs{Serve: server.Program(version), Fleet: server.FleetProgram(version), Check: server.Check, Kinds: server.Kinds, Demo: demo.Run,
		Image: cli.ImagePrograms{Build: server.BuildImage, List: server.ListImages, Verify: server.VerifyImage}}))
}

// Command local is an external provider of GARM whose cloud is this machine: a
// machine is a process in namespaces of its own that runs the user data which
// garm-provider-common writes for every cloud. It is built on that library unchanged, so
// that tests of provider/garm and internal/garm meet the real code of the interface.
//
// Called as GARM calls it, it is the provider. Its other forms are parts of a machine:
// "machine DIR" is one, and as sudo, systemctl or with "service FILE" it stands for
// what an image has.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	garmerrors "github.com/cloudbase/garm-provider-common/errors"
	"github.com/cloudbase/garm-provider-common/execution"
	"github.com/cloudbase/garm-provider-common/execution/common"
)

func main() {
	os.Exit(run())
}

func run() int {
	switch name := filepath.Base(os.Args[0]); {
	case name == "sudo":
		return becomes(os.Args[1:])
	case name == "systemctl":
		return systemctl(os.Args[1:])
	case len(os.Args) == 3 && os.Args[1] == "machine":
		return machine(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "service":
		return service(os.Args[2])
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	env, err := execution.GetEnvironment()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	p, err := load(env.ProviderConfigFile, env.ControllerID, env.EnvironmentV010.PoolID+env.EnvironmentV011.PoolID)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	out, err := p.spoilt(func() (string, error) { return env.Run(ctx, p) })
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		if code, ok := errors.AsType[exitCode](err); ok {
			return int(code)
		}
		return common.ResolveErrorToExitCode(err)
	}
	fmt.Print(out)
	return 0
}

// exitCode is an error that names the exit code.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("ends with %d as it was told to", int(e)) }

func notFound(instance string) error { return garmerrors.NewNotFoundError("no machine %s", instance) }

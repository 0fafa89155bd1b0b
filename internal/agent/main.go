package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/muster-ci/muster/internal/guest"
)

// Main is the program: it reads flags and environment, runs one runner and returns
// the exit code. The runner's output goes to stdout, the agent's own words to stderr.
func Main(args []string, version string, stdout, stderr io.Writer) int {
	if slices.Contains(args, "--version") || slices.Contains(args, "-version") {
		fmt.Fprintln(stdout, "muster-agent", version)
		return ExitDone
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if len(args) > 0 && args[0] == "record" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		return recordMain(ctx, args[1:], version, log, stderr)
	}
	if dir, ok := delivery(args); ok {
		if err := deliver(dir, os.Getenv("MUSTER_BOOT_TOKEN_FILE")); err != nil {
			log.Error("agent not delivered", "error", err)
			return ExitInternal
		}
		return ExitDone
	}
	environ := os.Environ()
	var warm recorder // opened before this machine was copied
	if guest.Booting() {
		var err error
		if environ, err = guest.Init(func() { warm = rehearse(version, log) }); err != nil {
			log.Error("machine not booted", "error", err)
			guest.PowerOff()
		}
	}
	inside := os.Getenv(guest.Mark)
	if inside != "" {
		// The first process of a machine must not end before the machine does.
		defer guest.PowerOff()
	}
	cfg, err := load(args, environ, stderr)
	if errors.Is(err, errHelp) {
		return ExitDone
	}
	if err != nil {
		log.Error("agent not started", "error", err)
		return ExitUsage
	}
	if err := hideToken(environ); err != nil {
		log.Error("agent not started", "error", err)
		return ExitInternal
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	continued, forget := whenContinued()
	defer forget()
	cfg.continued = continued
	cfg.Logger, cfg.Output, cfg.warm = log, stdout, warm
	if inside != "" {
		guest.OnPowerButton(stop)
	}
	if inside == guest.KeptMark {
		if err := runKept(ctx, cfg); err != nil {
			log.Error("machine ended", "error", err)
			return ExitRunner
		}
		return ExitDone
	}
	cfg.Token, err = takeToken(os.Getenv("MUSTER_BOOT_TOKEN_FILE"), os.Getenv("MUSTER_BOOT_TOKEN"), log)
	if err != nil {
		log.Error("agent not started", "error", err)
		return ExitUsage
	}
	hangUp, err := cfg.throughPort()
	if err != nil {
		log.Error("agent not started", "error", err)
		return ExitUsage
	}
	defer hangUp()
	code, err := Run(ctx, cfg, version)
	if err != nil {
		log.Error("agent ended", "error", err, "exit_code", code)
	} else {
		log.Info("agent ended", "exit_code", code)
	}
	return code
}

package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/muster-ci/muster/internal/agent/bpf"
	"github.com/muster-ci/muster/internal/trace"
)

// What a node's recorder and an agent say to each other through a unix socket; one
// connection is one scope and ends with it.
//
//	recorder → agent  lentFrame{About, Place}
//	agent → recorder  lendRequest, as one line of JSON, with a descriptor (pidfd) of the process to follow
//	recorder → agent  lentFrame{Followed} or lentFrame{Refused}
//	recorder → agent  lentFrame{Events, Lost} …
//	agent → recorder  one byte: end it
//	recorder → agent  lentFrame{Lost, End}
//
// The recorder believes nothing that an agent says: whose process it is, the kernel tells.
const lendProtocol = 1

// lendRequest asks for a scope.
type lendRequest struct {
	Protocol int          `json:"protocol"`
	Agent    string       `json:"agent"`
	Egress   trace.Egress `json:"egress,omitzero"`
	// Engines are the container engines that work for the process alone. Those of a network
	// namespace the recorder finds by itself; those of the machine are given away only by one
	// that was started so.
	Engines bpf.Engines `json:"engines,omitempty"`
}

// lentFrame is what the recorder says, in gob.
type lentFrame struct {
	About *trace.Recorder
	// Place is a cgroup in which the agent can start the process; one that does not, or is
	// older, has it moved.
	Place    string
	Followed *trace.Recorder
	Refused  string
	Events   []trace.Event
	Lost     map[string]int64
	End      bool
}

// lending is how a node's recorder is run.
type lending struct {
	socket  string
	mode    uint
	perUser int  // scopes of one user at a time
	scopes  int  // of all users
	engines bool // those of the machine work for whoever is recorded
	// idle is after how long without a job it ends; 0 is never.
	idle time.Duration
}

// recordMain is "muster-agent record": it opens the recorder of this machine and lends it to
// agents that may not open one, until ctx ends.
func recordMain(ctx context.Context, args []string, version string, log *slog.Logger, help io.Writer) int {
	var l lending
	flags := flag.NewFlagSet("muster-agent record", flag.ContinueOnError)
	flags.SetOutput(help)
	flags.StringVar(&l.socket, "socket", recorderSocket, "unix `socket` on which agents ask")
	flags.UintVar(&l.mode, "mode", 0o666, "`permissions` of the socket: who may ask at all")
	flags.IntVar(&l.perUser, "per-user", 64, "`jobs` of one user at a time")
	flags.IntVar(&l.scopes, "jobs", 1024, "`jobs` of all users at a time")
	flags.BoolVar(&l.engines, "own-engines", false, "the container engines of this machine work for the one job that is recorded: a machine for one job at a time")
	flags.DurationVar(&l.idle, "idle", 0, "end after this `time` without a job; 0 is never")
	detach := flags.Bool("detach", false, "return when the recorder listens, and leave it running; one that listens already will do")
	quiet := flags.Bool("quiet", false, "log what goes wrong only")
	flags.Usage = func() {
		fmt.Fprint(help, "muster-agent record records the jobs of this machine for agents that have not the right to:\n"+
			"each gets what its own processes do, and nothing else. It has to run as root, or with the\n"+
			"capabilities BPF, PERFMON, NET_ADMIN, SYS_PTRACE, DAC_READ_SEARCH, in the machine's own pid namespace.\n\nFlags:\n")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return ExitDone
	} else if err != nil {
		return ExitUsage
	}
	if flags.NArg() > 0 || l.perUser < 1 || l.scopes < 1 || l.mode > 0o777 || l.idle < 0 {
		fmt.Fprintln(help, "muster-agent record: unexpected argument, or a limit below 1")
		return ExitUsage
	}
	if *detach {
		if err := l.detach(ctx); err != nil {
			log.Error("nothing is recorded", "error", err)
			return ExitInternal
		}
		return ExitDone
	}
	if *quiet {
		log = slog.New(slog.NewTextHandler(help, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	rec, missing := checked(openKernel(recordOptions{log: log, agent: version}))
	if missing != "" {
		log.Error("nothing can be recorded", "error", missing)
		return ExitInternal
	}
	err := errors.Join(l.serve(ctx, rec, log), rec.Close())
	if err != nil {
		log.Error("recorder ended", "error", err)
		return ExitInternal
	}
	if *quiet {
		_ = os.Remove(l.socket + ".log") // there is nothing in it that anybody looks for
	}
	return ExitDone
}

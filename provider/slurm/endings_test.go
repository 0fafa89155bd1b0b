package slurm_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/slurm"
	"github.com/muster-ci/muster/provider/slurm/slurmtest"
)

// eats takes more than twice the memory of spec's offering.
const eats = "head -c 150000000 /dev/zero | tail\n"

// A job that used too much memory, one that another took the node from, and one whose time is
// up end in their own states, and each is told apart in Slurm's word and ours (4-44). Slurm
// ends them by itself: by the memory that its nodes bound, by the rank of partitions, and by
// the limit that the provider asked for, which Slurm looks at every 30 s. JobAcctGatherParams=
// OverMemoryKill is no way to the first: Slurm 22.05 ends a batch job by it as FAILED with
// signal 9, which says nothing of memory.
func TestEndings(t *testing.T) {
	t.Parallel()
	unbound := slurmtest.CanBoundMemory()
	s := newStand(t, slurm.TransportREST, slurmtest.Options{Nodes: 2, BoundMemory: unbound == "", Lines: []string{
		"PreemptType=preempt/partition_prio", "PreemptMode=CANCEL",
		"PartitionName=low Nodes=n2 DefMemPerCPU=256 State=UP", "PartitionName=urgent Nodes=n2 PriorityTier=10 DefMemPerCPU=256 State=UP",
	}})
	glutton := runnerDir(t, s.Cluster, eats)
	cp := newPlane(t, 0)
	open := func(transport string, change func(*slurm.Config)) *slurm.Provider {
		cfg := s.config(t, transport)
		return s.open(t, "own", func(c *slurm.Config) { *c = cfg; c.Owner = "own"; change(c) })
	}
	transports := []string{slurm.TransportREST, slurm.TransportCommands}
	var timed [2]provider.Spec
	for i, transport := range transports {
		timed[i] = spec(10*i, cp.URL)
		create(t, open(transport, func(c *slurm.Config) { c.TimeLimit = provider.Duration(time.Minute) }), timed[i])
	}
	for i, transport := range transports {
		if unbound == "" {
			hungry, oom := open(transport, func(c *slurm.Config) { c.RunnerDir = glutton }), spec(10*i+1, cp.URL)
			create(t, hungry, oom)
			ended(t, hungry, oom.Runner, "OUT_OF_MEMORY", "it used more memory than it was given")
		} else {
			t.Logf("OUT_OF_MEMORY is not produced: %s", unbound)
		}
		low, pre := open(transport, func(c *slurm.Config) { c.Partition = "low" }), spec(10*i+2, cp.URL)
		create(t, low, pre)
		within(t, 20*time.Second, "the agent does not call", func() bool { return !cp.bootedAt(pre.Boot.Token.Reveal()).IsZero() })
		urgent := strings.TrimSpace(s.Must(t, "sbatch", "--parsable", "-p", "urgent", "-n", "16", "--mem=1", "--output=/dev/null", "--wrap=sleep 600"))
		ended(t, low, pre.Runner, "PREEMPTED", "another job of higher priority took the node")
		s.Must(t, "scancel", urgent)
	}
	for i, transport := range transports {
		p := open(transport, func(*slurm.Config) {})
		ended(t, p, timed[i].Runner, "TIMEOUT", "Slurm's time limit of 1 minutes was reached")
	}
	if left := s.Queue(t); len(left) > 0 {
		t.Errorf("left in the queue: %v", left)
	}
}

// ended waits for a job to end by itself in a state, and in words. Whoever deletes it is told
// so too, since the agent may have said no more than that it was to stop.
func ended(t *testing.T, p provider.Provider, id muster.RunnerID, state, words string) {
	t.Helper()
	in := awaitDetail(t, p, id, 2*time.Minute, state)
	if in.State != provider.InstanceEnded || !strings.HasPrefix(in.Detail, state) || !strings.Contains(in.Detail, words) || strings.Contains(in.Detail, "signal 125") {
		t.Errorf("%+v does not say %s: %s", in, state, words)
	}
	within(t, 30*time.Second, "it is not gone", func() bool {
		err := p.Delete(t.Context(), id)
		if seen, ok := errors.AsType[*provider.GoneError](err); errors.Is(err, provider.ErrNotFound) && (!ok || !strings.HasPrefix(seen.Detail, state) || !strings.Contains(seen.Detail, words)) {
			t.Errorf("deleted: %v instead of %s", err, in.Detail)
		}
		return errors.Is(err, provider.ErrNotFound)
	})
}

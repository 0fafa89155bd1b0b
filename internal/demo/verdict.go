package demo

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/githubsim"
	acme "github.com/muster-ci/muster/githubsim/demo"
	"github.com/muster-ci/muster/internal/server"
	"github.com/muster-ci/muster/internal/store"
)

const workspace = "default"

// standing is what both sides say at one moment: GitHub's own truth, and the
// control plane's books.
type standing struct {
	truth    githubsim.Truth
	live     []muster.Runner
	receipts []muster.Receipt
	findings []muster.Finding
}

func take(ctx context.Context, sim *githubsim.Server, control *server.Server) (s standing, err error) {
	s.truth = sim.Truth()
	if s.live, err = control.Store().LiveRunners(ctx); err != nil {
		return s, err
	}
	if s.receipts, err = control.Store().Receipts(ctx, workspace, store.UsageFilter{}); err != nil {
		return s, err
	}
	s.findings, err = control.Store().Findings(ctx, workspace, 100)
	return s, err
}

// settled reports whether nothing is under way any more.
func (s standing) settled() bool {
	return len(s.live) == 0 && len(s.truth.Runners) == 0 && len(s.lost()) == 0
}

// lost are the jobs that GitHub queued for our labels and that did not end in our
// books: not completed, or completed without a receipt.
func (s standing) lost() (out []githubsim.JobTruth) {
	for _, j := range s.truth.Jobs {
		served := muster.MatchLabels(acme.Labels(), muster.Labels(append(acme.Labels(), "self-hosted", "Linux", "X64")), j.Labels).Serves()
		// A job that was skipped, or copied from an earlier attempt, was never queued.
		if !served || j.Copied || j.QueuedAt.IsZero() {
			continue
		}
		booked := slices.ContainsFunc(s.receipts, func(r muster.Receipt) bool { return r.Job.ID == j.ID })
		if j.Status != "completed" || !booked {
			out = append(out, j)
		}
	}
	return out
}

// leaked counts what is left over: runners in the books, registrations at GitHub,
// machines that the sweep had to clean up.
func (s standing) leaked() int {
	n := max(len(s.live), len(s.truth.Runners))
	for _, f := range s.findings {
		if f.Kind == "leaked_instance" {
			n++
		}
	}
	return n
}

// killed counts busy runners that were ended, as either side saw it.
func (s standing) killed() int {
	n := 0
	for _, f := range s.findings {
		if f.Kind == "busy_killed" {
			n++
		}
	}
	return max(n, len(s.truth.BusyKills))
}

// conclude prints the table and the three zeros, and returns ErrPromise if one of
// them is not zero or a job ended otherwise than expected.
func conclude(ctx context.Context, out io.Writer, sim *githubsim.Server, control *server.Server, took time.Duration) error {
	s, err := take(ctx, sim, control)
	if err != nil {
		return err
	}
	rows, err := control.Store().UsageSummary(ctx, workspace, store.UsageFilter{}, "workflow")
	if err != nil {
		return err
	}
	unserved, err := unserved(ctx, control.Store())
	if err != nil {
		return err
	}
	if err := table(out, append(rows, unserved...)); err != nil {
		return err
	}
	wrong := append(acme.Verify(s.truth), s.truth.Verdict()...)
	lost := s.lost()
	fmt.Fprintf(out, "\njobs lost %d, runners leaked %d, busy runners killed %d   (%d jobs, %d runners, %.1f s)\n",
		len(lost), s.leaked(), s.killed(), len(s.truth.Jobs), s.truth.Registered, took.Seconds())
	for _, w := range wrong {
		fmt.Fprintln(out, "not as expected:", w)
	}
	for _, j := range lost {
		fmt.Fprintf(out, "lost: job %d %s in %s, %s\n", j.ID, j.Name, j.Repo, j.Status)
	}
	if len(lost)+s.leaked()+s.killed()+len(wrong) > 0 {
		return ErrPromise
	}
	return nil
}

// unserved are the jobs that no pool wants, as rows: they have no receipt, since
// they are nobody's.
func unserved(ctx context.Context, s *store.Store) (rows []store.UsageRow, err error) {
	jobs, err := s.Jobs(ctx, workspace, store.JobFilter{})
	if err != nil {
		return nil, err
	}
	for _, j := range jobs {
		if j.Pool != "" || j.Runner != "" {
			continue
		}
		key := j.Workflow + " (no pool)"
		i := slices.IndexFunc(rows, func(r store.UsageRow) bool { return r.Key == key })
		if i < 0 {
			rows, i = append(rows, store.UsageRow{Key: key}), len(rows)
		}
		rows[i].Jobs++
		rows[i].NeverRan++
	}
	return rows, nil
}

func table(out io.Writer, rows []store.UsageRow) error {
	slices.SortFunc(rows, func(a, b store.UsageRow) int { return strings.Compare(a.Key, b.Key) })
	fmt.Fprintln(out)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "workflow\tjobs\tok\tfailed\tcancelled\tnever ran\tqueue→start p50\tp90\trun\tcost\twaste\t")
	var sum store.UsageRow
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t\n", r.Key, r.Jobs, r.Succeeded, r.Failed, r.Cancelled, r.NeverRan,
			brief(r.QueueP50), brief(r.QueueP90), brief(r.Run), money(r.CostMicroUSD), money(r.WasteMicroUSD))
		sum.Jobs += r.Jobs
		sum.Succeeded += r.Succeeded
		sum.Failed += r.Failed
		sum.Cancelled += r.Cancelled
		sum.NeverRan += r.NeverRan
		sum.Run += r.Run
		sum.CostMicroUSD += r.CostMicroUSD
		sum.WasteMicroUSD += r.WasteMicroUSD
	}
	fmt.Fprintf(t, "all\t%d\t%d\t%d\t%d\t%d\t\t\t%s\t%s\t%s\t\n", sum.Jobs, sum.Succeeded, sum.Failed, sum.Cancelled, sum.NeverRan, brief(sum.Run), money(sum.CostMicroUSD), money(sum.WasteMicroUSD))
	return t.Flush()
}

func brief(d time.Duration) string { return d.Round(10 * time.Millisecond).String() }

// money shows millionths of a dollar; the demo's jobs cost fractions of a cent.
func money(micro int64) string { return fmt.Sprintf("$%.4f", float64(micro)/1e6) }

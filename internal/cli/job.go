package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

func (a *app) jobCommand() *cobra.Command {
	return group("job", "Jobs: what GitHub queued, why it waits, what it cost", a.jobList(), a.jobShow(), a.jobWhy(), a.jobLog(), a.jobWatch())
}

func (a *app) jobList() *cobra.Command {
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List jobs, newest first"}
	req := &v1.ListJobsRequest{}
	c.Flags().StringSliceVar(&req.States, "state", nil, "only those in these states: waiting, queued, in_progress, completed")
	c.Flags().StringVar(&req.Pool, "pool", "", "only those of one pool")
	c.Flags().StringVar(&req.Repository, "repo", "", "only those of OWNER/NAME")
	c.Flags().Int64Var(&req.RunId, "run", 0, "only those of one workflow run")
	c.Flags().Int32Var(&req.PageSize, "limit", 50, "how many at most")
	c.Flags().StringVar(&req.PageToken, "page", "", "go on after a page: its next_page_token")
	since := c.Flags().String("since", "", "only those first heard of since: 24h, 30d, a date or a time")
	_ = c.RegisterFlagCompletionFunc("pool", values(a.completePools)) // the flag is there
	return a.remote(c, func(cmd *cobra.Command, _ []string, api *client) (err error) {
		if req.Since, err = a.since("since", *since); err != nil {
			return err
		}
		resp, err := api.jobs.ListJobs(cmd.Context(), req)
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			t := a.table("ID", "STATE", "REPOSITORY", "WORKFLOW / JOB", "POOL", "QUEUED", "WAIT", "RUN", "RUNNER")
			for _, j := range resp.Jobs {
				t.row(jobRef(&v1.JobRef{Id: j.Id, Attempt: j.Attempt}), jobState(j), j.Repository, j.Workflow+" / "+j.Name, j.Pool, a.when(j.CreatedAt), a.wait(j), a.ran(j), cmp.Or(j.Runner, j.RunnerName))
			}
			if err := t.print(w, "No jobs. Jobs whose labels match no pool are counted, not kept."); err != nil {
				return err
			}
			if resp.NextPageToken != "" {
				_, err = fmt.Fprintf(w, "More: --page %s\n", resp.NextPageToken)
			}
			return err
		})
	})
}

func jobState(j *v1.Job) cell {
	if j.State == "completed" && j.Conclusion != "" {
		return state(j.Conclusion)
	}
	return state(j.State)
}

// wait is how long a job waited, or has waited so far.
func (a *app) wait(j *v1.Job) string {
	switch {
	case j.QueueTime != nil:
		return span(j.QueueTime)
	case (j.State == "queued" || j.State == "waiting") && j.CreatedAt != nil:
		return short(max(0, a.Now().Sub(j.CreatedAt.AsTime()))) + "…"
	}
	return ""
}

func (a *app) ran(j *v1.Job) string {
	switch {
	case j.RunTime != nil:
		return span(j.RunTime)
	case j.State == "in_progress" && j.StartedAt != nil:
		return short(max(0, a.Now().Sub(j.StartedAt.AsTime()))) + "…"
	}
	return ""
}

// job finds out which job is meant: "123", "123/2" (the second attempt), or the
// address of a job or of a run with one job.
func (a *app) job(ctx context.Context, api *client, arg string) (*v1.JobRef, error) {
	if !strings.Contains(arg, "://") {
		id, attempt, ok := strings.Cut(arg, "/")
		ref := &v1.JobRef{}
		var err error
		if ref.Id, err = strconv.ParseInt(id, 10, 64); err != nil || ref.Id <= 0 {
			return nil, usagef("%q is not a job; give its id or the address of its page on GitHub", arg)
		}
		if ok {
			n, err := strconv.ParseInt(attempt, 10, 32)
			if err != nil || n <= 0 {
				return nil, usagef("%q is not an attempt of a job; write ID/ATTEMPT", arg)
			}
			ref.Attempt = int32(n)
		}
		return ref, nil
	}
	run, job, err := addressed(arg)
	switch {
	case err != nil:
		return nil, err
	case job != 0:
		return &v1.JobRef{Id: job}, nil
	}
	resp, err := api.jobs.ListJobs(ctx, &v1.ListJobsRequest{RunId: run})
	switch {
	case err != nil:
		return nil, err
	case len(resp.Jobs) == 0:
		return nil, unknownRun(run)
	case len(resp.Jobs) > 1:
		var ids []string
		for _, j := range resp.Jobs {
			ids = append(ids, fmt.Sprintf("%d (%s)", j.Id, j.Name))
		}
		return nil, usagef("run %d has several jobs; name one of %s", run, strings.Join(ids, ", "))
	}
	return &v1.JobRef{Id: resp.Jobs[0].Id, Attempt: resp.Jobs[0].Attempt}, nil
}

func unknownRun(run int64) error {
	return fmt.Errorf("there is no job of run %d here: its labels match no pool, or GitHub has not told of it", run)
}

// addressed reads the run and the job, 0 if none is named, out of the address of
// a page on GitHub.
func addressed(arg string) (run, job int64, err error) {
	u, err := url.Parse(arg)
	if err != nil {
		return 0, 0, usagef("%q is not an address", arg)
	}
	// /OWNER/NAME/actions/runs/RUN[/attempts/N][/job/JOB], and GitHub's API: /repos/OWNER/NAME/actions/jobs/JOB
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	for i := 0; i+1 < len(parts); i++ {
		n, err := strconv.ParseInt(parts[i+1], 10, 64)
		if err != nil || n <= 0 {
			continue
		}
		switch parts[i] {
		case "runs":
			run = n
		case "job", "jobs":
			job = n
		}
	}
	if run == 0 && job == 0 {
		return 0, 0, usagef("%s is not the address of a job or of a workflow run", arg)
	}
	return run, job, nil
}

const jobArg = "The job is named by its id, by ID/ATTEMPT, or by the address of its page on GitHub."

func (a *app) jobShow() *cobra.Command {
	c := &cobra.Command{Use: "show JOB", Short: "Show one job: what happened when, who saw it, what it cost", Long: "Show one job: what happened when, who saw it, what it cost.\n\n" + jobArg, Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeJobs}
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		ref, err := a.job(cmd.Context(), api, args[0])
		if err != nil {
			return err
		}
		resp, err := api.jobs.GetJob(cmd.Context(), &v1.GetJobRequest{Job: ref})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error { return a.printJob(w, resp) })
	})
}

// recorded says what became of the record of what a job did.
func recorded(resp *v1.GetJobResponse) cell {
	if len(resp.Traces) == 0 {
		if resp.NoTrace == "" {
			return cell{}
		}
		return cell{"no: " + strings.TrimPrefix(resp.NoTrace, "not recorded, because "), yellow}
	}
	c := traceLine(resp.Traces[0])
	if resp.Traces[0].Segments > 0 && resp.Traces[0].DeletedAt == nil {
		c.text += fmt.Sprintf("; muster trace show %s", jobRef(&v1.JobRef{Id: resp.Job.Id, Attempt: resp.Job.Attempt}))
	}
	if n := len(resp.Traces) - 1; n > 0 {
		c.text += fmt.Sprintf("; and %s before", plural(n, "trace"))
	}
	return c
}

func (a *app) printJob(w io.Writer, resp *v1.GetJobResponse) error {
	j := resp.Job
	err := a.facts(w,
		"job", cell{jobRef(&v1.JobRef{Id: j.Id, Attempt: j.Attempt}), bold}, "state", jobState(j), "repository", j.Repository, "workflow", j.Workflow, "name", j.Name,
		"run", strconv.FormatInt(j.RunId, 10), "branch", strings.TrimSpace(j.HeadBranch+" "+j.HeadSha), "labels", strings.Join(j.Labels, ", "), "pool", cmp.Or(j.Pool, "none"),
		"runner", strings.TrimSpace(j.Runner+" "+j.RunnerName), "waited", a.wait(j), "ran", a.ran(j), "recorded", recorded(resp), "log trace_id", j.TraceId, "page", j.Url)
	if err != nil {
		return err
	}
	if r := resp.Receipt; r != nil {
		fmt.Fprintf(w, "\n%s queue %s, boot %s, idle %s, run %s; billed %s at %s a minute: %s\n", a.paint(bold, "Receipt:"),
			span(r.Queue), span(r.Boot), span(r.Idle), span(r.Run), span(r.Billed), money(r.PriceMicroUsdPerMinute), money(r.CostMicroUsd))
	}
	if len(resp.Timeline) > 0 {
		fmt.Fprintln(w)
		t := a.table("WHEN", "AFTER", "WHAT")
		for i, m := range resp.Timeline {
			after := ""
			if i > 0 {
				after = "+" + short(m.At.AsTime().Sub(resp.Timeline[i-1].At.AsTime()))
			}
			t.row(a.when(m.At), after, m.Text)
		}
		if err := t.print(w, ""); err != nil {
			return err
		}
	}
	if len(resp.Sightings) > 0 {
		fmt.Fprintln(w)
		t := a.table("SEEN", "BY", "AS", "DELIVERY")
		for _, s := range resp.Sightings {
			t.row(a.when(s.At), s.Sense, state(s.State), s.Delivery)
		}
		return t.print(w, "")
	}
	return nil
}

func (a *app) jobWhy() *cobra.Command {
	c := &cobra.Command{Use: "why JOB", Short: "Say why a job is still waiting", Long: "Say why a job is still waiting: causes, the most likely first, and what they are based on.\n\n" + jobArg + "\nThe address of a run asks about all of its jobs that wait.",
		Example: "  muster job why 48211905223\n  muster job why https://github.com/octo/app/actions/runs/17/job/48211905223\n  muster job why https://github.com/octo/app/actions/runs/17", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeJobs}
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		if strings.Contains(args[0], "://") {
			run, job, err := addressed(args[0])
			if err != nil {
				return err
			}
			if job == 0 {
				return a.runWhy(cmd.Context(), api, run)
			}
		}
		ref, err := a.job(cmd.Context(), api, args[0])
		if err != nil {
			return err
		}
		resp, err := api.jobs.ExplainJob(cmd.Context(), &v1.ExplainJobRequest{Job: ref})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error { return a.printWhy(w, resp) })
	})
}

// runWhy explains every job of a run that waits; of a run whose only job does not
// wait, it says so. With --json, one object per job.
func (a *app) runWhy(ctx context.Context, api *client, run int64) error {
	resp, err := api.jobs.ListJobs(ctx, &v1.ListJobsRequest{RunId: run, PageSize: 500})
	if err != nil {
		return err
	}
	if len(resp.Jobs) == 0 {
		return unknownRun(run)
	}
	var waiting []*v1.Job
	for _, j := range resp.Jobs {
		if j.State == "queued" || j.State == "waiting" || len(resp.Jobs) == 1 {
			waiting = append(waiting, j)
		}
	}
	slices.Reverse(waiting) // the first queued first
	if len(waiting) == 0 && !a.json {
		_, err := fmt.Fprintf(a.Stdout, "none of the %s of run %d waits; muster run show %d shows them\n", plural(len(resp.Jobs), "job"), run, run)
		return err
	}
	for i, j := range waiting {
		why, err := api.jobs.ExplainJob(ctx, &v1.ExplainJobRequest{Job: &v1.JobRef{Id: j.Id, Attempt: j.Attempt}})
		if err != nil {
			return err
		}
		if i > 0 && !a.json {
			fmt.Fprintln(a.Stdout)
		}
		if err := a.show(why, func(w io.Writer) error { return a.printWhy(w, why) }); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printWhy(w io.Writer, resp *v1.ExplainJobResponse) error {
	j := resp.Job
	fmt.Fprintf(w, "job %s (%s / %s of %s) is %s", jobRef(&v1.JobRef{Id: j.Id, Attempt: j.Attempt}), j.Workflow, j.Name, j.Repository, a.paint(jobState(j).style, jobState(j).text))
	if wait := a.wait(j); wait != "" && j.QueueTime == nil {
		fmt.Fprintf(w, " for %s", strings.TrimSuffix(wait, "…"))
	}
	fmt.Fprintln(w, ".")
	for i, c := range resp.Causes {
		fmt.Fprintf(w, "\n%d. %s %s\n", i+1, a.paint(bold, c.Code+":"), c.Text)
		if c.Since != nil {
			fmt.Fprintln(w, a.paint(dim, "   since "+a.when(c.Since)))
		}
	}
	if len(resp.Causes) == 0 {
		fmt.Fprintln(w, "\nNothing keeps it.")
	}
	if j.State != "queued" || j.Pool == "" {
		return nil
	}
	fmt.Fprintln(w)
	last := "none yet"
	if resp.LastDecision != nil {
		last = a.decisionLine(resp.LastDecision)
	}
	return a.facts(w, "labels", strings.Join(j.Labels, ", "), "pool", j.Pool, "ahead of it", plural(int(resp.Ahead), "queued job"), "last decision", last,
		"more", fmt.Sprintf("muster pool decisions %s; muster job show %s", j.Pool, jobRef(&v1.JobRef{Id: j.Id, Attempt: j.Attempt})))
}

func (a *app) jobLog() *cobra.Command {
	c := &cobra.Command{Use: "log JOB", Short: "Print a completed job's log, from GitHub", Long: "Print a completed job's log, from GitHub.\n\n" + jobArg, Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeJobs}
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		ref, err := a.job(cmd.Context(), api, args[0])
		if err != nil {
			return err
		}
		stream, err := api.jobs.GetJobLog(cmd.Context(), &v1.GetJobLogRequest{Job: ref})
		if err != nil {
			return err
		}
		defer stream.Close()
		for stream.Receive() {
			if a.json {
				err = a.showJSON(stream.Msg(), "")
			} else {
				_, err = a.Stdout.Write(stream.Msg().Data)
			}
			if err != nil {
				return err
			}
		}
		return stream.Err()
	})
}

// watchTick is how often a watched job is looked at although nothing was told
// of it: the feed may lose a word, and causes change without one.
const watchTick = 10 * time.Second

func (a *app) jobWatch() *cobra.Command {
	c := &cobra.Command{
		Use: "watch [JOB]", Short: "Follow one job until it ends, or all jobs", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeJobs,
		Long: "Follow one job until it ends, or all jobs until interrupted. With --json, one object per line.\n\n" + jobArg,
	}
	exitStatus := c.Flags().Bool("exit-status", false, "exit with status 1 unless the job succeeds")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		ctx, cancel := context.WithCancel(cmd.Context())
		defer cancel()
		var ref *v1.JobRef
		if len(args) == 1 {
			var err error
			if ref, err = a.job(ctx, api, args[0]); err != nil {
				return err
			}
		}
		changes, failed := a.watch(ctx, api)
		w := &watcher{app: a, api: api, seen: map[string]string{}}
		tick := time.NewTicker(watchTick)
		defer tick.Stop()
		for {
			var id string
			select {
			case <-ctx.Done():
				return nil // interrupted: what was to see was seen
			case err := <-failed:
				if cmd.Context().Err() != nil {
					return nil
				}
				return err
			case id = <-changes:
			case <-tick.C:
			}
			if ref == nil {
				if id == "" {
					continue
				}
				one, err := a.job(ctx, api, id)
				if err != nil {
					continue // not a job's id
				}
				if _, err := w.look(ctx, one, false); err != nil {
					return err
				}
				continue
			}
			if id != "" && id != fmt.Sprint(ref.Id) && !strings.HasPrefix(id, fmt.Sprint(ref.Id)+"/") {
				continue
			}
			j, err := w.look(ctx, ref, true)
			if err != nil {
				return err
			}
			if j.State == "completed" {
				if *exitStatus && j.Conclusion != "success" {
					return errReported
				}
				return nil
			}
		}
	})
}

// watch follows the feed of changes of jobs in a goroutine that ends with ctx:
// an empty id says that it has begun. failed gets one error when the feed ends.
func (a *app) watch(ctx context.Context, api *client) (changes <-chan string, failed <-chan error) {
	ids, end := make(chan string), make(chan error, 1)
	go func() {
		stream, err := api.system.Watch(ctx, &v1.WatchRequest{Kinds: []string{"job"}})
		if err != nil {
			end <- err
			return
		}
		defer stream.Close()
		for stream.Receive() {
			select {
			case ids <- stream.Msg().Id:
			case <-ctx.Done():
				end <- ctx.Err()
				return
			}
		}
		if err = stream.Err(); err == nil {
			err = fmt.Errorf("the control plane at %s ended the feed: it is stopping", a.address())
		}
		end <- err
	}()
	return ids, end
}

// watcher prints what is new about jobs.
type watcher struct {
	*app
	api  *client
	seen map[string]string // by job: what was printed last
}

// look prints the job if it differs from what was printed last; with why, also
// the first cause of a wait.
func (w *watcher) look(ctx context.Context, ref *v1.JobRef, why bool) (*v1.Job, error) {
	resp, err := w.api.jobs.ExplainJob(ctx, &v1.ExplainJobRequest{Job: ref})
	if err != nil {
		return nil, err
	}
	j := resp.Job
	name := jobRef(&v1.JobRef{Id: j.Id, Attempt: j.Attempt})
	cause := ""
	if why && len(resp.Causes) > 0 && (j.State == "queued" || j.State == "waiting") {
		cause = resp.Causes[0].Code
	}
	now := strings.Join([]string{j.State, j.Conclusion, j.RunnerName, cause}, "|")
	if w.seen[name] == now {
		return j, nil
	}
	w.seen[name] = now
	if w.json {
		return j, w.showJSON(resp, "")
	}
	s := jobState(j)
	line := fmt.Sprintf("%s  %s  %s  %s / %s of %s", w.Now().Format("15:04:05"), name, w.paint(s.style, s.text), j.Workflow, j.Name, j.Repository)
	if runner := cmp.Or(j.Runner, j.RunnerName); runner != "" {
		line += " on " + runner
	}
	if j.State == "completed" && j.RunTime != nil {
		line += fmt.Sprintf(", waited %s, ran %s", span(j.QueueTime), span(j.RunTime))
	}
	if cause != "" {
		line += "\n          " + resp.Causes[0].Text
	}
	_, err = fmt.Fprintln(w.Stdout, line)
	return j, err
}

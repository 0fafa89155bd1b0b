package lifecycle

import (
	"context"
	"fmt"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
)

// hint notes which job a runner says that it took, if the books know exactly one that it can
// be, and otherwise of which run. Then nobody has to look for the runner's job among all that a
// repository runs; GitHub is asked about the one or the run, should it say nothing until the
// runner has ended. A hint names neither the job's runner nor its state: whoever controls the
// machine may say anything.
func (c *Client) hint(ctx context.Context, r muster.Runner, said trace.Job) error {
	if said.RunID <= 0 || said.Repository == "" {
		return nil
	}
	jobs, err := c.Store.JobsOfRun(ctx, r.Workspace, said.Repository, said.RunID)
	if err != nil {
		return fmt.Errorf("look up the jobs of run %d: %w", said.RunID, err)
	}
	key, ok := meant(jobs, said)
	run := muster.RunHint{Repository: said.Repository, Run: said.RunID, Attempt: said.Attempt}
	if ok {
		run = muster.RunHint{}
	} else if run == r.RunHint {
		return nil
	}
	_, err = c.Store.UpdateRunner(ctx, r.Workspace, r.ID, c.Now(), "", func(r *muster.Runner) error {
		if r.Job.ID == 0 {
			r.JobHint, r.RunHint = key, run
		}
		return nil
	})
	return err
}

// meant is the one job among those of a run that is meant by what a runner says of its own:
// one that waits, or that runs on nobody known.
func meant(jobs []muster.Job, said trace.Job) (key muster.JobKey, ok bool) {
	for _, j := range jobs {
		open := j.State == muster.JobQueued || j.State == muster.JobInProgress
		if !open || j.Runner != "" || said.Attempt != 0 && said.Attempt != j.Key.Attempt || said.Name != "" && said.Name != j.Name {
			continue
		}
		if ok {
			return muster.JobKey{}, false
		}
		key, ok = j.Key, true
	}
	return key, ok
}

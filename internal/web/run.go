package web

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// maxRunJobs is the most jobs of a run that are shown.
const maxRunJobs = 1000

type runView struct {
	muster.Run
	URL     string
	Rows    []runJobRow
	Cost    int64
	RunTime time.Duration
	// Traced: there is a trace of at least one of its jobs.
	Traced bool
}

// runJobRow is a job of a run with its receipt, nil until it is written.
type runJobRow struct {
	jobRow
	Receipt *muster.Receipt
	Record  *traceSummary
}

// Verdict is the run's conclusion or, until it has one, its state.
func (v runView) Verdict() string {
	if v.Conclusion != "" {
		return v.Conclusion
	}
	return string(v.State)
}

// run shows a workflow run: from here every job, runner and receipt is a link away.
func (s *site) run(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id < 1 {
		return muster.Errorf(muster.CodeNotFound, "there is no run %q: a run's id is a number", r.PathValue("id"))
	}
	jobs, err := s.Reads.Jobs(ctx, JobQuery{RunID: id, Limit: maxRunJobs})
	if err != nil {
		return err
	}
	run, ok := muster.RunOf(jobs)
	if !ok {
		return muster.Errorf(muster.CodeNotFound, "no job of run %d is known", id)
	}
	v := runView{Run: run}
	rows, err := s.jobRows(ctx, run.Jobs, s.Now())
	if err != nil {
		return err
	}
	records, err := s.tracesOf(ctx, TraceQuery{RunID: id, Limit: maxRunJobs})
	if err != nil {
		return err
	}
	v.Traced = len(records) > 0
	for _, row := range rows {
		receipt, err := optional(s.Reads.Receipt(ctx, row.Key))
		if err != nil {
			return err
		}
		if receipt != nil {
			v.Cost += receipt.CostMicroUSD
		}
		if d, ok := row.RunTime(); ok {
			v.RunTime += d
		}
		if before, _, found := strings.Cut(row.URL, fmt.Sprintf("/runs/%d", id)); found && v.URL == "" {
			v.URL = fmt.Sprintf("%s/runs/%d", before, id)
		}
		v.Rows = append(v.Rows, runJobRow{row, receipt, recordOf(row.Key, records)})
	}
	return s.show(w, r, "run", page{Title: run.Workflow, Section: "jobs", Body: v})
}

// recordOf is the trace of a job among those of its run, nil if there is none.
func recordOf(k muster.JobKey, records []traceSummary) *traceSummary {
	i := slices.IndexFunc(records, func(t traceSummary) bool { return t.Job == k })
	if i < 0 {
		return nil
	}
	return &records[i]
}

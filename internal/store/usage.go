package store

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/muster-ci/muster"
)

// UsageFilter selects receipts by completion and wastes by time; the zero value
// selects all.
type UsageFilter struct {
	// Since and Until are the window [Since, Until); zero means open.
	Since, Until time.Time
	Pool         string
	// Repository is owner/name. No waste belongs to a repository.
	Repository string
	// Limit is how many to return at most, up to 200,000; 0 means 10,000.
	// UsageSummary ignores it.
	Limit int
}

// maxBooks bounds what percentiles are computed from.
const maxBooks = 200_000

// UsageRow is one line of a summary. Every job is one of succeeded, failed,
// cancelled (all of which ran) and never run.
type UsageRow struct {
	Key                                          string
	Jobs, Succeeded, Failed, Cancelled, NeverRan int
	// QueueP50 and QueueP90 are exact, by nearest rank, over the jobs that ran (4-49).
	QueueP50, QueueP90 time.Duration
	Run, Billed        time.Duration
	CostMicroUSD       int64
	// Wasted is how many runners never ran a job, and WasteMicroUSD what they cost.
	WasteMicroUSD int64
	Wasted        int
}

// WriteReceipt writes what a job cost, once: fresh is false, and nothing
// changes, if the job's attempt has a receipt already (4-48).
func (s *Store) WriteReceipt(ctx context.Context, r muster.Receipt) (fresh bool, err error) {
	r = normal(r)
	r.Job.Attempt = max(1, r.Job.Attempt)
	text, err := encode(r)
	if err != nil {
		return false, err
	}
	err = s.write(ctx, func(t *tx) error {
		j, known, err := one[muster.Job](t, "SELECT doc FROM jobs WHERE workspace = ? AND id = ? AND attempt = ?", r.Workspace, r.Job.ID, r.Job.Attempt)
		if err != nil {
			return err
		}
		ran := j.RanOnRunner()
		if !known {
			ran = r.Runner != "" || r.Run > 0 || r.Billed > 0
		}
		n, err := t.exec(`INSERT INTO receipts (workspace, job, attempt, pool, project, cost, repository, completed_at, ran, doc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO NOTHING`, r.Workspace, r.Job.ID, r.Job.Attempt, r.Pool, r.Project, r.CostMicroUSD, fold(r.Repository), r.CompletedAt, ran, text)
		if fresh = n == 1; fresh {
			t.changed("usage", r.Workspace, r.Job.String())
		}
		return err
	})
	return fresh && err == nil, err
}

// WriteWaste writes what a runner cost that never ran a job, once per runner.
func (s *Store) WriteWaste(ctx context.Context, w muster.Waste) (fresh bool, err error) {
	w = normal(w)
	text, err := encode(w)
	if err != nil {
		return false, err
	}
	err = s.write(ctx, func(t *tx) error {
		n, err := t.exec("INSERT INTO wastes (workspace, runner, pool, project, cost, at, doc) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
			w.Workspace, w.Runner, w.Pool, w.Project, w.CostMicroUSD, w.At, text)
		if fresh = n == 1; fresh {
			t.changed("usage", w.Workspace, string(w.Runner))
		}
		return err
	})
	return fresh && err == nil, err
}

// Receipt returns the receipt of one attempt of a job.
func (s *Store) Receipt(ctx context.Context, workspace string, k muster.JobKey) (muster.Receipt, error) {
	var r muster.Receipt
	err := s.read(ctx, func(t *tx) (err error) {
		var found bool
		r, found, err = one[muster.Receipt](t, "SELECT doc FROM receipts WHERE workspace = ? AND job = ? AND attempt = ?", workspace, k.ID, max(1, k.Attempt))
		if err == nil && !found {
			err = muster.Errorf(muster.CodeNotFound, "there is no receipt of job %s", k)
		}
		return err
	})
	return r, err
}

// Receipts returns receipts, the last completed first.
func (s *Store) Receipts(ctx context.Context, workspace string, f UsageFilter) ([]muster.Receipt, error) {
	w := f.receipts(workspace)
	w.limit("completed_at DESC, job DESC, attempt DESC", cmp.Or(f.Limit, maxRows), maxBooks)
	var out []muster.Receipt
	err := s.read(ctx, func(t *tx) (err error) {
		out, err = all[muster.Receipt](t, "SELECT doc FROM receipts"+w.text.String(), w.args...)
		return err
	})
	return out, err
}

// Wastes returns wastes, the last first; none if the filter names a repository.
func (s *Store) Wastes(ctx context.Context, workspace string, f UsageFilter) ([]muster.Waste, error) {
	if f.Repository != "" {
		return nil, nil
	}
	w := f.wastes(workspace)
	w.limit("at DESC, runner", cmp.Or(f.Limit, maxRows), maxBooks)
	var out []muster.Waste
	err := s.read(ctx, func(t *tx) (err error) {
		out, err = all[muster.Waste](t, "SELECT doc FROM wastes"+w.text.String(), w.args...)
		return err
	})
	return out, err
}

// UsageSummary adds up receipts and wastes by "workflow", "repository", "pool" or
// "day" (of completion, in UTC), in the order of the key. By workflow or
// repository, waste has the key "", as no job can be blamed for it. CodeInvalid
// for another word.
func (s *Store) UsageSummary(ctx context.Context, workspace string, f UsageFilter, by string) ([]UsageRow, error) {
	receiptKey := map[string]func(muster.Receipt) string{
		"workflow":   func(r muster.Receipt) string { return r.Workflow },
		"repository": func(r muster.Receipt) string { return r.Repository },
		"pool":       func(r muster.Receipt) string { return r.Pool },
		"day":        func(r muster.Receipt) string { return r.CompletedAt.Format(time.DateOnly) },
	}[by]
	if receiptKey == nil {
		return nil, muster.Errorf(muster.CodeInvalid, "usage by %q: use workflow, repository, pool or day", by)
	}
	type sum struct {
		UsageRow
		queues []time.Duration
	}
	sums := map[string]*sum{}
	at := func(key string) *sum {
		if sums[key] == nil {
			sums[key] = &sum{UsageRow: UsageRow{Key: key}}
		}
		return sums[key]
	}
	err := s.snapshot(ctx, func(t *tx) error {
		w := f.receipts(workspace)
		err := t.rows("SELECT ran, doc FROM receipts"+w.text.String(), w.args, func(scan scanner) error {
			var ran int64
			var text string
			if err := scan(&ran, &text); err != nil {
				return err
			}
			r, err := decode[muster.Receipt](text)
			if err != nil {
				return err
			}
			row := at(receiptKey(r))
			row.add(r, ran != 0)
			if ran != 0 {
				row.queues = append(row.queues, r.Queue)
			}
			return nil
		})
		if err != nil || f.Repository != "" {
			return err
		}
		w = f.wastes(workspace)
		wastes, err := all[muster.Waste](t, "SELECT doc FROM wastes"+w.text.String(), w.args...)
		for _, waste := range wastes {
			key := ""
			switch by {
			case "pool":
				key = waste.Pool
			case "day":
				key = waste.At.Format(time.DateOnly)
			}
			row := at(key)
			row.Wasted++
			row.WasteMicroUSD += waste.CostMicroUSD
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []UsageRow
	for _, row := range slices.SortedFunc(maps.Values(sums), func(a, b *sum) int { return cmp.Compare(a.Key, b.Key) }) {
		slices.Sort(row.queues)
		row.QueueP50, row.QueueP90 = nearestRank(row.queues, 50), nearestRank(row.queues, 90)
		out = append(out, row.UsageRow)
	}
	return out, nil
}

func (u *UsageRow) add(r muster.Receipt, ran bool) {
	u.Jobs++
	u.Run += r.Run
	u.Billed += r.Billed
	u.CostMicroUSD += r.CostMicroUSD
	switch {
	case !ran:
		u.NeverRan++
	case r.Conclusion == "success" || r.Conclusion == "neutral" || r.Conclusion == "skipped":
		u.Succeeded++
	case r.Conclusion == "cancelled":
		u.Cancelled++
	default:
		u.Failed++
	}
}

// nearestRank is the smallest value with at least percent of all at or below it.
func nearestRank(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}

func (f UsageFilter) receipts(workspace string) *where {
	w := f.window(workspace, "completed_at")
	if f.Repository != "" {
		w.and("repository = ?", fold(f.Repository))
	}
	return w
}

func (f UsageFilter) wastes(workspace string) *where { return f.window(workspace, "at") }

func (f UsageFilter) window(workspace, column string) *where {
	w := &where{}
	w.and("workspace = ?", workspace)
	if !f.Since.IsZero() {
		w.and(column+" >= ?", f.Since)
	}
	if !f.Until.IsZero() {
		w.and(column+" < ?", f.Until)
	}
	if f.Pool != "" {
		w.and("pool = ?", f.Pool)
	}
	return w
}

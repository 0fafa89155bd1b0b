package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/schedule"
)

// snapshot is everything that a decision about a pool is taken from: what the
// store has of its jobs and runners, and what is known besides.
func (a *Activities) snapshot(ctx context.Context, ref PoolRef, now time.Time) (muster.Snapshot, error) {
	snap, err := a.Store.PoolSnapshot(ctx, ref.Workspace, ref.Pool)
	if err != nil {
		return snap, err
	}
	if snap.Listens() {
		runners, err := a.Store.NewestRunners(ctx, ref.Workspace, ref.Pool, muster.Sayers)
		if err != nil {
			return snap, fmt.Errorf("runners of pool %s: %w", ref.Pool, err)
		}
		snap.Hear(runners, now)
	}
	// A configuration with a schedule that cannot be read does not start.
	if snap.Windows, err = schedule.Windows(snap.Pool.Schedules, now); err != nil {
		return snap, fmt.Errorf("schedules of pool %s: %w", ref.Pool, err)
	}
	// A platform that is full or broken is not asked in a hot loop (4-52).
	if r := a.refusal(ctx, ref); now.Before(r.until()) {
		snap.ProviderHeld = r.until()
		snap.ProviderError = fmt.Sprintf("it failed %d times in a row, last: %s", r.Count, r.Text)
	} else {
		snap.ProviderRoom = r.Room
	}
	if a.DemandKnown != nil && !a.DemandKnown(ctx, snap.Pool, now) {
		snap.DemandUnknown = true
	}
	if snap.Spending, err = a.spending(ctx, snap.Pool, now); err != nil {
		return snap, err
	}
	snap.Canary, err = a.canary(ctx, snap.Pool, now)
	return snap, err
}

// spendingFor is how long the sum of a project's month is good for: it moves by
// one job's cost at a time.
const spendingFor = 10 * time.Second

// ledger remembers what projects spent, so that a burst of decisions adds up a
// month's receipts once. The zero value is ready.
type ledger struct {
	mu    sync.Mutex
	spent map[string]spent
}

type spent struct {
	at       time.Time
	microUSD int64
}

// spending is how the pool's project stands with its budget of this month.
func (a *Activities) spending(ctx context.Context, p muster.Pool, now time.Time) (muster.Spending, error) {
	for _, b := range a.Budgets {
		if b.Project != p.Project {
			continue
		}
		a.ledger.mu.Lock()
		defer a.ledger.mu.Unlock()
		key := p.Workspace + "/" + p.Project
		s, ok := a.ledger.spent[key]
		if !ok || now.Sub(s.at) >= spendingFor || now.Month() != s.at.Month() {
			sum, err := a.Store.SpentSince(ctx, p.Workspace, p.Project, monthOf(now))
			if err != nil {
				return muster.Spending{}, fmt.Errorf("spending of project %s: %w", p.Project, err)
			}
			s = spent{now, sum}
			if a.ledger.spent == nil {
				a.ledger.spent = map[string]spent{}
			}
			a.ledger.spent[key] = s
			if err := a.noteSpending(ctx, p, b.Spend(sum), now); err != nil {
				return muster.Spending{}, err
			}
		}
		return b.Spend(s.microUSD), nil
	}
	return muster.Spending{}, nil
}

// noteSpending records a finding when a project's budget enters another state,
// once, whichever of the project's pools sees it first.
func (a *Activities) noteSpending(ctx context.Context, p muster.Pool, s muster.Spending, now time.Time) error {
	key := "budget/" + p.Workspace + "/" + p.Project
	is := monthOf(now).Format("2006-01 ") + string(s.State)
	was, err := a.Store.Watermark(ctx, key)
	if err != nil || was == is {
		return err
	}
	if err := a.Store.SetWatermark(ctx, key, is); err != nil {
		return fmt.Errorf("remember the budget of project %s: %w", p.Project, err)
	}
	if s.State != muster.SpendingFine {
		a.find(ctx, muster.Finding{At: now, Workspace: p.Workspace, Kind: "budget_" + string(s.State), Subject: p.Project, Action: s.String()})
	}
	return nil
}

// monthOf is the beginning of the calendar month in UTC.
func monthOf(t time.Time) time.Time {
	y, m, _ := t.UTC().Date()
	return time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
}

// canaryState is what is remembered of a pool's canary.
type canaryState struct {
	Offering string    `json:"offering"`
	Since    time.Time `json:"since"`
	// RevertedAt is zero while the canary flies.
	RevertedAt time.Time `json:"reverted_at,omitzero"`
}

func canaryKey(p muster.Pool) string { return "canary/" + p.Workspace + "/" + p.Name }

// canaryWindow is how many of a pool's newest runners a canary's share and
// failures are counted over.
const canaryWindow = 500

// canary counts what became of the pool's canary since its offering was named,
// and gives it up for good when it fails too often. Naming another offering, or
// naming none for a while, starts anew.
func (a *Activities) canary(ctx context.Context, p muster.Pool, now time.Time) (muster.CanaryCount, error) {
	text, err := a.Store.Watermark(ctx, canaryKey(p))
	if err != nil {
		return muster.CanaryCount{}, fmt.Errorf("canary of pool %s: %w", p.Name, err)
	}
	if p.Canary.Offering == "" {
		if text != "" {
			err = a.Store.SetWatermark(ctx, canaryKey(p), "")
		}
		return muster.CanaryCount{}, err
	}
	var state canaryState
	if text == "" || json.Unmarshal([]byte(text), &state) != nil || state.Offering != p.Canary.Offering {
		state = canaryState{Offering: p.Canary.Offering, Since: now}
		if err := a.setCanary(ctx, p, state); err != nil {
			return muster.CanaryCount{}, err
		}
	}
	count := muster.CanaryCount{Reverted: !state.RevertedAt.IsZero()}
	if count.Reverted {
		return count, nil
	}
	runners, err := a.Store.NewestRunners(ctx, p.Workspace, p.Name, canaryWindow)
	if err != nil {
		return count, fmt.Errorf("runners of pool %s: %w", p.Name, err)
	}
	last := ""
	for _, r := range runners {
		if r.CreatedAt.Before(state.Since) {
			continue
		}
		count.Made++
		if r.Offering != p.Canary.Offering {
			continue
		}
		count.Canaries++
		if r.Failed {
			count.Failed++
			if last == "" {
				last = r.Reason
			}
		}
	}
	if muster.CanaryFailing(p.Canary, count) {
		state.RevertedAt, count.Reverted = now, true
		if err := a.setCanary(ctx, p, state); err != nil {
			return count, err
		}
		a.find(ctx, muster.Finding{At: now, Workspace: p.Workspace, Kind: "canary_reverted", Subject: p.Name,
			Action: fmt.Sprintf("offering %s is used no more: %d of %d canaries failed, last: %s", p.Canary.Offering, count.Failed, count.Canaries, strings.TrimSpace(last))})
	}
	return count, nil
}

func (a *Activities) setCanary(ctx context.Context, p muster.Pool, s canaryState) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := a.Store.SetWatermark(ctx, canaryKey(p), string(b)); err != nil {
		return fmt.Errorf("remember canary of pool %s: %w", p.Name, err)
	}
	return nil
}

// handOver moves the jobs that a decision gives to the overflow pool, and wakes it.
func (a *Activities) handOver(ctx context.Context, snap muster.Snapshot, d muster.Decision) error {
	if len(d.Overflow) == 0 {
		return nil
	}
	p := snap.Pool
	n, err := a.Store.MoveJobs(ctx, p.Workspace, p.Name, p.Overflow.Pool, d.Overflow)
	if err != nil {
		return fmt.Errorf("hand %d jobs to pool %s: %w", len(d.Overflow), p.Overflow.Pool, err)
	}
	a.Log.Info("jobs overflow", "pool", p.Name, "to", p.Overflow.Pool, "jobs", n)
	return a.wake.pool(ctx, PoolRef{p.Workspace, p.Overflow.Pool})
}

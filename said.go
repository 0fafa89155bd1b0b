package muster

import (
	"cmp"
	"slices"
	"time"
)

const (
	// SaidFor is how long a runner's word about its job counts while it runs, and
	// SaidAfter after it has ended: by then GitHub was asked about the job.
	SaidFor, SaidAfter = 2 * time.Minute, 45 * time.Second
	// SayWithin is how long its agent may take to say which job it is: so long a runner
	// that has just taken one is believed to have the one that it was made for.
	SayWithin = 10 * time.Second
	// Sayers is how many of a pool's newest runners are worth listening to.
	Sayers = 64
)

// Listens reports whether Hear can change anything: only of queued jobs nobody knows what
// became, and scale sets and kept machines tell in ways of their own.
func (s Snapshot) Listens() bool {
	return s.Pool.ScaleSet == "" && !s.Pool.Keeps() &&
		slices.ContainsFunc(s.Jobs, func(j PlanJob) bool { return j.State == JobQueued })
}

// Hear takes queued jobs for running that runners of the pool say they took: GitHub's
// in_progress comes late, or never, and a runner made for such a job finds nothing to do.
func (s *Snapshot) Hear(runners []Runner, now time.Time) {
	said := said(runners, now)
	s.Jobs = slices.Clone(s.Jobs) // others may hold them
	for i, j := range s.Jobs {
		r := cmp.Or(said[JobKey{ID: j.ID, Attempt: max(1, j.Attempt)}], said[JobKey{ID: j.ID}])
		if r != "" && j.State == JobQueued {
			s.Jobs[i].State, s.Jobs[i].Said = JobInProgress, r
		}
	}
}

// said are the jobs that runners say they took, as long as that counts, by a key without
// an attempt where that is not known. One runner speaks for one job, and not for long: what
// its agent says can be a lie, and a lie must cost a job no more than a short wait.
func said(runners []Runner, now time.Time) map[JobKey]RunnerID {
	said := map[JobKey]RunnerID{}
	for _, r := range runners {
		ended := !r.FinishedAt.IsZero()
		key, until := r.JobHint, r.ActiveAt.Add(SaidFor)
		switch {
		case r.Job.ID != 0 || r.ActiveAt.IsZero():
			continue
		case key.ID == 0:
			key, until = JobKey{ID: r.For}, r.ActiveAt.Add(SayWithin)
			if r.For == 0 || r.RunHint.Run != 0 || ended {
				continue
			}
		case ended:
			until = r.FinishedAt.Add(SaidAfter)
		}
		if now.Before(until) {
			said[key] = r.ID
		}
	}
	return said
}

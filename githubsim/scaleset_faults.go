package githubsim

import "time"

// RedeliverMessages hands out an unacknowledged message again although the poll
// says that it knows it.
func (f *Faults) RedeliverMessages(rate float64) {
	f.change(func(n *FaultSettings) { n.RedeliverMessages = rate })
}

// ZeroCapacityTrap keeps jobs that are queued while a set's listener announces 0
// from that set for ever.
func (f *Faults) ZeroCapacityTrap(rate float64) {
	f.change(func(n *FaultSettings) { n.ZeroCapacityTrap = rate })
}

// AcquireFlow makes jobs be offered by JobAvailable, so that they must be
// acquired. With Config.EnterpriseServer all are.
func (f *Faults) AcquireFlow(rate float64) { f.change(func(n *FaultSettings) { n.AcquireFlow = rate }) }

// SessionLinger keeps the session of a silent listener for d.
func (f *Faults) SessionLinger(d time.Duration) {
	f.change(func(n *FaultSettings) { n.SessionLinger = Duration(d) })
}

// QueueUnauthorized answers 401 to good tokens of scale sets' queues.
func (f *Faults) QueueUnauthorized(rate float64) {
	f.change(func(n *FaultSettings) { n.QueueUnauthorized = rate })
}

// AdminUnauthorized answers 401 to good tokens of the actions service.
func (f *Faults) AdminUnauthorized(rate float64) {
	f.change(func(n *FaultSettings) { n.AdminUnauthorized = rate })
}

// ExpireQueueTokens makes all tokens of scale sets' queues of this moment invalid.
func (f *Faults) ExpireQueueTokens() {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	now := f.s.now()
	for _, t := range f.s.queueTokens {
		t.expires = now
	}
}

// ExpireAdminTokens makes all tokens of the actions service of this moment invalid.
func (f *Faults) ExpireAdminTokens() {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	now := f.s.now()
	for _, t := range f.s.registrations {
		if t.purpose == "pipelines" {
			t.expires = now
		}
	}
}

// LateMessages delays JobStarted and JobCompleted, each by a random time below most.
func (f *Faults) LateMessages(most time.Duration) {
	f.change(func(n *FaultSettings) { n.LateMessages = Duration(most) })
}

// DuplicateMessages tells JobStarted and JobCompleted twice.
func (f *Faults) DuplicateMessages(rate float64) {
	f.change(func(n *FaultSettings) { n.DuplicateMessages = rate })
}

// LoseMessages never tells JobStarted and JobCompleted.
func (f *Faults) LoseMessages(rate float64) {
	f.change(func(n *FaultSettings) { n.LoseMessages = rate })
}

// NamelessMessages tells JobStarted and JobCompleted without the runner.
func (f *Faults) NamelessMessages(rate float64) {
	f.change(func(n *FaultSettings) { n.NamelessMessages = rate })
}

// EarlyCompleted tells JobCompleted of a job that just started.
func (f *Faults) EarlyCompleted(rate float64) {
	f.change(func(n *FaultSettings) { n.EarlyCompleted = rate })
}

// LapseAssignments takes jobs that no runner took within d from their set, up to
// three times each. It concerns jobs that are given away from now on.
func (f *Faults) LapseAssignments(d time.Duration) {
	f.change(func(n *FaultSettings) { n.LapseAssignments = Duration(d) })
}

// ZeroStatistics sends messages whose statistics are all 0.
func (f *Faults) ZeroStatistics(rate float64) {
	f.change(func(n *FaultSettings) { n.ZeroStatistics = rate })
}

// StatisticsOnly ends polls with a message that has statistics and no body, and
// not with 202.
func (f *Faults) StatisticsOnly(rate float64) {
	f.change(func(n *FaultSettings) { n.StatisticsOnly = rate })
}

// Crossover gives a set's runner the newest job of the set and not the oldest.
func (f *Faults) Crossover(rate float64) { f.change(func(n *FaultSettings) { n.Crossover = rate }) }

// ArbitrarySets gives a job to any of the sets that fit, not to the closest.
func (f *Faults) ArbitrarySets(rate float64) {
	f.change(func(n *FaultSettings) { n.ArbitrarySets = rate })
}

// EmptyQueueURLs answers sessions without the address of their messages.
func (f *Faults) EmptyQueueURLs(rate float64) {
	f.change(func(n *FaultSettings) { n.EmptyQueueURLs = rate })
}

// IgnoreDisableUpdate makes sets forget that their runners must not update themselves.
func (f *Faults) IgnoreDisableUpdate(rate float64) {
	f.change(func(n *FaultSettings) { n.IgnoreDisableUpdate = rate })
}

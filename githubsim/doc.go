// Package githubsim is GitHub in a box: the parts of GitHub that a control plane
// for self-hosted Actions runners meets, as a server. It owns Apps and their
// tokens, installations, runner registrations and groups, workflow runs and jobs,
// the choice of a runner for a job, webhook deliveries with their log, rate
// limits, and the protocol that a runner program speaks. Everything lives in
// memory. Under one seed and one order of requests it makes the same choices.
//
// A job is told of in four ways, all from the same state: by webhooks of Apps, of
// repositories and of organizations; by the log of deliveries, from which they can
// be sent again; by REST, for whoever polls; and by the messages of runner scale
// sets, which the client of github.com/actions/scaleset reads unmodified.
//
// It imitates the protocol, not the product: where GitHub promises nothing, every
// number is a knob in Config and every misfortune a setting in Faults. The zero
// Config has no faults; Hostile has them all.
//
// What production reports of scale sets, and the switch that shows it:
//
//	(a) redelivery until DELETE          the protocol itself; Faults.RedeliverMessages repeats at once
//	(b) capacity 0 is a trapdoor         Faults.ZeroCapacityTrap
//	(c) assigned, or to be acquired      Faults.AcquireFlow, Config.EnterpriseServer
//	(d) 409 after an unclean end         Config.SetSessionLinger, Faults.SessionLinger
//	(e) 401 and expiry in mid-loop       Faults.QueueUnauthorized, AdminUnauthorized, ExpireQueueTokens,
//	                                     ExpireAdminTokens; Config.QueueTokenLifetime, AdminTokenLifetime
//	(f) late, double, missing, nameless  Faults.LateMessages, DuplicateMessages, LoseMessages,
//	                                     NamelessMessages, EarlyCompleted
//	(g) lapse, and another job id        Faults.LapseAssignments
//	(h) statistics 0 with a job          Faults.ZeroStatistics; StatisticsOnly is the reverse
//	(i) 50 jobs in a message             Config.MessageBatch
//	(j) another runner takes the job     Faults.Crossover, StealRunners
//	(k) several sets fit                 Faults.ArbitrarySets
//	(l) still running, name taken        the protocol itself; Faults.StuckRecords, LoseJITAnswers bring it about
//	(m) points and secondary limits      Config.PointsPerMinute, Faults.SecondaryLimit, NoRetryAfter, Bursts
//	(n) webhooks of the same jobs        Faults.LoseDeliveries, DropDeliveries, DuplicateDeliveries,
//	                                     ReorderDeliveries, BadSignatures, UnknownInstallations
//	(o) deliveries and redelivery        Config.HookRetention, HookLog
//	(p) busy lags and lies               Faults.LyingBusy, BusyGlitches, StatusLag, Config.RecordLinger
//	(q) clock, seed, replay              Config.Now, Config.Seed, Server.Acts, Server.Replay
//
// It never imports the control plane it tests, and keeps its own books: Truth
// tells what really happened, whatever a client believes.
//
// The demo, the end-to-end tests, the benchmarks and the sim command call it; so
// may anyone who writes a client of GitHub's runner API.
package githubsim

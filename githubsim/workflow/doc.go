// Package workflow reads workflow files and says what they mean: what triggers
// a run, which jobs it has, how a matrix multiplies them, which of them may run
// now, and what a runner is told to do.
//
// It owns the meaning of the file. It is pure: no clock, no network, no disk.
// It never assigns a job to a runner and keeps no state; the server of
// githubsim does, and calls it like this:
//
//	wf, err := workflow.Parse(path, src)             // *workflow.ParseError: startup_failure
//	wf.TriggeredBy(workflow.Event{Name: "push", Ref: "refs/heads/main"})
//	st := workflow.State{Run: run, Results: map[string]workflow.Result{}}
//	for _, job := range wf.Jobs {                    // again after each completed job
//		plan, err := wf.Resolve(job.Key, st)         // err: the job fails at start-up
//		plan.Verdict                                 // Wait, Start (with plan.Instances), Skip (one instance, un-expanded)
//	}
//	msg := wf.Message(instance, st)                  // everything for a runner but ids, URLs and token
//	st.Results[job.Key] = workflow.Combine(…)        // when all instances of a job are completed
//
// The server itself does fail-fast (Instance.FailFast: after one instance fails
// without ContinueOnError, the others are cancelled), max-parallel
// (Instance.MaxParallel, 0 = no limit), the gate of Instance.Environment and the
// concurrency groups (Workflow.Concurrency, Instance.Concurrency).
//
// What the file asks for and the simulator does not do (containers, services,
// reusable workflows, …) is listed in Workflow.Unsupported with its position and
// travels in the message into the job's log: it is never silently ignored.
//
// The shapes that the runner program shares are in workflow/message, and the
// expressions in workflow/expr; neither imports the parser, because they are
// linked into the runner. The aliases below give the server one import.
package workflow

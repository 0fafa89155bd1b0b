package githubsim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Act is one thing that people did to the simulated GitHub, not its clients and
// not chance. What an Act causes is left to Config.Seed, so that a list of Acts is
// a workload which can be run again, against the same clients or others. Exactly
// one of Job, Dispatch, CancelJob and Faults is set.
type Act struct {
	At       time.Time      `json:"at"` // on the server's clock
	Job      *JobOptions    `json:"job,omitempty"`
	Dispatch *DispatchAct   `json:"dispatch,omitempty"`
	Faults   *FaultSettings `json:"faults,omitempty"`
	// CancelJob names the job by its place among the Jobs of the list, from 1.
	CancelJob int `json:"cancel_job,omitempty"`
}

// DispatchAct is a call of Dispatch.
type DispatchAct struct {
	Repo     string         `json:"repo"`
	Workflow string         `json:"workflow,omitempty"`
	Event    string         `json:"event"`
	Inputs   map[string]any `json:"inputs,omitempty"`
}

// Acts returns what people did so far, in order: jobs that were injected or
// cancelled, workflows that were triggered, faults that were set.
func (s *Server) Acts() []Act {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.acts)
}

// act writes down what somebody does. The caller holds mu.
func (s *Server) act(a Act) {
	a.At = s.now()
	s.acts = append(s.acts, a)
}

// Replay does again what Acts says, with the same pauses divided by speed; a speed
// of 0 makes none. The repositories must exist. It ends at the first Act that is
// refused, or with ctx.
func (s *Server) Replay(ctx context.Context, acts []Act, speed float64) error {
	var jobs []int64
	for i, a := range acts {
		if i > 0 && speed > 0 {
			if d := time.Duration(float64(a.At.Sub(acts[i-1].At)) / speed); d > 0 && !s.pause(ctx, d) {
				return fmt.Errorf("replay: interrupted before act %d of %d", i+1, len(acts))
			}
		}
		id, err := s.again(a, jobs)
		if err != nil {
			return fmt.Errorf("replay act %d of %d: %w", i+1, len(acts), err)
		}
		if a.Job != nil {
			jobs = append(jobs, id)
		}
	}
	return nil
}

func (s *Server) again(a Act, jobs []int64) (int64, error) {
	switch {
	case a.Job != nil:
		return s.InjectJob(*a.Job)
	case a.Dispatch != nil:
		return s.Dispatch(a.Dispatch.Repo, a.Dispatch.Workflow, a.Dispatch.Event, maps.Clone(a.Dispatch.Inputs))
	case a.CancelJob > 0 && a.CancelJob <= len(jobs):
		return 0, s.CancelJob(jobs[a.CancelJob-1])
	case a.Faults != nil:
		s.faults.Set(*a.Faults)
		return 0, nil
	}
	return 0, fmt.Errorf("it says nothing that can be done")
}

// injected is the place of a job among those that were injected, from 1; 0 is none.
func (s *Server) injected(id int64) int { return slices.Index(s.injectedJobs, id) + 1 }

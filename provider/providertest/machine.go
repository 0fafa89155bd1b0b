package providertest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// machine returns what starts and stops, and a machine to try it on; ok is false
// on a platform that keeps none.
func (s *suite) machine() (k provider.StartStopper, m provider.Machine, ok bool) {
	s.Helper()
	k, able := provider.As[provider.StartStopper](s.p)
	if s.h.Machine == nil {
		return nil, m, false
	}
	if !able {
		s.Fatalf("the harness has a machine, and the provider is no StartStopper")
	}
	m = s.h.Machine(s.T, s.owner)
	s.Cleanup(func() {
		ctx, cancel := s.call()
		defer cancel()
		_, _ = k.Stop(ctx, m) // a check that failed may have left it in any status
	})
	return k, m, true
}

func (s *suite) status(k provider.StartStopper, m provider.Machine) provider.MachineState {
	s.Helper()
	ctx, cancel := s.call()
	defer cancel()
	st, err := k.Status(ctx, m)
	if err != nil {
		s.Fatalf("status of %v: %v", m, err)
	}
	return st
}

func (s *suite) becomes(k provider.StartStopper, m provider.Machine, want muster.MachineStatus) provider.MachineState {
	s.Helper()
	var st provider.MachineState
	s.until("machine "+m.Name+" is not "+string(want), func() bool {
		st = s.status(k, m)
		return st.Status == want
	})
	return st
}

func (s *suite) startMachine(k provider.StartStopper, m provider.Machine) string {
	s.Helper()
	ctx, cancel := s.call()
	defer cancel()
	op, err := k.Start(ctx, m)
	if err != nil {
		s.Fatalf("start %v: %v", m, err)
	}
	return op
}

func (s *suite) stopMachine(k provider.StartStopper, m provider.Machine) string {
	s.Helper()
	ctx, cancel := s.call()
	defer cancel()
	op, err := k.Stop(ctx, m)
	if err != nil {
		s.Fatalf("stop %v: %v", m, err)
	}
	return op
}

// S3-1: an existing machine is started and stopped, again and again.
func (s *suite) machineStartStop() {
	k, m, ok := s.machine()
	if !ok {
		return
	}
	s.becomes(k, m, muster.MachineTerminated)
	for round := range 2 {
		if op := s.startMachine(k, m); op == "" {
			s.Errorf("round %d: a start has no operation", round)
		}
		if st := s.status(k, m); st.Status != muster.MachineRunning && !st.Status.Starting() {
			s.Errorf("round %d: after a start it is %s", round, st.Status)
		}
		st := s.becomes(k, m, muster.MachineRunning)
		if age := time.Since(st.UpAt); !st.UpAt.IsZero() && (age < -time.Minute || age > time.Hour) {
			s.Errorf("round %d: it came up at %s", round, st.UpAt)
		}
		if op := s.stopMachine(k, m); op == "" {
			s.Errorf("round %d: a stop has no operation", round)
		}
		if st := s.status(k, m); st.Status != muster.MachineTerminated && !st.Status.Stopping() {
			s.Errorf("round %d: after a stop it is %s", round, st.Status)
		}
		s.becomes(k, m, muster.MachineTerminated)
	}
}

// 4-20: a call that is made twice, or at once, has one effect.
func (s *suite) machineIdempotent() {
	k, m, ok := s.machine()
	if !ok {
		return
	}
	if op := s.stopMachine(k, m); op != "" {
		s.Errorf("the stop of a stopped machine is operation %q", op)
	}
	var mu sync.Mutex
	started := 0
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			ctx, cancel := s.call()
			defer cancel()
			op, err := k.Start(ctx, m)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				s.Errorf("start at once: %v", err)
			}
			if op != "" {
				started++
			}
		})
	}
	wg.Wait()
	if started != 1 {
		s.Errorf("%d of four starts at once began one", started)
	}
	s.becomes(k, m, muster.MachineRunning)
	if op := s.startMachine(k, m); op != "" {
		s.Errorf("the start of a running machine is operation %q", op)
	}
	s.stopMachine(k, m)
	if op := s.stopMachine(k, m); op != "" {
		s.Errorf("the stop of a stopping machine is operation %q", op)
	}
	s.becomes(k, m, muster.MachineTerminated)
}

func (s *suite) machineUnknown() { // 4-33
	k, m, ok := s.machine()
	if !ok {
		return
	}
	for _, other := range []provider.Machine{{Name: "conf-no-such-machine", Zone: m.Zone}, {Name: m.Name, Zone: m.Zone + "-other"}, {Name: "../" + m.Name, Zone: m.Zone}, {}} {
		ctx, cancel := s.call()
		_, errStart := k.Start(ctx, other)
		_, errStop := k.Stop(ctx, other)
		_, errStatus := k.Status(ctx, other)
		cancel()
		for call, err := range map[string]error{"start": errStart, "stop": errStop, "status": errStatus} {
			if !errors.Is(err, provider.ErrNotFound) {
				s.Errorf("%s of %+v: %v", call, other, err)
			}
		}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.Context()))
	cancel()
	if _, err := k.Start(ctx, m); !errors.Is(err, context.Canceled) {
		s.Errorf("start after its context ended: %v", err)
	}
	s.becomes(k, m, muster.MachineTerminated)
}

// machineIsNobodysInstance: the sweep destroys what List shows and no runner owns.
func (s *suite) machineIsNobodysInstance() {
	k, m, ok := s.machine()
	if !ok {
		return
	}
	s.startMachine(k, m)
	s.becomes(k, m, muster.MachineRunning)
	if l := s.list(s.p); len(l) != 0 {
		s.Errorf("a kept machine is listed: %v", l)
	}
	s.stopMachine(k, m)
	s.becomes(k, m, muster.MachineTerminated)
}

// machineRestart: a new control plane finds the machine as the old one left it.
func (s *suite) machineRestart() {
	k, m, ok := s.machine()
	if !ok {
		return
	}
	s.startMachine(k, m)
	s.becomes(k, m, muster.MachineRunning)
	after, _ := provider.As[provider.StartStopper](s.h.Open(s.T, s.owner))
	if st := s.status(after, m); st.Status != muster.MachineRunning {
		s.Errorf("after a restart it is %s", st.Status)
	}
	if op := s.startMachine(after, m); op != "" {
		s.Errorf("after a restart a running machine is started again: %q", op)
	}
	s.stopMachine(after, m)
	s.becomes(k, m, muster.MachineTerminated)
}

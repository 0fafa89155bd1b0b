package api

import (
	"context"
	"slices"
	"strings"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

type machines struct{ *API }

func (s machines) ListMachines(ctx context.Context, _ *v1.ListMachinesRequest) (*v1.ListMachinesResponse, error) {
	ids, err := s.kept(ctx)
	if err != nil {
		return nil, err
	}
	resp := &v1.ListMachinesResponse{}
	for _, id := range ids {
		m, err := s.machine(ctx, workspaceOf(ctx), id)
		if err != nil {
			return nil, err
		}
		resp.Machines = append(resp.Machines, m)
	}
	return resp, nil
}

func (s machines) StartMachine(ctx context.Context, req *v1.StartMachineRequest) (*v1.StartMachineResponse, error) {
	id, err := s.find(ctx, req.Name, req.Zone, req.Provider)
	if err != nil {
		return nil, err
	}
	answer, err := s.Commands.StartMachine(ctx, workspaceOf(ctx), id)
	if err != nil {
		return nil, err
	}
	m, err := s.machine(ctx, workspaceOf(ctx), id)
	return &v1.StartMachineResponse{Status: answer.Status, Operation: answer.Operation, Message: answer.Message, Machine: m}, err
}

func (s machines) StopMachine(ctx context.Context, req *v1.StopMachineRequest) (*v1.StopMachineResponse, error) {
	id, err := s.find(ctx, req.Name, req.Zone, req.Provider)
	if err != nil {
		return nil, err
	}
	answer, err := s.Commands.StopMachine(ctx, workspaceOf(ctx), id, 0)
	if err != nil {
		return nil, err
	}
	m, err := s.machine(ctx, workspaceOf(ctx), id)
	return &v1.StopMachineResponse{Status: answer.Status, Operation: answer.Operation, Message: answer.Message, Machine: m}, err
}

// kept names the machines that pools keep, in the order of the pools.
func (s machines) kept(ctx context.Context) (ids []muster.MachineID, err error) {
	pools, err := s.Store.Pools(ctx, workspaceOf(ctx))
	for _, p := range pools {
		if id := p.MachineID(); p.Keeps() && !p.Removed && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// find is the kept machine that a request means. Zone and provider may be left out
// while the rest names one machine only.
func (s machines) find(ctx context.Context, name, zone, provider string) (none muster.MachineID, err error) {
	if name == "" {
		return none, muster.Errorf(muster.CodeInvalid, "a machine is named by its name: set name")
	}
	ids, err := s.kept(ctx)
	if err != nil {
		return none, err
	}
	var found []muster.MachineID
	var at []string
	for _, id := range ids {
		if id.Name == name && (zone == "" || id.Zone == zone) && (provider == "" || id.Provider == provider) {
			found, at = append(found, id), append(at, id.String())
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return none, muster.Errorf(muster.CodeInvalid, "several machines are called %s (%s): name the zone, and the provider if they share it", name, strings.Join(at, ", "))
	case zone != "" || provider != "":
		return none, muster.Errorf(muster.CodeNotFound, "no pool keeps a machine %s there", name)
	}
	return none, muster.Errorf(muster.CodeNotFound, "no pool keeps a machine %s: it is named by machine in a pool with lifecycle kept", name)
}

// machine is a kept machine as it is known; one that nothing was ever written about
// has its name and pools only.
func (a *API) machine(ctx context.Context, workspace string, id muster.MachineID) (*v1.Machine, error) {
	m, err := a.Store.Machine(ctx, workspace, id)
	if err != nil && muster.CodeOf(err) != muster.CodeNotFound {
		return nil, err
	}
	m.ID = id
	d, err := a.Store.MachineDemand(ctx, workspace, id)
	if err != nil {
		return nil, err
	}
	return machineOf(m, d), nil
}

func machineOf(m muster.Machine, d muster.MachineDemand) *v1.Machine {
	out := &v1.Machine{
		Provider: m.ID.Provider, Zone: m.ID.Zone, Name: m.ID.Name, Status: string(m.Status), StatusAt: stamp(m.StatusAt), Since: stamp(m.Since()),
		Occupation: string(m.Occupation(d.Running)), AskedAt: stamp(m.AskedAt), JobsQueued: int32(len(d.Queued)), LastJobEndedAt: stamp(m.DoneAt),
		Deadline: stamp(m.Deadline), DeadlineAction: m.Next(), Reason: m.Reason, Refusals: int32(m.Refusals), StopAskedAt: stamp(m.StopAsked), StartBy: stamp(m.StartBy),
	}
	words, at := m.Trouble()
	out.LastError = words
	if words != "" {
		out.LastErrorAt = stamp(at)
	}
	if len(d.Running) > 0 {
		out.JobId, out.JobAttempt = d.Running[0].Key.ID, int32(d.Running[0].Key.Attempt)
	}
	for _, p := range d.Pools {
		out.Pools = append(out.Pools, p.Name)
		served := p.Repositories
		if len(served) == 0 {
			served = []string{p.Scope.String()}
		}
		for _, r := range served {
			if !slices.Contains(out.Repositories, r) {
				out.Repositories = append(out.Repositories, r)
			}
		}
		if labels, known := m.Labels[p.Name]; known {
			if out.Labels == nil {
				out.Labels = map[string]*v1.RunnerLabels{}
			}
			out.Labels[p.Name] = &v1.RunnerLabels{Names: labels}
		}
	}
	return out
}

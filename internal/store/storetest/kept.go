package storetest

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/store"
)

var vm = muster.MachineID{Provider: "cloud", Zone: "asia-northeast1-a", Name: "vm"}

// machines: what is known of a kept machine is written by whoever learns it, and
// two of them never lose each other's word. 4-19
func machines(t *testing.T, s *store.Store) {
	ctx := t.Context()
	_, err := s.Machine(ctx, ws, vm)
	wantCode(t, err, muster.CodeNotFound)
	m := muster.Machine{Workspace: ws, ID: vm, Status: muster.MachineRunning, StatusAt: base.UTC().Truncate(time.Microsecond), Deadline: at(time.Minute).UTC().Truncate(time.Microsecond), Generation: 3,
		Labels: map[string]muster.Labels{"a": {"self-hosted", "gpu"}}, Reason: "up"}
	first := m
	got := must(s.UpdateMachine(ctx, ws, vm, func(m *muster.Machine) error {
		*m = first
		m.Workspace, m.ID = "forged", muster.MachineID{Name: "forged"}
		return nil
	}))(t)
	want(t, "what was written", got, m)
	want(t, "what is read", must(s.Machine(ctx, ws, vm))(t), m)
	broken := errors.New("broken")
	if _, err := s.UpdateMachine(ctx, ws, vm, func(m *muster.Machine) error { m.Reason = "lost"; return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	changes := s.Subscribe(ctx)
	must(s.UpdateMachine(ctx, ws, vm, func(m *muster.Machine) error { m.Labels["b"] = muster.Labels{"x"}; return nil }))(t)
	if c := <-changes; c.Kind != "machine" || c.ID != vm.String() || c.Workspace != ws {
		t.Errorf("%+v", c)
	}
	same := muster.MachineID{Provider: "cloud", Zone: "us-central1-a", Name: "vm"} // S3-10: a zone of its own
	must(s.UpdateMachine(ctx, ws, same, func(m *muster.Machine) error { m.Reason = "other zone"; return nil }))(t)
	all := must(s.Machines(ctx, ws))(t)
	if len(all) != 2 || all[0].ID != vm || all[0].Reason != "up" || len(all[0].Labels) != 2 || all[1].ID != same {
		t.Errorf("%+v", all)
	}
	fresh := muster.MachineID{Provider: "cloud", Name: "fresh"}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := s.UpdateMachine(ctx, ws, fresh, func(m *muster.Machine) error { m.Generation++; return nil })
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if m := must(s.Machine(ctx, ws, fresh))(t); m.Generation != 8 {
		t.Errorf("generation %d", m.Generation)
	}
}

// machineDemand: S3-15 4-22.
func machineDemand(t *testing.T, s *store.Store) {
	ctx := t.Context()
	kept := func(name, repository string) muster.Pool {
		sc, err := muster.ParseScope(repository)
		ok(t, err)
		return muster.Pool{Name: name, App: "app", Scope: sc, Labels: muster.Labels{"gpu"}, Provider: vm.Provider, Zone: vm.Zone, Machine: vm.Name,
			Lifecycle: muster.LifecycleKept, Registration: muster.RegistrationPreregistered, Enabled: true}.WithDefaults()
	}
	elsewhere := kept("elsewhere", "octo/four")
	elsewhere.Zone = "other"
	one, two, off := kept("one", "octo/one"), kept("two", "octo/two"), kept("off", "octo/three")
	off.Enabled = false
	ok(t, s.SyncPools(ctx, ws, []muster.Pool{one, two, off, elsewhere, pool("a")}, nil))
	to := func(name string) func(muster.Job) string { return func(muster.Job) string { return name } }
	put := func(id int64, repository, action, runner, into string) {
		t.Helper()
		e := event(id, action, runner)
		e.Repository = repository
		must(s.ApplyJobEvent(ctx, ws, e, to(into)))(t)
	}
	put(1, "octo/one", "queued", "", "one")
	put(2, "octo/two", "queued", "", "two")
	put(3, "octo/two", "in_progress", "VM", "two")
	put(4, "octo/one", "in_progress", "another", "one") // ran elsewhere
	put(5, "octo/five", "in_progress", "vm", "a")       // a runner of the same name, somewhere else
	put(6, "octo/one", "in_progress", "vm", "a")        // counted for another pool, and on this machine
	put(7, "octo/one", "completed", "vm", "one")
	put(8, "octo/four", "queued", "", "elsewhere")
	d := must(s.MachineDemand(ctx, ws, vm))(t)
	ids := func(jobs []muster.Job) (out []int64) {
		for _, j := range jobs {
			out = append(out, j.Key.ID)
		}
		return out
	}
	if len(d.Pools) != 3 || d.Pools[0].Name != "one" || d.Pools[2].Name != "off" || !cmp.Equal(d.Held, []string{"off"}) {
		t.Errorf("pools %v, held %v", d.Pools, d.Held)
	}
	if got := ids(d.Queued); !cmp.Equal(got, []int64{1, 2}) {
		t.Errorf("queued %v", got)
	}
	if got := ids(d.Running); !cmp.Equal(got, []int64{3, 6}) {
		t.Errorf("running %v", got)
	}
	// C34: nothing is started for a suspended installation.
	must(s.PutInstallation(ctx, muster.Installation{ID: 7, App: "app", Workspace: ws, Account: "octo", State: "suspended", UpdatedAt: base}))(t)
	if d := must(s.MachineDemand(ctx, ws, vm))(t); len(d.Held) != 3 {
		t.Errorf("held %v", d.Held)
	}
	ok(t, s.SyncPools(ctx, ws, []muster.Pool{pool("a")}, nil))
	if d := must(s.MachineDemand(ctx, ws, vm))(t); len(d.Pools)+len(d.Queued)+len(d.Running) != 0 {
		t.Errorf("a machine that nobody keeps: %+v", d)
	}
}

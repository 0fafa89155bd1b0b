package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/config"
)

// defaultFleetInterval is how often a run looks at the queue (S1-108).
const defaultFleetInterval = time.Minute

// fleetView is what is wished of a fleet beside what is there.
type fleetView struct {
	wish     config.Fleet
	pool     *v1.Pool
	runners  []*v1.Runner
	last     *v1.Runner // the runner that ended last, if it failed
	problems []string
	// wrong is everything in which the two differ, in words; empty is fine.
	wrong []string
}

func (a *app) fleetStatus() *cobra.Command {
	c := &cobra.Command{
		Use: "status", Short: "Show a fleet: what is wished and what is there",
		Long: `Show a fleet: what the file wishes beside what is there, its queue, its last decision,
its runners and its last error. The exit status is 1 when the two do not agree, or when
nothing answers that could say.`,
	}
	pool, file := a.fleetFlags(c)
	c.Flags().BoolVar(&a.json, "json", false, "print it as JSON; pool and runners are those of proto/muster/v1")
	return a.local(c, func(cmd *cobra.Command, _ []string) error {
		fleets, err := config.ReadFleets(*file)
		if err != nil {
			return err
		}
		e, known, err := fleets.Fleet(*pool)
		if err != nil || !known {
			return errors.Join(err, unknownFleet(fleets, *pool, *file))
		}
		v := fleetView{wish: e}
		if !a.json {
			if err := a.printWish(*pool, *file, e); err != nil {
				return err
			}
		}
		// What is wished is not what is: without an answer this command fails (4-55).
		if err := a.lookAtFleet(cmd.Context(), *pool, *file, &v); err != nil {
			return err
		}
		v.judge()
		if a.json {
			err = a.fleetJSON(*pool, *file, v)
		} else {
			err = a.printFleet(v)
		}
		if err == nil && len(v.wrong) > 0 {
			err = fmt.Errorf("fleet %s is not as wished: %s", *pool, strings.Join(v.wrong, "; "))
		}
		return err
	})
}

// wished is what the file wants, in a word.
func wished(e config.Fleet) string {
	switch {
	case e.Enabled:
		return "enabled"
	case e.KeepRunners:
		return "disabled, runners kept"
	}
	return "disabled"
}

// actual is the same of a pool.
func actual(p *v1.Pool) string {
	switch {
	case p.Enabled && p.Suspended:
		return "disabled, runners kept"
	case p.Enabled:
		return "enabled"
	}
	return "disabled"
}

func (a *app) printWish(pool, file string, e config.Fleet) error {
	return a.facts(a.Stdout, "fleet", cell{pool, bold}, "wished in", file, "wish", state(wished(e)), "repository", e.RepoOwner+"/"+e.RepoName,
		"labels", muster.Labels(e.Labels).String(), "limits", fmt.Sprintf("%d to %d runners", e.MinRunners, e.MaxRunners))
}

// maxEnded is how many runners that ended are looked at for the last error.
const maxEnded = 20

func (a *app) lookAtFleet(ctx context.Context, pool, file string, v *fleetView) error {
	api, err := a.dial()
	if err != nil {
		return err
	}
	resp, err := api.pools.GetPool(ctx, &v1.GetPoolRequest{Name: pool})
	if connect.CodeOf(err) == connect.CodeNotFound {
		return fmt.Errorf("what runs at %s has no pool %s: restart muster serve with fleets.file set to %s, or muster github-runner run with --file %s", a.address(), pool, file, file)
	}
	if err != nil {
		return err
	}
	v.pool = resp.Pool
	live, err := api.runners.ListRunners(ctx, &v1.ListRunnersRequest{Pool: pool})
	if err != nil {
		return err
	}
	v.runners = live.Runners
	ended, err := api.runners.ListRunners(ctx, &v1.ListRunnersRequest{Pool: pool, States: []string{string(muster.RunnerDestroyed), string(muster.RunnerDraining)}, Limit: maxEnded})
	if err != nil {
		return err
	}
	if len(ended.Runners) > 0 && ended.Runners[0].Failed {
		v.last = ended.Runners[0]
	}
	overview, err := api.system.GetOverview(ctx, &v1.GetOverviewRequest{})
	if err != nil {
		return err
	}
	v.problems = overview.Problems
	return nil
}

// there counts the runners that are there or come up.
func there(s *v1.PoolStatus) int32 {
	return s.GetRunnersStarting() + s.GetRunnersIdle() + s.GetRunnersBusy()
}

// desired is how many runners there should be, as far as was decided.
func (v *fleetView) desired() int32 {
	d := v.pool.Status.GetLastDecision()
	if !v.pool.Enabled || d == nil {
		return 0
	}
	return d.TargetRunnerCount
}

// judge notes what is not as wished.
func (v *fleetView) judge() {
	note := func(format string, args ...any) { v.wrong = append(v.wrong, fmt.Sprintf(format, args...)) }
	p, s := v.pool, v.pool.Status
	if w, n := wished(v.wish), actual(p); w != n {
		note("the file wishes it %s, and it is %s", w, n)
	}
	if hi := p.Scaling.GetMaxRunners(); int(hi) != v.wish.MaxRunners {
		note("the file allows %d runners, and %d are allowed", v.wish.MaxRunners, hi)
	}
	if repo := v.wish.RepoOwner + "/" + v.wish.RepoName; !strings.EqualFold(repo, p.Scope) {
		note("the file wishes runners for %s, and they are for %s", repo, p.Scope)
	}
	if v.last != nil && there(s)+s.GetRunnersDraining() < v.desired() {
		note("%d of %d runners are there, and the last that was made failed: %s", there(s), v.desired(), v.last.Reason)
	}
	if d := s.GetLastDecision(); d != nil && d.Rule == muster.RuleNoData {
		note("its queue is not known: %s", d.Reason)
	}
}

func (a *app) printFleet(v fleetView) error {
	s := v.pool.Status
	fmt.Fprintln(a.Stdout)
	lastError := ""
	if v.last != nil {
		lastError = fmt.Sprintf("%s runner %s: %s", a.when(v.last.CreatedAt), v.last.Id, v.last.Reason)
	}
	limits := ""
	if sc := v.pool.Scaling; int(sc.GetMinRunners()) != v.wish.MinRunners || int(sc.GetMaxRunners()) != v.wish.MaxRunners {
		limits = fmt.Sprintf("%d to %d runners, by muster github-runner scale or muster pool scale", sc.GetMinRunners(), sc.GetMaxRunners())
	}
	err := a.facts(a.Stdout, "now", state(actual(v.pool)), "limits now", limits,
		"runners", fmt.Sprintf("%d wanted, %d there: %d starting, %d idle, %d busy; %d draining", v.desired(), there(s), s.GetRunnersStarting(), s.GetRunnersIdle(), s.GetRunnersBusy(), s.GetRunnersDraining()),
		"queue", fmt.Sprintf("%d queued, %d in progress", s.GetJobsQueued(), s.GetJobsInProgress()),
		"oldest queued", a.when(s.GetOldestQueuedAt()), "last decision", a.decisionLine(s.GetLastDecision()),
		"last error", lastError, "problems", strings.Join(v.problems, "\n"))
	if err != nil {
		return err
	}
	fmt.Fprintln(a.Stdout)
	t := a.table("RUNNER", "STATE", "JOB", "CREATED", "REASON")
	for _, r := range v.runners {
		t.row(r.Id, runnerState(r), jobRef(r.Job), a.when(r.CreatedAt), r.Reason)
	}
	return t.print(a.Stdout, "No runners.")
}

// fleetJSON prints what status shows, for programs.
func (a *app) fleetJSON(pool, file string, v fleetView) error {
	message := func(m proto.Message) (json.RawMessage, error) {
		return protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	}
	p, err := message(v.pool)
	if err != nil {
		return err
	}
	runners := make([]json.RawMessage, 0, len(v.runners))
	for _, r := range v.runners {
		m, err := message(r)
		if err != nil {
			return err
		}
		runners = append(runners, m)
	}
	type lastError struct {
		Runner string    `json:"runner"`
		At     time.Time `json:"at"`
		Reason string    `json:"reason"`
	}
	out := struct {
		Fleet    string            `json:"fleet"`
		File     string            `json:"file"`
		Wish     string            `json:"wish"`
		Actual   string            `json:"actual"`
		Desired  int32             `json:"desired_runners"`
		There    int32             `json:"actual_runners"`
		OK       bool              `json:"ok"`
		Wrong    []string          `json:"wrong"`
		Last     *lastError        `json:"last_error"`
		Problems []string          `json:"problems"`
		Pool     json.RawMessage   `json:"pool"`
		Runners  []json.RawMessage `json:"runners"`
	}{
		Fleet: pool, File: file, Wish: wished(v.wish), Actual: actual(v.pool), Desired: v.desired(), There: there(v.pool.Status),
		OK: len(v.wrong) == 0, Wrong: append([]string{}, v.wrong...), Problems: append([]string{}, v.problems...), Pool: p, Runners: runners,
	}
	if v.last != nil {
		out.Last = &lastError{v.last.Id, v.last.CreatedAt.AsTime(), v.last.Reason}
	}
	return a.printJSON(out)
}

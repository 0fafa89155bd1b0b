package lifecycle

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// Zone is one place where a provider makes machines.
type Zone struct {
	Name string
	provider.Provider
}

// zoneNames are the provider's zones in the order in which they are tried. One without
// zones has one of no name.
func (b Backend) zoneNames() []string {
	if len(b.Zones) == 0 {
		return []string{""}
	}
	names := make([]string, len(b.Zones))
	for i, z := range b.Zones {
		names[i] = z.Name
	}
	return names
}

// in is the provider of a zone; nil for one that is not configured any more.
func (b Backend) in(zone string) provider.Provider {
	if len(b.Zones) == 0 {
		return b.Provider
	}
	for _, z := range b.Zones {
		if z.Name == zone {
			return z.Provider
		}
	}
	return nil
}

// Everywhere are all zones of the provider; one of no name of a provider without.
func (b Backend) Everywhere() []Zone {
	if len(b.Zones) == 0 {
		return []Zone{{Provider: b.Provider}}
	}
	return b.Zones
}

// asked are the zones that may have a machine of the runner, in the order in which they
// were asked. A row from before the provider had zones names none; it may be anywhere.
func (b Backend) asked(r muster.Runner) []Zone {
	if r.Zones == "" {
		return b.Everywhere()
	}
	var out []Zone
	for _, z := range b.Everywhere() {
		if slices.Contains(strings.Fields(r.Zones), z.Name) {
			out = append(out, z)
		}
	}
	return out
}

// place is where the machine of a runner was asked for last: the zone's name and its
// provider, nil if the zone is not configured any more.
func (b Backend) place(r muster.Runner) (string, provider.Provider) {
	zone := r.Zone()
	if zone == "" {
		zone = b.zoneNames()[0]
	}
	return zone, b.in(zone)
}

// label is how a zone of the provider is called in logs and findings.
func (b Backend) label(zone string) string {
	if zone == "" {
		return b.Name
	}
	return b.Name + "." + zone
}

// Every (provider, zone, offering) has a breaker of its own (4-52). It steers: a zone
// whose breaker is open is passed over while there is another. What limits how often a
// platform is asked at all is the refusal of the pool, so that the two do not add up.

func breakerKey(provider, zone, offering string) string {
	return "provider_breaker/" + provider + "/" + zone + "/" + offering
}

func (d *Deps) breaker(ctx context.Context, provider, zone, offering string) (b muster.Breaker) {
	text, err := d.Store.Watermark(ctx, breakerKey(provider, zone, offering))
	if err != nil || text == "" || json.Unmarshal([]byte(text), &b) != nil {
		return muster.Breaker{} // asking once more than is wise harms nobody
	}
	return b
}

// noteZone remembers what came of asking a zone.
func (a *Activities) noteZone(ctx context.Context, provider, zone, offering string, failure error) {
	was := a.breaker(ctx, provider, zone, offering)
	is, text := muster.Breaker{}, ""
	if failure != nil {
		is = was.Failed(a.Now(), failure.Error())
		b, err := json.Marshal(is)
		if err != nil {
			return
		}
		text = string(b)
	}
	if was == is {
		return
	}
	if was.Failures == 0 || is.Failures == 0 {
		a.Log.Info("breaker of provider", "provider", provider, "zone", zone, "offering", offering, "state", is.State(a.Now()), "words", is.Words)
	}
	if err := a.Store.SetWatermark(ctx, breakerKey(provider, zone, offering), text); err != nil {
		a.Log.Error("remember breaker", "provider", provider, "zone", zone, "offering", offering, "error", err)
	}
}

// maxZones is how long other zones are tried within one launch, of which each call may
// hang for createTimeout.
const maxZones = 2 * time.Minute

// create asks for the runner's machine: in the zone where it may be already, or else in
// the first that is likely to have room, and in the next one where that has none. Which
// zone is asked is written to the row first, so that a repetition asks the same one, and
// Destroy deletes wherever something may have been made. It returns the row as it is then.
//
// Only a zone that says for certain that it made nothing is left for another: after a
// lost answer the same one is asked again, and the runner given up in the end.
func (a *Activities) create(ctx context.Context, backend Backend, r muster.Runner, spec provider.Spec) (provider.Instance, muster.Runner, error) {
	began, zones := a.Now(), backend.zoneNames()
	zone := r.Zone()
	if zone == "" || backend.in(zone) == nil {
		var err error
		if zone, r, err = a.nextZone(ctx, zones, r); err != nil {
			return provider.Instance{}, r, err
		}
	}
	var refusals []error
	for {
		in, err := a.createIn(ctx, backend, zone, spec)
		a.noteZone(ctx, backend.Name, zone, r.Offering, err)
		if err == nil {
			return in, r, nil
		}
		if zone != "" {
			err = fmt.Errorf("zone %s: %w", zone, err)
		}
		refusals = append(refusals, err)
		if !refusedForCertain(err) || a.Now().Sub(began) > maxZones || len(strings.Fields(r.Zones)) >= len(zones) || len(zones) == 1 {
			return provider.Instance{}, r, errors.Join(refusals...)
		}
		a.Log.Info("next zone", "runner", r.ID, "provider", backend.Name, "error", err, "trace_id", r.TraceID)
		if zone, r, err = a.nextZone(ctx, zones, r); err != nil {
			return provider.Instance{}, r, err
		}
	}
}

// refusedForCertain reports whether nothing was made and nothing will be.
func refusedForCertain(err error) bool {
	return errors.Is(err, provider.ErrInvalid) || errors.Is(err, provider.ErrQuota) || errors.Is(err, provider.ErrCapacity)
}

// nextZone picks a zone that the runner was not asked for in, and writes it to the row.
func (a *Activities) nextZone(ctx context.Context, zones []string, r muster.Runner) (string, muster.Runner, error) {
	if len(zones) == 1 && zones[0] == "" {
		return "", r, nil
	}
	breakers := map[string]muster.Breaker{}
	for _, z := range zones {
		breakers[z] = a.breaker(ctx, r.Provider, z, r.Offering)
	}
	zone, ok := muster.PickZone(zones, strings.Fields(r.Zones), breakers, a.Now())
	if !ok { // all were asked, and the configuration has lost the last
		zone = zones[0]
	}
	r, err := a.Store.UpdateRunner(ctx, r.Workspace, r.ID, a.Now(), "asked for in zone "+zone, func(r *muster.Runner) error {
		r.Zones = strings.TrimSpace(r.Zones + " " + zone)
		return nil
	})
	if err != nil {
		return "", r, fmt.Errorf("record zone of %s: %w", r.ID, err)
	}
	return zone, r, nil
}

func (a *Activities) createIn(ctx context.Context, backend Backend, zone string, spec provider.Spec) (provider.Instance, error) {
	began := a.Now()
	callCtx, cancel := context.WithTimeout(ctx, cmp.Or(backend.CreateTimeout, createTimeout))
	defer cancel()
	in, err := backend.in(zone).Create(callCtx, spec)
	if err == nil && (in.Runner != spec.Runner || in.ID == "") {
		err = fmt.Errorf("%w: it answered with instance %q of runner %q", provider.ErrTransient, in.ID, in.Runner)
	}
	a.Observer.Launched(backend.label(zone), err, a.Now().Sub(began))
	return in, err
}

// Breakers are those breakers of a provider that are not closed: of its zones, and of
// the pools that it refused.
func (c *Client) Breakers(ctx context.Context, workspace, name string) (out []muster.ProviderBreaker, err error) {
	pools, err := c.Store.Pools(ctx, workspace)
	if err != nil {
		return nil, fmt.Errorf("list pools: %w", err)
	}
	a := Activities{Deps: c.Deps, Log: c.log}
	now := c.Now()
	var offerings []string
	for _, p := range pools {
		if p.Provider != name || p.Removed {
			continue
		}
		for _, o := range []string{p.Offering, p.Canary.Offering} {
			if !slices.Contains(offerings, o) && (o != "" || o == p.Offering) {
				offerings = append(offerings, o)
			}
		}
		r := a.refusal(ctx, PoolRef{p.Workspace, p.Name})
		if r == (refusal{}) {
			continue
		}
		b := r.breaker()
		state := b.State(now)
		if state == muster.BreakerClosed || r.Granted {
			state = muster.BreakerHalfOpen // its room is felt for
		}
		out = append(out, muster.ProviderBreaker{Breaker: b, Pool: p.Name, Offering: p.Offering, State: state, Room: r.Room})
	}
	if b := c.Backends[name]; len(b.Zones) > 0 {
		for _, zone := range b.zoneNames() {
			for _, o := range offerings {
				if b := c.breaker(ctx, name, zone, o); b.Failures > 0 {
					out = append(out, muster.ProviderBreaker{Breaker: b, Zone: zone, Offering: o, State: b.State(now)})
				}
			}
		}
	}
	return out, nil
}

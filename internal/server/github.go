package server

import (
	"cmp"
	"fmt"
	"log/slog"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/compat"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/github"
	"github.com/muster-ci/muster/internal/ingress"
	"github.com/muster-ci/muster/internal/metrics"
)

// gitHubs makes a client per configured App.
func gitHubs(cfg config.Config, o github.Observer, logger *slog.Logger, mutationsPerMinute int) (map[string]*github.Client, error) {
	out := map[string]*github.Client{}
	for _, a := range cfg.Apps {
		c, err := github.New(github.Config{
			Name: a.Name, ClientID: a.ClientID, AppID: a.ID, PrivateKey: a.PrivateKey, Token: a.Token, InstallationID: a.InstallationID, Installations: a.Installations,
			URL: a.APIURL, Timeout: cfg.Times.APITimeout, MutationsPerMinute: cmp.Or(mutationsPerMinute, a.MutationsPerMinute), Observer: o, Logger: logger.With("app", a.Name),
		})
		if err != nil {
			return nil, fmt.Errorf("app %s: %w", a.Name, err)
		}
		out[a.Name] = c
	}
	return out, nil
}

// webhookApps are the Apps that have a webhook secret; others are polled only.
func webhookApps(cfg config.Config) (apps []ingress.App) {
	for _, a := range cfg.Apps {
		if a.WebhookSecret == "" {
			continue
		}
		secrets := []muster.Secret{a.WebhookSecret}
		if a.WebhookSecretPrevious != "" {
			secrets = append(secrets, a.WebhookSecretPrevious)
		}
		if m := cfg.RunnerManager; m != nil {
			secrets = compat.Secrets(m.Secrets).Webhooks()
		}
		apps = append(apps, ingress.App{Name: a.Name, Secrets: secrets})
	}
	return apps
}

// budgets is every App's rate limits for the metrics.
func (s *Server) budgets() (out []metrics.Budget) {
	for _, c := range s.apps {
		for _, v := range c.Budget() {
			b := metrics.Budget{
				App: v.App, Account: v.Account, Limit: v.Limit, Remaining: v.Remaining, PointsThisMinute: v.PointsThisMinute,
				Stretch: v.Stretch, Forecast: v.Forecast, PausedUntil: v.PausedUntil,
			}
			for _, n := range v.Registrations {
				b.Registrations = max(b.Registrations, n)
			}
			for lane, l := range v.PerLane {
				b.Lanes = append(b.Lanes, metrics.BudgetLane{Lane: lane, Calls: l.Calls, Unchanged: l.Unchanged, Parked: l.Parked, Waiting: l.Waiting})
			}
			out = append(out, b)
		}
	}
	return out
}

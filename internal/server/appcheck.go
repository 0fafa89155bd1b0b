package server

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/internal/github"
)

// appAsker is what is asked of an App's client.
type appAsker interface {
	App(ctx context.Context) (github.AppInfo, error)
}

// appChecks compares what each configured App may do with what its pools need
// (C7), so that a missing permission is a line at the start and not a refusal in
// the night. It is safe for concurrent use.
type appChecks struct {
	apps   []appCheck
	logger *slog.Logger

	mu       sync.Mutex
	problems map[string][]string // by App
}

type appCheck struct {
	name     string
	ask      appAsker
	features []github.Feature
	hooks    bool // learns of jobs by webhooks
}

// Between two tries after GitHub did not answer, from the first to the longest,
// and between two looks at an App that lacks something.
const (
	appRetry    = 5 * time.Second
	appRetryMax = 5 * time.Minute
	appAgain    = 10 * time.Minute
)

func newAppChecks(cfg config.Config, apps map[string]*github.Client, logger *slog.Logger) *appChecks {
	c := &appChecks{logger: logger, problems: map[string][]string{}}
	for _, a := range cfg.Apps {
		if a.Token != "" {
			continue // GitHub does not say what a token may do
		}
		check := appCheck{name: a.Name, ask: apps[a.Name], hooks: a.WebhookSecret != ""}
		for _, p := range cfg.Pools {
			if p.App == a.Name && p.Enabled {
				check.features = append(check.features, github.FeaturesOf(p)...)
			}
		}
		c.apps = append(c.apps, check)
	}
	return c
}

// run asks for every App until it has all that it needs, or ctx ends.
func (c *appChecks) run(ctx context.Context) error {
	var all errgroup.Group
	for _, a := range c.apps {
		all.Go(func() error {
			c.follow(ctx, a)
			return nil
		})
	}
	return all.Wait()
}

func (c *appChecks) follow(ctx context.Context, a appCheck) {
	for retry := appRetry; ; retry = min(2*retry, appRetryMax) {
		problems, err := a.look(ctx)
		if ctx.Err() != nil {
			return
		}
		c.note(a.name, problems)
		wait := appAgain // somebody may put it right while we run
		switch {
		case err != nil:
			wait = retry
		case len(problems) == 0:
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// look asks GitHub once. An error is a problem too, and worth another try.
func (a appCheck) look(ctx context.Context) (problems []string, err error) {
	info, err := a.ask.App(ctx)
	if err != nil {
		remedy := "it is asked again"
		if muster.CodeOf(err) == muster.CodeUnauthenticated {
			remedy = "check id and private_key_file in the configuration"
		}
		return []string{fmt.Sprintf("App %s: GitHub does not say what it may do: %s; %s", a.name, muster.MessageOf(err), remedy)}, err
	}
	for _, missing := range github.MissingPermissions(info.Permissions, a.features) {
		problems = append(problems, fmt.Sprintf("App %s: %s; grant it under Permissions & events on the App's page (%s), then accept it for each installation", a.name, missing, info.Slug))
	}
	if missing := github.MissingEvents(info.Events, a.features); a.hooks && len(missing) > 0 {
		problems = append(problems, fmt.Sprintf("App %s: it does not subscribe to %s; tick it under Permissions & events on the App's page (%s)", a.name, strings.Join(missing, ", "), info.Slug))
	}
	return problems, nil
}

// note keeps what is wrong with an App, and logs it when it is news.
func (c *appChecks) note(app string, problems []string) {
	c.mu.Lock()
	before := c.problems[app]
	c.problems[app] = problems
	c.mu.Unlock()
	switch {
	case slices.Equal(before, problems):
	case len(problems) == 0:
		c.logger.Info("App has what its pools need", "app", app)
	default:
		for _, p := range problems {
			c.logger.Warn("App lacks something", "app", app, "problem", p)
		}
	}
}

// of is what is wrong with one App.
func (c *appChecks) of(app string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.problems[app])
}

// Problems are what is wrong now, in the order of the configuration.
func (c *appChecks) Problems() (out []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.apps {
		out = append(out, c.problems[a.name]...)
	}
	return out
}

package container

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/client"

	"github.com/containerd/errdefs"
	"github.com/muster-ci/muster/provider"
)

// idleConnection is how long an unused connection to the engine is kept.
const idleConnection = 30 * time.Second

// pulls are the images on their way, one pull for each however many wait for it.
type pulls struct {
	mu     sync.Mutex
	active map[string]*pull
	wait   sync.WaitGroup
	end    context.CancelFunc
	ctx    context.Context //nolint:containedctx // the lifetime of pulls, which outlive the calls that begin them
}

type pull struct {
	done chan struct{}
	err  error // valid once done is closed

	mu    sync.Mutex
	words string // the engine's last about it
}

func (pl *pull) note(words string) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	pl.words = words
}

func (pl *pull) progress() string {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	return pl.words
}

// pull gets an image and waits for it as long as ctx lasts. A caller that leaves does
// not end the pull: engines throw away what they have of one that was given up, and an
// image that takes longer than a call may take would never come.
func (p *Provider) pull(ctx context.Context, image reference.Named) error {
	name := image.String()
	began := time.Now()
	p.pulls.mu.Lock()
	pl, ok := p.pulls.active[name]
	if !ok {
		if p.pulls.ctx.Err() != nil {
			p.pulls.mu.Unlock()
			return fmt.Errorf("%w: pull %s: the provider is closed", provider.ErrTransient, name)
		}
		pl = &pull{done: make(chan struct{})}
		p.pulls.active[name] = pl
		p.pulls.wait.Go(func() {
			err := p.fetch(p.pulls.ctx, image, pl)
			p.pulls.mu.Lock()
			delete(p.pulls.active, name)
			p.pulls.mu.Unlock()
			pl.err = err
			close(pl.done)
		})
	}
	p.pulls.mu.Unlock()
	select {
	case <-pl.done:
		return pl.err
	case <-ctx.Done():
		return fmt.Errorf("%w: image %s is being pulled, %s so far (%s): %w", provider.ErrTransient, name, time.Since(began).Round(time.Second), pl.progress(), ctx.Err())
	}
}

// fetch pulls an image.
func (p *Provider) fetch(ctx context.Context, image reference.Named, pl *pull) error {
	limit := time.Duration(p.cfg.PullTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than pull_timeout, %s", limit))
	defer cancel()
	name := image.String()
	began := time.Now()
	header, err := p.credentials(ctx, image)
	if err != nil {
		return err
	}
	answer, err := p.engine.ImagePull(ctx, name, client.ImagePullOptions{RegistryAuth: header})
	if err != nil {
		return p.pullFailed(ctx, name, err)
	}
	defer answer.Close()
	// The engine answers 200 before it has asked the registry; what goes wrong comes as
	// one of many messages.
	for m, err := range answer.JSONMessages(ctx) {
		if err == nil && m.Error != nil {
			err = m.Error
		}
		if err != nil {
			return p.pullFailed(ctx, name, err)
		}
		pl.note(short(strings.TrimSpace(m.Status + " " + m.ID)))
	}
	if ctx.Err() != nil {
		return p.pullFailed(ctx, name, ctx.Err())
	}
	p.log.Info("image pulled", "image", name, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// absent and closed are the words of registries and engines for an image that is not
// there and for credentials that are not right.
var (
	absent = []string{"manifest unknown", "not found", "name unknown", "repository does not exist", "manifest for"}
	closed = []string{"unauthorized", "authentication required", "access denied", "denied:", "no basic auth credentials", "invalid username/password", "forbidden"}
	slowly = []string{"toomanyrequests", "429", "rate limit"}
)

func (p *Provider) pullFailed(ctx context.Context, name string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%w: pull %s: %w", provider.ErrTransient, name, errors.Join(cause, ctx.Err()))
	}
	text := strings.ToLower(err.Error())
	says := func(words []string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	switch {
	case client.IsErrConnectionFailed(err), says(full):
		return p.classify("pull "+name, err)
	case says(slowly):
		return fmt.Errorf("%w: pull %s: the registry asks for patience: %w", provider.ErrTransient, name, err)
	case says(closed), errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		return fmt.Errorf("%w: pull %s: %w; check the credentials in registries", provider.ErrInvalid, name, err)
	case says(absent), errdefs.IsNotFound(err):
		return fmt.Errorf("%w: pull %s: %w; check the image's name and tag", provider.ErrInvalid, name, err)
	}
	return p.classify("pull "+name, err)
}

package container

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/muster-ci/muster/provider"
)

// startSidecar creates the sidecar of a container that runs, and starts it.
func (p *Provider) startSidecar(ctx context.Context, spec provider.Spec) error {
	image, err := imageName(p.cfg.Sidecar.Image)
	if err != nil {
		return fmt.Errorf("%w: sidecar: %w", provider.ErrInvalid, err)
	}
	req := p.cfg.sidecarRequest(spec, image.String(), time.Now())
	id, err := p.create(ctx, req)
	if errdefs.IsNotFound(err) && noImage(err) && p.cfg.Pull != PullNever {
		if err := p.pull(ctx, image); err != nil {
			return err
		}
		id, err = p.create(ctx, req)
	}
	if err != nil {
		id = req.Name // another call for this runner may have been faster
		if parts, lost := p.parts(ctx, spec.Runner); lost != nil || len(parts) < 2 {
			if errdefs.IsNotFound(err) {
				return fmt.Errorf("%w: create sidecar from %s: %w", provider.ErrInvalid, image, err)
			}
			return p.classify("create sidecar", err)
		}
	}
	if err := p.verify(ctx, id); err != nil {
		return fmt.Errorf("sidecar: %w", err)
	}
	if _, err := p.engine.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		return p.startFailed("start sidecar", err)
	}
	return nil
}

// workspaceNetwork is the name of a workspace's own network.
func (c Config) workspaceNetwork(workspace string) string {
	sum := sha256.Sum256([]byte(workspace))
	return "muster-" + c.mark() + "-" + hex.EncodeToString(sum[:6])
}

// ensureNetwork makes the network of a workspace if it is missing (S4-46, S4-64).
func (p *Provider) ensureNetwork(ctx context.Context, workspace string) error {
	if p.cfg.Network != networkWorkspace {
		return nil
	}
	if err := p.admitting.lock(ctx); err != nil { // Docker makes two of one name, if asked at once
		return err
	}
	defer p.admitting.unlock()
	name := p.cfg.workspaceNetwork(workspace)
	_, err := p.engine.NetworkInspect(ctx, name, client.NetworkInspectOptions{})
	if err == nil {
		return nil
	}
	if !errdefs.IsNotFound(err) {
		return p.classify("look at network "+name, err)
	}
	opts := client.NetworkCreateOptions{
		Driver: "bridge", Internal: p.cfg.Internal,
		Labels: map[string]string{labelOwner: p.cfg.Owner, labelWorkspace: workspace},
	}
	if p.engine.podman() {
		opts.Options = map[string]string{"isolate": "true"} // Docker's bridges do not reach each other anyhow
	}
	if _, err := p.engine.NetworkCreate(ctx, name, opts); err != nil && !errdefs.IsConflict(err) {
		return p.classify("create network of workspace "+workspace, err)
	}
	return nil
}

// removeNetworks removes the workspaces' networks that nobody uses any more. What it
// cannot remove, it finds again after the next deletion.
func (p *Provider) removeNetworks(ctx context.Context) {
	if p.cfg.Network != networkWorkspace || await(ctx, p.network.TryLock) != nil {
		return
	}
	defer p.network.Unlock()
	nets, err := p.engine.NetworkList(ctx, client.NetworkListOptions{Filters: client.Filters{}.Add("label", labelOwner+"="+p.cfg.Owner)})
	if err != nil {
		p.log.Debug("networks not listed", "error", err)
		return
	}
	parts, err := p.parts(ctx, "")
	if err != nil {
		return
	}
	used := map[string]bool{}
	for _, part := range parts {
		used[p.cfg.workspaceNetwork(part.Labels[labelWorkspace])] = true
	}
	for _, n := range nets.Items {
		if n.Labels[labelOwner] != p.cfg.Owner || used[n.Name] {
			continue
		}
		if _, err := p.engine.NetworkRemove(ctx, n.Name, client.NetworkRemoveOptions{}); err != nil && !errdefs.IsNotFound(err) && !errors.Is(err, context.Canceled) {
			p.log.Debug("network left", "network", n.Name, "error", err)
		}
	}
}

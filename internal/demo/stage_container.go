package demo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// onContainers plays in containers of this machine's engine. They share its network,
// because the demo listens on the loopback interface.
var onContainers = stage{build: buildContainers}

// engineTimeout bounds what the stage asks of an engine, an image of some megabytes included.
const engineTimeout = 2 * time.Minute

// ownerLabel is on every container of a control plane, with its name.
const ownerLabel = "muster.owner"

// containers is the stage on an engine.
type containers struct {
	*client.Client
	host, owner string
	image       string // ours, to be removed; "" if it was there before
}

func buildContainers(ctx context.Context, set props) (built, error) {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	c := &containers{host: engineHost(set.word("host"), os.Getenv), owner: set.name}
	if c.host == "" {
		return built{}, errors.New("there is no socket of Docker or Podman: start one (podman system service --time=0, or dockerd), or name it in DOCKER_HOST")
	}
	var err error
	if c.Client, err = client.New(client.WithHost(c.host)); err != nil {
		return built{}, fmt.Errorf("%s: %w", c.host, err)
	}
	if _, err := c.Ping(ctx, client.PingOptions{}); err != nil {
		return built{}, errors.Join(fmt.Errorf("the engine at %s does not answer: %w: start it, let this user use its socket, or name another in DOCKER_HOST", c.host, err), c.Close())
	}
	name := set.word("image")
	if name == "" {
		if name, err = c.load(ctx, set); err != nil {
			return built{}, errors.Join(err, undo(ctx, c.end))
		}
	}
	err = c.probe(ctx, name, cmp.Or(set.word("network"), "host"), set.github)
	if err := errors.Join(err, undo(ctx, c.clear)); err != nil {
		return built{}, errors.Join(err, undo(ctx, c.end))
	}
	return built{
		section: fmt.Sprintf("host: %q\nagent: %q\nimage: %q\npull: never\nuser: runner\nnetwork: host\nmax: %d\ngrace: 1s\n", c.host, set.agent, name, set.runners),
		end:     c.end,
	}, nil
}

// engineHost is the address of an engine: as the user says, or the first socket that is there.
func engineHost(configured string, env func(string) string) string {
	if host := cmp.Or(configured, env("DOCKER_HOST")); host != "" {
		return host
	}
	sockets := []string{"/var/run/docker.sock", "/run/podman/podman.sock"}
	if run := env("XDG_RUNTIME_DIR"); run != "" {
		sockets = append(sockets, filepath.Join(run, "docker.sock"), filepath.Join(run, "podman", "podman.sock"))
	}
	for _, at := range sockets {
		if info, err := os.Stat(at); err == nil && info.Mode()&os.ModeSocket != 0 {
			return "unix://" + at
		}
	}
	return ""
}

// load gives the engine the runners' image.
func (c *containers) load(ctx context.Context, set props) (string, error) {
	img, err := makeImage(set.agent, set.runner, set.look)
	if err != nil {
		return "", err
	}
	if _, err := c.ImageInspect(ctx, img.name); err == nil {
		return img.name, nil // of another demo, which removes it
	}
	c.image = img.name
	answer, err := c.ImageLoad(ctx, bytes.NewReader(img.archive))
	if err != nil {
		return "", fmt.Errorf("give the engine the runners' image: %w", err)
	}
	said, err := io.ReadAll(io.LimitReader(answer, 1<<20))
	if err := errors.Join(err, answer.Close()); err != nil {
		return "", fmt.Errorf("give the engine the runners' image: %w", err)
	}
	if _, err := c.ImageInspect(ctx, img.name); err != nil {
		return "", fmt.Errorf("the engine did not take the runners' image: %w: %.300s", err, said)
	}
	return img.name, nil
}

// probe looks whether a container reaches what the demo listens on.
func (c *containers) probe(ctx context.Context, name, network, address string) error {
	made, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config:     &container.Config{Image: name, Entrypoint: []string{"/bin/bash", "-c", dial(address)}, Labels: map[string]string{ownerLabel: c.owner}},
		HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode(network)},
	})
	if err != nil {
		return fmt.Errorf("make a container: %w", err)
	}
	if _, err := c.ContainerStart(ctx, made.ID, client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("start a container: %w", err)
	}
	wait := c.ContainerWait(ctx, made.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	select {
	case err = <-wait.Error:
	case result := <-wait.Result:
		if result.StatusCode != 0 {
			err = fmt.Errorf("a container of the engine at %s does not reach %s, where the simulated GitHub listens: the demo needs an engine on this very machine, not in a virtual one or in a user's own network", c.host, address)
		}
	}
	return err
}

// dial is a script for bash that succeeds if it can connect.
func dial(address string) string {
	host, port, _ := net.SplitHostPort(address)
	return fmt.Sprintf("exec 3<>/dev/tcp/%s/%s", host, port)
}

// clear removes the containers of this demo: the one that looked around, and what an
// interrupted demo has left.
func (c *containers) clear(ctx context.Context) error {
	left, err := c.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", ownerLabel+"="+c.owner)})
	errs := []error{err}
	for _, one := range left.Items {
		_, err := c.ContainerRemove(ctx, one.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		if !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// end removes what is left.
func (c *containers) end(ctx context.Context) error {
	errs := []error{c.clear(ctx)}
	if c.image != "" {
		// Another demo may use it by now.
		if _, err := c.ImageRemove(ctx, c.image, client.ImageRemoveOptions{}); !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, c.Close())...)
}

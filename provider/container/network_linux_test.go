package container

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider/container/enginetest"
)

// service listens on an address of this network and says hello to whoever connects.
func service(t *testing.T, address string) string {
	t.Helper()
	l := listen(t, address)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "hello\n")
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// reaches reports whether a container gets an answer from an address.
func reaches(t *testing.T, e *enginetest.Engine, name, address string) bool {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(in(t, e, name, fmt.Sprintf("nc -w 2 %s %s </dev/null 2>/dev/null || true", host, port)), "hello")
}

func address(t *testing.T, e *enginetest.Engine, name string) string {
	t.Helper()
	return e.Tool(t, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name)
}

func gateway(t *testing.T, e *enginetest.Engine, name string) string {
	t.Helper()
	if e.Name == "docker" { // which does not tell containers of a gateway that leads nowhere
		net := e.Tool(t, "inspect", "--format", "{{.HostConfig.NetworkMode}}", name)
		return e.Tool(t, "network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", net)
	}
	return e.Tool(t, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}", name)
}

// S4-46 S4-64 S4-65: runners of two workspaces do not reach each other; one without a way out reaches
// what is put on its bridge, the control plane, and nothing else.
func TestNetworks(t *testing.T) {
	for name, start := range engines {
		t.Run(name, func(t *testing.T) { networks(t, start(t, enginetest.Options{})) })
	}
}

func networks(t *testing.T, e *enginetest.Engine) {
	there := enginetest.Elsewhere(t)
	loop := service(t, "127.0.0.1:0")
	for mode, want := range map[string]struct{ out, loopback bool }{
		"none":         {false, false},
		"bridge":       {true, false},
		"host":         {true, true},
		"workspace":    {true, false},
		"internal":     {false, false},
		"named-by-ops": {false, false},
	} {
		t.Run(mode, func(t *testing.T) {
			c := config(t, e)
			c.Network = mode
			switch mode {
			case "internal":
				c.Network, c.Internal = networkWorkspace, true
			case "named-by-ops":
				e.Tool(t, "network", "create", "--internal", mode)
				t.Cleanup(func() { e.Tool(t, "network", "rm", mode) })
			}
			p := open(t, c)
			a, b := specFor("r-net-a"), specFor("r-net-b")
			b.Workspace = "other"
			one, two := create(t, p, a), create(t, p, b)
			if got := reaches(t, e, one.ID, there); got != want.out {
				t.Errorf("the outside is reached: %v", got)
			}
			if got := reaches(t, e, one.ID, loop); got != want.loopback {
				t.Errorf("this machine's loopback is reached: %v", got)
			}
			if c.Network == networkWorkspace {
				e.Tool(t, "exec", "-d", two.ID, "/bin/sh", "-c", "echo hello | nc -l -p 7777")
				if reaches(t, e, one.ID, address(t, e, two.ID)+":7777") {
					t.Error("a runner reaches one of another workspace")
				}
				// What stands on the bridge itself is reached: there the control plane is put.
				spec := specFor("r-net-c")
				gw := gateway(t, e, one.ID)
				control := newPlane(t, gw+":0")
				spec.Boot.URL, spec.Boot.Token = control.URL, "token-on-the-bridge"
				create(t, p, spec)
				control.connected(t, "token-on-the-bridge")
				destroy(t, p, "r-net-c")
			}
			for _, id := range []muster.RunnerID{"r-net-a", "r-net-b"} {
				destroy(t, p, id)
			}
			if nets := e.Tool(t, "network", "ls", "-q", "--filter", "label="+labelOwner); nets != "" {
				t.Errorf("networks are left: %s", nets)
			}
		})
	}
	t.Run("NetworkThatIsNotThere", func(t *testing.T) {
		c := config(t, e)
		c.Network = "nowhere"
		if _, err := open(t, c).Create(t.Context(), specFor("r-nonet")); err == nil || !strings.Contains(err.Error(), "nowhere") {
			t.Errorf("%v", err)
		}
		if left := e.Containers(t); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	})
}

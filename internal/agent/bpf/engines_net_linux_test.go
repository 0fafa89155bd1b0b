//go:build linux && (amd64 || arm64)

package bpf

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/provider/container/enginetest"
)

// S4-65: the policy of a job holds for the containers of its engine, for what these look up by the
// resolver that the engine is to them, and for what the engine fetches itself.
func TestEnginesEgress(t *testing.T) {
	if !enginetest.IsolateOnNode(t) {
		return
	}
	l := makeLab(t, true)
	if err := unix.Mount(l.resolv, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	e := enginetest.Docker(t, enginetest.Options{})
	e.Tool(t, "network", "create", "own")
	r := openRecorder(t, l)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bystander := l.start()

	// within has a container of a network do things, under a policy, and returns what came of
	// each and what was told.
	within := func(t *testing.T, mode trace.EgressMode, options string, acts ...string) ([]string, []trace.Event) {
		t.Helper()
		out := filepath.Join(t.TempDir(), "out")
		a := ask(t, r, e, Follow{Engines: EnginesNetwork, Egress: policyOf(mode)}, fmt.Sprintf(
			"printf '%s\\n' | docker run --rm -i %s -e %s=1 -v %s:/act:ro %s /act > %s", strings.Join(acts, `\n`), options, actVariable, self, enginetest.Image, out))
		if err := a.finish(); err != nil {
			t.Fatal(err)
		}
		events := collect(t, a.scope)
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(text)), "\n"), events
	}
	compare := func(t *testing.T, acts []string, got, want []string, events []trace.Event) {
		t.Helper()
		if len(got) != len(want) {
			t.Fatalf("%q came of %q", got, acts)
		}
		for i := range want {
			if !strings.HasPrefix(got[i], want[i]) {
				t.Errorf("%s: %s, want %s", acts[i], got[i], want[i])
			}
		}
		if t.Failed() {
			t.Log(show(events))
		}
	}

	for name, options := range map[string]string{"OwnNetwork": "--network own", "Bridge": "", "Machine": "--network host"} {
		resolver := resolverAt
		if name == "OwnNetwork" {
			resolver = dockerResolver.String()
		}
		t.Run(name, func(t *testing.T) {
			acts := []string{
				"tcp " + deniedAt + ":443", "tcp " + freeAt + ":443", "udp " + deniedAt + ":443", "ping " + deniedAt, "mptcp " + deniedAt + ":443",
				"lookup udp " + resolver + " evil.test", "lookup udp " + resolver + " secret.tunnel.test", "tcp " + allowedAt + ":443",
				"fetch " + resolver + " allowed.test:443", "tls " + allowedAt + ":443 allowed.test", "tls " + allowedAt + ":443 evil.test", "tcp " + metadataAt + ":80",
			}
			want := []string{
				refused, "ok", refused, refused, refused,
				refused, refused, refused,
				"ok " + allowedAt, "ok", "", refused,
			}
			got, events := within(t, trace.EgressEnforce, options, acts...)
			compare(t, acts, got, want, events)
			if strings.HasPrefix(got[10], "ok") {
				t.Errorf("another name behind an allowed address: %s", got[10])
			}
			for _, like := range []trace.Event{
				{Type: trace.NetConnect, Address: deniedAt, Port: 443, Verdict: trace.VerdictDenied},
				{Type: trace.NetConnect, Address: allowedAt, Port: 443, Hostname: "allowed.test", Verdict: trace.VerdictAllowed},
				{Type: trace.DNSQuery, Hostname: "evil.test", Verdict: trace.VerdictDenied},
				{Type: trace.DNSQuery, Hostname: "allowed.test", Verdict: trace.VerdictAllowed},
				{Type: trace.TLSHello, Hostname: "evil.test", Verdict: trace.VerdictDenied},
			} {
				found := find(events, like)
				if len(found) == 0 || len(found[0].Container) != 64 && like.Hostname != "allowed.test" {
					t.Errorf("%+v is not told of a container: %v", like, found)
				}
			}
			if l.wasAsked("secret.tunnel.test") || l.wasAsked("evil.test") {
				t.Error("a refused name came as far as the resolver")
			}
			own(t, events)
		})
	}
	t.Run("Audit", func(t *testing.T) {
		acts := []string{"tcp " + deniedAt + ":443"}
		got, events := within(t, trace.EgressAudit, "--network own", acts...)
		compare(t, acts, got, []string{"ok"}, events)
		if len(find(events, trace.Event{Type: trace.NetConnect, Address: deniedAt, Verdict: trace.VerdictWouldDeny})) == 0 {
			t.Errorf("it is not told:\n%s", show(events))
		}
	})
	if got := bystander.do("tcp", deniedAt+":443"); !strings.HasPrefix(got, "ok") {
		t.Errorf("a bystander: %s", got)
	}

	t.Run("Pull", func(t *testing.T) {
		a := ask(t, r, e, Follow{Engines: EnginesNetwork, Egress: policyOf(trace.EgressEnforce)},
			"docker pull evil.test/image; docker pull "+deniedAt+":443/image; docker pull allowed.test/image; true")
		if err := a.finish(); err != nil {
			t.Fatal(err)
		}
		events := collect(t, a.scope)
		for _, like := range []trace.Event{
			{Type: trace.DNSQuery, Command: "dockerd", Hostname: "evil.test", Verdict: trace.VerdictDenied},
			{Type: trace.NetConnect, Command: "dockerd", Address: deniedAt, Verdict: trace.VerdictDenied},
			{Type: trace.NetConnect, Command: "dockerd", Address: allowedAt, Hostname: "allowed.test", Verdict: trace.VerdictAllowed},
		} {
			if len(find(events, like)) == 0 {
				t.Errorf("%+v is not told:\n%s", like, show(events))
			}
		}
	})

	// A service is reached at the port of the machine that its engine passes on.
	t.Run("Service", func(t *testing.T) {
		a := ask(t, r, e, Follow{Engines: EnginesNetwork, Egress: policyOf(trace.EgressEnforce)},
			"docker run -d --name service -p 127.0.0.1:18080:80 "+enginetest.Image+" nc -ll -p 80 -e echo hello; for i in 1 2 3 4 5 6 7 8 9; do [ \"$(timeout 5 busybox nc 127.0.0.1 18080 < /dev/null)\" = hello ] && break; done; "+
				"got=$(timeout 5 busybox nc 127.0.0.1 18080 < /dev/null); docker rm -f service; [ \"$got\" = hello ]")
		err := a.finish()
		events := collect(t, a.scope)
		if err != nil {
			t.Errorf("%v\n%s", err, show(events))
		}
	})
}

package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster/internal/guest"
)

// S4-64 S4-65: a job reaches what is listed and nothing else: not the host's loopback,
// by whatever way, not its other addresses, not a name that leads there.
func TestEgress(t *testing.T) {
	l := requireLab(t)
	api := newPlane(t)
	listed, secret := secretServer(t), secretServer(t)
	_, port, _ := net.SplitHostPort(secret)
	// The host on another address than the loopback, where it has one.
	other := "127.0.0.2"
	if all, err := net.InterfaceAddrs(); err == nil {
		for _, a := range all {
			if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
				other = n.IP.String()
			}
		}
	}
	try := fmt.Sprintf(`f() { name=$1; shift; echo "$name $(./fetch "$@" 2>&1)"; }
f listed http://%[1]s/
f loopback http://127.0.0.1:%[2]s/
f gateway http://10.0.2.2:%[2]s/
for a in 127.0.0.1 localhost 10.0.2.2 %[3]s '[::ffff:127.0.0.1]' 169.254.169.254; do
  f "proxy-$a" "http://$a:%[2]s/" http://127.0.0.1:3128
done
f control http://127.0.0.1:%[4]s/v1/agent/boot http://127.0.0.1:3128
echo "cards $(ls /sys/class/net | wc -l)"
`, listed, port, other, strings.TrimPrefix(api.URL, "http://127.0.0.1:"))
	order := l.order("egress")
	order.Runner = t.TempDir()
	script := strings.Replace(runScript, `if [ -n "$TRY" ]; then sh -c "$TRY"; fi`, try, 1)
	if err := os.WriteFile(filepath.Join(order.Runner, "run.sh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", filepath.Join(order.Runner, "fetch"), "./testdata/fetch")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := BuildImage(t.Context(), order, testLog{}); err != nil {
		t.Fatal(err)
	}
	c := l.config(t.TempDir())
	// "*" means all the world, and still not the host: only the address that is written down.
	c.Image, c.Warm, c.Egress = "egress", false, []string{listed, "*:" + port, "*.example.com:443"}
	p := open(t, c)
	create(t, p, specFor("r-egress", api.URL))
	s := api.await(t, "r-egress", "is not listening", listening)
	if got := s.words("listed"); got != "200 the-secret-of-the-host" {
		t.Errorf("what is listed is not reached: %q", got)
	}
	if strings.Count(s.output, "the-secret-of-the-host") != 1 {
		t.Errorf("the host's loopback was reached:\n%s", s.output)
	}
	for _, way := range []string{"loopback", "gateway"} {
		if got := s.words(way); !strings.HasPrefix(got, "error") {
			t.Errorf("%s: %q", way, got)
		}
	}
	for _, way := range []string{"proxy-127.0.0.1", "proxy-localhost", "proxy-" + other, "proxy-169.254.169.254"} {
		if got := s.words(way); !strings.Contains(got, "502") {
			t.Errorf("%s: %q", way, got)
		}
	}
	if got := s.words("cards"); got != "1" {
		t.Errorf("the machine has %s network devices, and should have its loopback only", got)
	}
	api.mu.Lock()
	defer api.mu.Unlock()
	for _, asked := range api.asked {
		if !strings.HasPrefix(asked, "POST /v1/agent/") {
			t.Errorf("the control plane was asked for %s", asked)
		}
	}
}

// S4-65: the rules, without a machine.
func TestEgressRules(t *testing.T) {
	var rules egress
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, text := range []string{l.Addr().String(), "*.example.com:443", "github.com:*", "*:25", "10.1.2.3:80"} {
		r, err := parseEgress(text)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, r)
	}
	c, err := rules.dial(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatalf("what is listed: %v", err)
	}
	c.Close()
	for _, address := range []string{
		"127.0.0.1:1", "localhost:25", "[::1]:25", "127.0.0.1:25", "0.0.0.0:25", "169.254.169.254:25", "10.0.0.1:25", "192.168.1.1:25", "100.64.0.1:25", "[fe80::1%25lo]:25",
		"[::ffff:127.0.0.1]:25", "[64:ff9b::7f00:1]:25", "[2002:7f00:1::]:25", "example.com:443", "evilexample.com:443", "gitlab.com:443", "", "nonsense", "github.com",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		c, err := rules.dial(ctx, address)
		cancel()
		if err == nil {
			c.Close()
		}
		if !errors.Is(err, errDenied) {
			t.Errorf("%q: %v", address, err)
		}
	}
	for _, bad := range []string{"", "host", "host:0", "host:70000", "a*b:1", "*:", ":1", "127.0.0.1:*", "localhost:3128", "http://a:1", "user@a:1"} {
		if r, err := parseEgress(bad); err == nil {
			t.Errorf("%q is taken as %+v", bad, r)
		}
	}
	if (egress{}).proxy() != "" || len((egress{}).listen()) != 0 || rules.proxy() == "" || len(rules.listen()) != 1 {
		t.Error("what a machine listens on does not fit its rules")
	}
}

// The relay passes on the agent's routes, and nothing that merely looks like one.
func TestRelayRoutes(t *testing.T) {
	api := newPlane(t)
	r := &relay{url: api.URL, http: api.Client()}
	serve, err := r.connect(t.Context(), guest.ControlPlane)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(theirs)
	}()
	in := bufio.NewReader(ours)
	for request, want := range map[string]int{
		"POST /v1/agent/boot":             http.StatusOK,
		"GET /v1/agent/boot":              http.StatusForbidden,
		"POST /v1/agent/../admin":         http.StatusForbidden,
		"POST /v1/agentx":                 http.StatusForbidden,
		"POST /v1/agent/boot?x=1":         http.StatusForbidden,
		"POST /v1/agent/%2e%2e/admin":     http.StatusForbidden,
		"POST /muster.v1.PoolService/Get": http.StatusForbidden,
	} {
		if _, err := fmt.Fprintf(ours, "%s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", request); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != want {
			t.Errorf("%s: %s, %v", request, res.Status, err)
		}
	}
	ours.Close()
	<-done
	if _, err := r.connect(t.Context(), "127.0.0.1:1"); !errors.Is(err, errDenied) {
		t.Errorf("an address that is not listed: %v", err)
	}
	if _, err := (&relay{}).connect(t.Context(), guest.ControlPlane); err == nil {
		t.Error("a kept machine has a control plane")
	}
}

package cli_test

import (
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster/internal/cli"
	"github.com/muster-ci/muster/provider"
)

// A test of a provider that fails says which step and why, and exits with 1.
func TestProviderCheckFails(t *testing.T) {
	p := newPlane(t)
	r := p.muster(t, "provider", "check", "cloud", "--offering", "gpu")
	if r.code != 1 || !strings.Contains(r.out, "there is no run.sh, and the control plane names no download") || !strings.Contains(r.out, "provider cloud does not work: runner program failed; muster runner show r-check") {
		t.Errorf("status %d\n%s%s", r.code, r.out, r.errOut)
	}
	if r := p.muster(t, "provider", "check", "nowhere"); r.code != 1 || !strings.Contains(r.errOut, "nowhere") {
		t.Errorf("status %d: %s", r.code, r.errOut)
	}
	if r := p.muster(t, "provider", "check"); r.code != 2 {
		t.Errorf("no name: status %d: %s", r.code, r.errOut)
	}
	if got := strings.Join(p.asked, "\n"); !strings.Contains(got, "check cloud gpu") {
		t.Errorf("asked: %s", got)
	}
}

func TestProviderPage(t *testing.T) {
	page := cli.ProviderPage(provider.Description{
		Kind: "paper", Summary: "Runners on paper.", Isolation: "That of paper.", Needs: []string{"Paper.", "A pen."}, ConnectTimeout: 90 * time.Second, Queues: true,
		NoGPUs: "paper has none", Settings: []provider.Setting{{Key: "max", Type: "whole number", Default: "3", Help: "how many | sheets"}},
		Example: "providers: []\n", Guide: "## Set-up\n\nFold it.\n",
	})
	for _, want := range []string{
		"# Provider paper\n", "Runners on paper.", "**Isolation.** That of paper.", "- A pen.\n", "within 1m30s, counted from when", "**GPUs.** None: paper has none.", "`spot` of the offering is passed on",
		"```yaml\nproviders: []\n```", "| `max` | whole number | `3` | how many \\| sheets |", "## Set-up\n\nFold it.\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
}

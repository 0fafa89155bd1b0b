package slurm_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/gateway"
	"github.com/muster-ci/muster/internal/secretbox"
	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/providertest"
	"github.com/muster-ci/muster/provider/slurm"
	"github.com/muster-ci/muster/provider/slurm/slurmtest"
)

// launcher is a control plane's half: it turns the tokens of the conformance suite
// into launch tokens.
type launcher struct {
	provider.Provider
	tokens *secretbox.Tokens
	page   string

	mu     *sync.Mutex
	minted map[string]string // launch token → what the suite gave
}

func (l launcher) Create(ctx context.Context, s provider.Spec) (provider.Instance, error) {
	if s.Boot.Token != "" && s.Boot.URL != "" && s.Runner != "" {
		c := secretbox.BootClaims{
			JTI: fmt.Sprint(time.Now().UnixNano()), Runner: s.Runner, Workspace: "default", Pool: "linux", Audience: strings.TrimRight(s.Boot.URL, "/"), ExpiresAt: time.Now().Add(time.Hour),
			Build: muster.BuildRequest{Owner: "acme", Repository: "web", RepositoryURL: l.page, GitHubURL: l.page, Labels: "hpc", Job: 1},
		}
		token, err := l.tokens.Mint(c)
		if err != nil {
			return provider.Instance{}, err
		}
		l.mu.Lock()
		l.minted[token.Reveal()] = s.Boot.Token.Reveal()
		l.mu.Unlock()
		s.Boot.Token = token
	}
	s.Build = muster.BuildRequest{GitHubURL: l.page}
	return l.Provider.Create(ctx, s)
}

const secret = "conformance-gateway-secret"

// throughGateway makes a gateway over the cluster, as SlurmUser, and the way to open
// providers of it.
func throughGateway(t *testing.T, s *stand, user string) (func(u providertest.T, owner string, max int) provider.Provider, map[string]string, *sync.Mutex) {
	t.Helper()
	box, err := secretbox.New([]byte(strings.Repeat("k", secretbox.KeySize)))
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := secretbox.NewTokens(box)
	if err != nil {
		t.Fatal(err)
	}
	keys, shared := filepath.Join(t.TempDir(), "keys.json"), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(keys, tokens.PublicKeys(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(shared, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const page = "https://github.com/acme/web"
	minted, mu := map[string]string{}, &sync.Mutex{}
	return func(u providertest.T, owner string, max int) provider.Provider {
		cfg := s.cfg
		// The SlurmUser's token, by the command that the site would give.
		cfg.User, cfg.TokenFile, cfg.SubmitAs = s.User, "", true
		cfg.TokenCommand, cfg.TokenLifetime = []string{"/usr/bin/env", "SLURM_CONF=" + s.Conf, "scontrol", "token", "username=" + s.User, "lifespan=600"}, provider.Duration(5*time.Minute)
		if max > 0 {
			cfg.Max = max
		}
		cluster, err := slurm.Open(cfg)
		if err != nil {
			u.Fatalf("open the cluster: %v", err)
		}
		g, err := gateway.New(gateway.Config{
			AppURL: "http://127.0.0.1:9", AuthToken: secret, KeysFile: keys, Slurm: cluster, Logger: cfg.Logger,
			Repositories: []gateway.Repository{{GitHubURL: page, SlurmUser: user}},
		})
		if err != nil {
			u.Fatalf("make the gateway: %v", err)
		}
		srv := httptest.NewServer(g)
		u.Cleanup(srv.Close)
		mine := slurm.Defaults()
		mine.GatewayURL, mine.GatewayTokenFile, mine.Owner = srv.URL, shared, owner
		if err := mine.Validate(); err != nil {
			u.Fatalf("%v", err)
		}
		p, err := slurm.New(mine)
		if err != nil {
			u.Fatalf("open: %v", err)
		}
		return launcher{p, tokens, page, mu, minted}
	}, minted, mu
}

// S2-2 S2-4 S2-7 S2-16 4-36: every promise of the contract again, through the gateway, which acts as
// SlurmUser and submits as the user of its map. The provider has no credential of Slurm.
func TestConformanceGateway(t *testing.T) {
	s := newStand(t, slurm.TransportREST, slurmtest.Options{CPUs: 64})
	user := s.Users[1]
	open, minted, mu := throughGateway(t, s, user)
	h := s.harness(t, open)
	exposed := h.Exposed
	h.Exposed = func(u providertest.T, owner string, runner muster.RunnerID) map[string]string {
		for _, p := range s.processes(u, owner, runner) {
			if uid := ownerOf(t, p.PID); uid != user {
				t.Errorf("the job runs as %s and not as %s", uid, user)
			}
		}
		places := exposed(u, owner, runner)
		mu.Lock()
		defer mu.Unlock()
		for place, text := range places {
			for token, canary := range minted {
				text = strings.ReplaceAll(text, token, canary)
			}
			places[place] = text
		}
		return places
	}
	providertest.Run(t, h)
	if left := s.Queue(t); len(left) > 0 {
		t.Errorf("left in the queue: %v", left)
	}
}

package server

import (
	"testing"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
)

// 4-7 S3-7: the end of a job is left to agents where every machine has one that tells it.
func TestEndsTold(t *testing.T) {
	providers := []config.Provider{{Name: "local", Kind: "process"}, {Name: "old", Kind: "garm"}}
	for name, c := range map[string]struct {
		pool muster.Pool
		left bool
	}{
		"Agent": {muster.Pool{Provider: "local"}, true}, "Kept": {muster.Pool{Provider: "local", Lifecycle: muster.LifecycleKept}, false}, "Scripts": {muster.Pool{Provider: "old"}, false},
	} {
		cfg := config.Config{Providers: providers, Pools: []muster.Pool{{Provider: "local"}, c.pool}}
		if got := endsTold(cfg); (got > 0) != c.left {
			t.Errorf("%s: %s", name, got)
		}
	}
}

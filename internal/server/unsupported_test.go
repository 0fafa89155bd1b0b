package server

import (
	"strings"
	"testing"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
)

func TestUnsupported(t *testing.T) {
	kept := muster.Pool{Name: "vms", Lifecycle: muster.LifecycleKept, Registration: muster.RegistrationPreregistered}
	err := unsupported(config.Config{Pools: []muster.Pool{muster.Pool{Name: "fine"}.WithDefaults(), kept}})
	if err == nil || !strings.Contains(err.Error(), "use ephemeral") || !strings.Contains(err.Error(), "use jit") || strings.Contains(err.Error(), "fine") {
		t.Errorf("got %v", err)
	}
}

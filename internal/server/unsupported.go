package server

import (
	"errors"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
)

// unsupported names every setting that the configuration knows and this release
// does not act on: a pool that silently did something else would be worse than
// one that is refused.
func unsupported(cfg config.Config) error {
	var errs []error
	for _, p := range cfg.Pools {
		if p.Lifecycle != muster.LifecycleEphemeral {
			errs = append(errs, muster.Errorf(muster.CodeInvalid, "pool %s: lifecycle %s comes with a later release; use ephemeral", p.Name, p.Lifecycle))
		}
		if p.Registration != muster.RegistrationJIT {
			errs = append(errs, muster.Errorf(muster.CodeInvalid, "pool %s: registration %s comes with a later release; use jit", p.Name, p.Registration))
		}
	}
	return errors.Join(errs...)
}

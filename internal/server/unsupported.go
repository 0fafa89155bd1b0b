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
		switch {
		case p.Keeps() && (p.Machine == "" || p.Registration != muster.RegistrationPreregistered):
			errs = append(errs, muster.Errorf(muster.CodeInvalid, "pool %s: lifecycle kept needs machine, the name of one that exists, and registration: preregistered", p.Name))
		case !p.Keeps() && p.Registration == muster.RegistrationPreregistered:
			errs = append(errs, muster.Errorf(muster.CodeInvalid, "pool %s: registration preregistered is for machines that are kept; use jit, or lifecycle: kept with machine", p.Name))
		case p.Registration == muster.RegistrationToken:
			errs = append(errs, muster.Errorf(muster.CodeInvalid, "pool %s: registration %s comes with a later release; use jit", p.Name, p.Registration))
		}
	}
	return errors.Join(errs...)
}

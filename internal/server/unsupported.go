package server

import (
	"errors"
	"strings"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/config"
)

// unsupported names every combination of settings that the configuration knows
// and that cannot work: a pool that silently did something else would be worse
// than one that is refused.
func unsupported(cfg config.Config) error {
	var errs []error
	for _, p := range cfg.Pools {
		switch {
		case p.Keeps() && (p.Machine == "" || p.Registration != muster.RegistrationPreregistered):
			errs = append(errs, muster.Errorf(muster.CodeInvalid, "pool %s: lifecycle kept needs machine, the name of one that exists, and registration: preregistered", p.Name))
		case !p.Keeps() && p.Registration == muster.RegistrationPreregistered:
			errs = append(errs, muster.Errorf(muster.CodeInvalid, "pool %s: registration preregistered is for machines that are kept; use jit, or lifecycle: kept with machine", p.Name))
		case p.Registration == muster.RegistrationToken && len(p.RunnerLabels) > 0 && strings.HasPrefix(p.RunnerLabels[0], "-"):
			// config.sh would take it for an option.
			errs = append(errs, muster.Errorf(muster.CodeInvalid, "pool %s: with registration %s the first label must not begin with '-': put another first", p.Name, p.Registration))
		}
	}
	return errors.Join(errs...)
}

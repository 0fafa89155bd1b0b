package lifecycle

import (
	"context"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/usage"
)

// offerings is a store that knows one offering.
type offerings struct{ Store }

func (offerings) Offering(_ context.Context, _, name string) (muster.Offering, error) {
	if name != "big" {
		return muster.Offering{}, muster.Errorf(muster.CodeNotFound, "no offering %s", name)
	}
	return muster.Offering{Name: "big", PriceMicroUSD: 100}, nil
}

// C2: what runs on a kept machine is billed like anything else.
func TestBillKept(t *testing.T) {
	a := &Activities{Deps: Deps{Store: offerings{}, Book: usage.Book{Rounding: usage.PerMinute}}}
	p := keptPools("a").Pools[0]
	p.Offering = "big"
	j := muster.Job{Repository: "octo/a", RunnerName: "vm"}
	r := muster.Receipt{Run: 90 * time.Second}
	if got := a.billKept(t.Context(), j, p, r); got.Offering != "big" || got.Billed != 2*time.Minute || got.CostMicroUSD != 200 {
		t.Errorf("%+v", got)
	}
	elsewhere := j
	elsewhere.RunnerName = "GitHub Actions 7"
	if got := a.billKept(t.Context(), elsewhere, p, r); got != r {
		t.Errorf("ran elsewhere: %+v", got)
	}
	p.Offering = "gone"
	if got := a.billKept(t.Context(), j, p, r); got.CostMicroUSD != 0 || got.Billed != 2*time.Minute {
		t.Errorf("without a price: %+v", got)
	}
}

package usage

import (
	"math"
	"math/bits"
	"time"

	"github.com/muster-ci/muster"
)

// Rounding is how a run is rounded before it is priced; it is a property of the
// plan (4-48).
type Rounding string

// The roundings. The zero Rounding is PerMinute.
const (
	// PerMinute rounds up to full minutes; what ran at all is at least one.
	PerMinute Rounding = "minute"
	// PerSecond rounds up to full seconds.
	PerSecond Rounding = "second"
)

// Book is a price book. The zero Book prices every offering as the offering says,
// per minute, in US dollars.
type Book struct {
	// Currency labels amounts; empty means "USD". Nothing is ever converted.
	Currency string
	Rounding Rounding
	// Prices are millionths of the currency per minute, by the offering's name;
	// they overrule the price that the offering itself carries.
	Prices map[string]int64
}

// Validate returns a CodeInvalid error with a remedy, or nil.
func (b Book) Validate() error {
	if b.Rounding != "" && b.Rounding != PerMinute && b.Rounding != PerSecond {
		return muster.Errorf(muster.CodeInvalid, "rounding %q is unknown: use minute or second", b.Rounding)
	}
	for name, price := range b.Prices {
		if price < 0 {
			return muster.Errorf(muster.CodeInvalid, "the price of offering %s must not be negative", name)
		}
	}
	return nil
}

// Label is the currency to show beside an amount.
func (b Book) Label() string {
	if b.Currency == "" {
		return "USD"
	}
	return b.Currency
}

// Price is what one minute of the offering costs, in millionths; never negative.
func (b Book) Price(o muster.Offering) int64 {
	if p, ok := b.Prices[o.Name]; ok {
		return max(0, p)
	}
	return max(0, o.PriceMicroUSD)
}

// Bill rounds a run that took place. A negative one counts as 0, because GitHub
// sometimes reports odd times (4-48).
func (b Book) Bill(run time.Duration) time.Duration {
	run = max(0, run)
	if b.Rounding == PerSecond {
		return roundUp(run, time.Second)
	}
	return max(time.Minute, roundUp(run, time.Minute))
}

func roundUp(d, unit time.Duration) time.Duration {
	if rest := d % unit; rest > 0 {
		if d > math.MaxInt64-unit {
			return d - rest
		}
		return d - rest + unit
	}
	return d
}

// Cost is billed × price per minute in millionths, rounded half up; the largest
// int64 if it does not fit. What Bill returned is whole seconds, so nothing is
// lost by counting in them.
func Cost(billed time.Duration, pricePerMinute int64) int64 {
	seconds, price := uint64(max(0, billed)/time.Second), uint64(max(0, pricePerMinute))
	hi, lo := bits.Mul64(seconds, price)
	lo, carry := bits.Add64(lo, 30, 0)
	hi += carry
	if hi >= 60 {
		return math.MaxInt64
	}
	cost, _ := bits.Div64(hi, lo, 60)
	return int64(min(cost, math.MaxInt64))
}

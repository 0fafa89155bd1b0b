package provider

// Unwrapper is implemented by providers that stand before another one, to count
// its calls for example.
type Unwrapper interface {
	Unwrap() Provider
}

// As finds the first provider in the chain of p and what it wraps that is a T.
// Optional interfaces (StartStopper, Pricer, Consoler, Described) are to be looked
// for with it, because a wrapper has only those that it adds something to.
func As[T any](p Provider) (T, bool) {
	for p != nil {
		if t, ok := p.(T); ok {
			return t, true
		}
		w, ok := p.(Unwrapper)
		if !ok {
			break
		}
		p = w.Unwrap()
	}
	var none T
	return none, false
}

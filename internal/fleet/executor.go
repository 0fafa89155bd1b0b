package fleet

import "context"

// Executor bounds how many operations are under way at once. All pools share
// one (S1-111). Safe for concurrent use.
type Executor struct{ places chan struct{} }

// NewExecutor makes an executor of n places.
func NewExecutor(n int) *Executor { return &Executor{places: make(chan struct{}, n)} }

// Do runs op in the caller's goroutine once a place is free. It returns op's
// error, or the context's if that ended first.
func (e *Executor) Do(ctx context.Context, op func() error) error {
	select {
	case e.places <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-e.places }()
	return op()
}

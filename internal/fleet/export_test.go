package fleet

import (
	"context"
	"sync"

	"github.com/muster-ci/muster"
)

// RunUntilKilled is Run without its end: when ctx ends, everything stops where it
// is, as after kill -9.
func (f *Fleet) RunUntilKilled(ctx context.Context) {
	work, stop := f.begin(ctx)
	defer stop()
	if f.find(ctx, work) != nil {
		return
	}
	var loops sync.WaitGroup
	loops.Go(func() { f.checks(ctx, work) })
	loops.Go(func() { f.healths(ctx) })
	loops.Wait()
}

// NewID is newID.
func (f *Fleet) NewID() muster.RunnerID { return f.newID() }

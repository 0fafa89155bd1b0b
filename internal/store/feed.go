package store

import (
	"context"
	"sync"

	"github.com/muster-ci/muster"
)

// feedBuffer is how many changes a subscriber may lag behind before it misses some.
const feedBuffer = 256

// feed tells subscribers in this process what was committed. The zero feed is ready.
type feed struct {
	mu     sync.Mutex
	subs   map[chan muster.Change]func() bool
	closed bool
}

// Subscribe returns a channel on which every change that this process commits
// is sent, after its commit. A reader that lags behind misses changes, and other
// processes' changes are not seen: read the store for the truth. The channel is
// closed when ctx ends or the Store is closed.
func (s *Store) Subscribe(ctx context.Context) <-chan muster.Change {
	f := &s.feed
	c := make(chan muster.Change, feedBuffer)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		close(c)
		return c
	}
	if f.subs == nil {
		f.subs = make(map[chan muster.Change]func() bool)
	}
	f.subs[c] = context.AfterFunc(ctx, func() { f.remove(c) })
	return c
}

func (f *feed) publish(changes []muster.Change) {
	if len(changes) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.subs {
		for _, change := range changes {
			select {
			case c <- change:
			default: // a slow reader never holds up a writer
			}
		}
	}
}

func (f *feed) remove(c chan muster.Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.subs[c]; ok {
		delete(f.subs, c)
		close(c)
	}
}

func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for c, stop := range f.subs {
		stop()
		close(c)
	}
	f.subs = nil
}

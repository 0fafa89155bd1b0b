package githubsim

import (
	"container/heap"
	"sync"
	"time"
)

// agenda runs functions at their time, one after the other, in one goroutine that
// starts with the first entry and ends with close.
type agenda struct {
	now func() time.Time

	mu      sync.Mutex
	entries entryHeap
	seq     uint64
	wake    chan struct{}
	done    chan struct{}
	closed  bool
	running bool
}

type entry struct {
	at    time.Time
	seq   uint64
	index int // in the heap; -1 when run or cancelled
	do    func()
}

func newAgenda(now func() time.Time) *agenda {
	return &agenda{now: now, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// after runs do once d has passed on the agenda's clock.
func (a *agenda) after(d time.Duration, do func()) *entry {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seq++
	e := &entry{at: a.now().Add(d), seq: a.seq, index: -1, do: do}
	if a.closed {
		return e
	}
	heap.Push(&a.entries, e)
	if !a.running {
		a.running = true
		go a.run()
	}
	if e.index == 0 {
		a.poke()
	}
	return e
}

// cancel keeps e from running; a nil or finished entry is fine.
func (a *agenda) cancel(e *entry) {
	if e == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if e.index >= 0 {
		heap.Remove(&a.entries, e.index)
	}
}

func (a *agenda) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *agenda) run() {
	defer close(a.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		do, wait, open := a.next()
		if !open {
			return
		}
		if do != nil {
			do()
			continue
		}
		timer.Reset(wait)
		select {
		case <-a.wake:
		case <-timer.C:
		}
	}
}

// next returns the function that is due, or how long to wait for one.
func (a *agenda) next() (do func(), wait time.Duration, open bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, 0, false
	}
	if len(a.entries) == 0 {
		return nil, time.Hour, true
	}
	if wait = a.entries[0].at.Sub(a.now()); wait > 0 {
		// An injected clock may stand still; never spin on it.
		return nil, max(wait, time.Millisecond), true
	}
	return heap.Pop(&a.entries).(*entry).do, 0, true
}

// close drops what is not yet due and waits for what is running.
func (a *agenda) close() {
	a.mu.Lock()
	a.closed = true
	running := a.running
	a.entries = nil
	a.mu.Unlock()
	a.poke()
	if running {
		<-a.done
	}
}

type entryHeap []*entry

func (h entryHeap) Len() int { return len(h) }
func (h entryHeap) Less(i, j int) bool {
	if h[i].at.Equal(h[j].at) {
		return h[i].seq < h[j].seq
	}
	return h[i].at.Before(h[j].at)
}
func (h entryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *entryHeap) Push(x any) {
	e := x.(*entry)
	e.index = len(*h)
	*h = append(*h, e)
}
func (h *entryHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.index = -1
	return e
}

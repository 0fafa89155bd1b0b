package web

import (
	"sync"
	"time"
)

// cached keeps the last answer of a costly question for a short while, so that
// many open pages cost as much as one. While one caller asks, the others wait
// for its answer. The zero value is ready; safe for concurrent use.
type cached[T any] struct {
	mu    sync.Mutex
	value T
	until time.Time
}

// get returns the kept answer, or asks and keeps the answer for ttl. Errors are
// not kept.
func (c *cached[T]) get(now time.Time, ttl time.Duration, ask func() (T, error)) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Before(c.until) {
		return c.value, nil
	}
	v, err := ask()
	if err != nil {
		return v, err
	}
	c.value, c.until = v, now.Add(ttl)
	return v, nil
}

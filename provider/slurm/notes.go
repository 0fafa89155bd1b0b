package slurm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/muster-ci/muster/provider"
)

// notes remember which ended jobs were deleted, because Slurm shows a job that has
// ended until its MinJobAge has passed and lets nobody change it any more. A note is
// an empty file; without a directory notes live in memory. One that is lost makes a
// job appear that has ended, and it is deleted again.
type notes struct {
	dir string

	mu     sync.Mutex
	memory map[string]time.Time
	pruned time.Time
}

// name is the note's. The time is in it because numbers of jobs come again.
func (n *notes) name(j job) string { return fmt.Sprintf("%d-%d", j.id, j.submitted.Unix()) }

func (n *notes) put(j job) error {
	if n.dir == "" {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.memory == nil {
			n.memory = map[string]time.Time{}
		}
		n.memory[n.name(j)] = time.Now()
		return nil
	}
	err := os.MkdirAll(n.dir, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(n.dir, n.name(j)), nil, 0o600)
	}
	if err != nil {
		return fmt.Errorf("%w: note that job %d is deleted: %w", provider.ErrTransient, j.id, err)
	}
	return nil
}

func (n *notes) has(j job) bool {
	if n.dir == "" {
		n.mu.Lock()
		defer n.mu.Unlock()
		_, ok := n.memory[n.name(j)]
		return ok
	}
	_, err := os.Stat(filepath.Join(n.dir, n.name(j)))
	return err == nil
}

// keepNote is for how long a note of a job that Slurm does not show any more is kept,
// in case that it was only not shown just then.
const keepNote = time.Hour

// prune removes, once in a while, the notes of jobs that Slurm has forgotten.
func (n *notes) prune(known []job) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if now.Sub(n.pruned) < keepNote {
		return
	}
	n.pruned = now
	shown := map[string]bool{}
	for _, j := range known {
		shown[n.name(j)] = true
	}
	for name, at := range n.memory {
		if !shown[name] && now.Sub(at) > keepNote {
			delete(n.memory, name)
		}
	}
	if n.dir == "" {
		return
	}
	entries, err := os.ReadDir(n.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return // they are small, and the next time comes
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && !shown[e.Name()] && now.Sub(info.ModTime()) > keepNote {
			_ = os.Remove(filepath.Join(n.dir, e.Name()))
		}
	}
}

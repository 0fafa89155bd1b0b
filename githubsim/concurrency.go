package githubsim

import (
	"strings"

	"github.com/muster-ci/muster/githubsim/workflow"
)

// slot is one concurrency group of a repository: one run or job holds it, and at
// most one waits for it.
type slot struct{ holder, next *claim }

// claim is a run or a job in a concurrency group.
type claim struct {
	key    string
	begin  func()
	cancel func()
}

// claim enters a concurrency group: what enters begins at once or when the holder
// is done, and whoever waited before it is cancelled. The caller holds mu.
func (s *Server) claim(r *repository, c *workflow.Concurrency, mine *claim) {
	mine.key = r.fullName() + "\x00" + strings.ToLower(c.Group)
	taken := s.slots[mine.key]
	if taken == nil {
		s.slots[mine.key] = &slot{holder: mine}
		mine.begin()
		return
	}
	before := taken.next
	taken.next = mine
	if before != nil {
		before.cancel()
	}
	if c.CancelInProgress == "true" {
		taken.holder.cancel()
	}
}

// leave gives a group to whoever waits for it.
func (s *Server) leave(mine *claim) {
	if mine == nil {
		return
	}
	taken := s.slots[mine.key]
	switch {
	case taken == nil:
	case taken.next == mine:
		taken.next = nil
	case taken.holder == mine && taken.next == nil:
		delete(s.slots, mine.key)
	case taken.holder == mine:
		taken.holder, taken.next = taken.next, nil
		taken.holder.begin()
	}
}

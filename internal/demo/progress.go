package demo

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster/githubsim"
	acme "github.com/muster-ci/muster/githubsim/demo"
)

// progress tells what goes on: a line for each act of the script and, on a
// terminal, a line below that is repainted; elsewhere a line for every ten jobs.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	live  bool
	began time.Time
	line  string // what is painted below now
	tens  int
}

func newProgress(out io.Writer, live bool) *progress {
	return &progress{out: out, live: live, began: time.Now()}
}

// say prints a line above the progress.
func (p *progress) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	fmt.Fprintf(p.out, "%5.1fs  %s\n", time.Since(p.began).Seconds(), text)
	p.paint()
}

// follow keeps the progress true until ctx ends.
func (p *progress) follow(ctx context.Context, sim *githubsim.Server) error {
	var last string
	for {
		var t githubsim.Truth
		err := sim.Wait(ctx, func(now githubsim.Truth) bool {
			t = now
			return state(now) != last
		})
		if err != nil {
			p.mu.Lock()
			p.erase()
			p.line = ""
			p.mu.Unlock()
			return nil // the demo has ended, one way or the other
		}
		last = state(t)
		p.show(t, last)
	}
}

func (p *progress) show(t githubsim.Truth, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live {
		p.erase()
		p.line = text
		p.paint()
		return
	}
	if done := t.ByState()["completed"]; done/10 > p.tens {
		p.tens = done / 10
		fmt.Fprintf(p.out, "%5.1fs  %s\n", time.Since(p.began).Seconds(), text)
	}
}

func state(t githubsim.Truth) string {
	by := t.ByState()
	const width = 24
	done := min(by["completed"], acme.Jobs)
	bar := strings.Repeat("█", done*width/acme.Jobs)
	return fmt.Sprintf("%-*s %2d of %d jobs done, %d running, %d queued, %d runners", width, bar, done, acme.Jobs, by["in_progress"], by["queued"], len(t.Runners))
}

func (p *progress) erase() {
	if p.live && p.line != "" {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

func (p *progress) paint() {
	if p.live && p.line != "" {
		fmt.Fprint(p.out, p.line)
	}
}

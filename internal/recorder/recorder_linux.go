package recorder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Shared is the recorder of the jobs of one machine. The zero value is ready; it is safe for
// concurrent use.
type Shared struct {
	mu    sync.Mutex
	again time.Time // not tried before, after a failure
}

const (
	// dir is private to root in what it holds, and short, because a socket's path
	// may have 107 bytes.
	dir = "/run/muster"
	// idle is how long a recorder waits for another job.
	idle = 2 * time.Minute
	// startTimeout bounds its start, in which the kernel verifies its programs.
	startTimeout = 30 * time.Second
	// retry is how long a failure is believed. Agents then try by themselves and say
	// why they cannot.
	retry = 5 * time.Minute
)

// Socket makes sure that the recorder of a program runs, which is a path of muster-agent, and
// returns its socket, "" if there is none to be had: whoever is not root cannot record.
// Agents that run as others than root may ask it too if others is set.
func (s *Shared) Socket(ctx context.Context, agent string, others bool, log *slog.Logger) string {
	if os.Geteuid() != 0 {
		return ""
	}
	socket, err := socketOf(agent, others)
	if err != nil {
		return "" // the agent cannot be started either, and that is told
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if answers(ctx, socket) {
		return socket
	}
	if time.Now().Before(s.again) {
		return ""
	}
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	mode := "0600"
	if others {
		mode = "0666"
	}
	cmd := exec.CommandContext(starting, agent, "record", "--detach", "--socket", socket, "--mode", mode, "--idle", idle.String(), "--per-user", "1024")
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	said, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return "" // the caller left; that says nothing of the recorder
	}
	if err != nil {
		s.again = time.Now().Add(retry)
		log.Warn("no recorder for the jobs of this machine; agents try by themselves", "error", err, "said", strings.TrimSpace(string(said)))
		return ""
	}
	return socket
}

// socketOf is where the recorder of one agent's program listens. Another program, of another
// version perhaps, has another, and so has one that others may ask.
func socketOf(agent string, others bool) (string, error) {
	info, err := os.Stat(agent)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d\n%d\n%v", agent, info.Size(), info.ModTime().UnixNano(), others))
	return filepath.Join(dir, "agents-"+hex.EncodeToString(sum[:6])+".sock"), nil
}

func answers(ctx context.Context, socket string) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

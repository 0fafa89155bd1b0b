package process

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
	"syscall"
	"time"
)

// sharedRecorder is the recorder of jobs that the agents of this machine share. One for each
// would verify the same programs in the kernel again for every job, and run all of them at
// every call of the machine. It is a process of its own, which outlives the control plane as
// agents do, and ends by itself when nothing was recorded for a while. The zero value is
// ready; it is safe for concurrent use.
type sharedRecorder struct {
	mu    sync.Mutex
	again time.Time // not tried before, after a failure
}

const (
	// recorderDir is private to root in what it holds, and short, because a socket's path
	// may have 107 bytes.
	recorderDir = "/run/muster"
	// recorderIdle is how long a recorder waits for another job.
	recorderIdle = 2 * time.Minute
	// recorderStart bounds its start, in which the kernel verifies its programs.
	recorderStart = 30 * time.Second
	// recorderRetry is how long a failure is believed. Agents then try by themselves and say
	// why they cannot.
	recorderRetry = 5 * time.Minute
)

// start makes sure that the recorder runs and returns its socket, "" if there is none to be
// had: whoever is not root cannot record. Agents run as who, nil for root.
func (s *sharedRecorder) start(ctx context.Context, agent string, who *syscall.Credential, log *slog.Logger) string {
	if os.Geteuid() != 0 {
		return ""
	}
	socket, err := recorderSocket(agent, who)
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
	ctx, cancel := context.WithTimeout(ctx, recorderStart)
	defer cancel()
	mode := "0600"
	if who != nil {
		mode = "0666"
	}
	cmd := exec.CommandContext(ctx, agent, "record", "--detach", "--socket", socket, "--mode", mode, "--idle", recorderIdle.String(), "--per-user", "1024")
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	said, err := cmd.CombinedOutput()
	if err != nil {
		s.again = time.Now().Add(recorderRetry)
		log.Warn("no recorder for the jobs of this machine; agents try by themselves", "error", err, "said", strings.TrimSpace(string(said)))
		return ""
	}
	return socket
}

// recorderSocket is where the recorder of one agent's program and user listens. Another
// program, of another version perhaps, has another.
func recorderSocket(agent string, who *syscall.Credential) (string, error) {
	info, err := os.Stat(agent)
	if err != nil {
		return "", err
	}
	uid := 0
	if who != nil {
		uid = int(who.Uid)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d\n%d\n%d", agent, info.Size(), info.ModTime().UnixNano(), uid))
	return filepath.Join(recorderDir, "agents-"+hex.EncodeToString(sum[:6])+".sock"), nil
}

func answers(ctx context.Context, socket string) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

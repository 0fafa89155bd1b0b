package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// detachTimeout is how long a recorder may take to listen: the kernel verifies its programs.
const detachTimeout = 20 * time.Second

// detach starts a recorder that outlives this process, and returns when it listens. Its words are
// beside its socket.
func (l lending) detach(ctx context.Context) error {
	if l.listens(ctx) {
		return nil
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(l.socket), 0o755); err != nil {
		return fmt.Errorf("make directory of the socket: %w", err)
	}
	said, err := os.OpenFile(l.socket+".log", os.O_CREATE|os.O_TRUNC|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("make a file for the recorder's words: %w", err)
	}
	defer said.Close()
	cmd := exec.Command(exe, "record", "--socket", l.socket, "--mode", fmt.Sprintf("%#o", l.mode), "--per-user", fmt.Sprint(l.perUser), //nolint:noctx // it outlives this call
		"--jobs", fmt.Sprint(l.scopes), "--idle", l.idle.String(), "--quiet")
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stderr = said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start recorder: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // this process ends before it, or with it
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	late := time.NewTimer(detachTimeout)
	defer late.Stop()
	for {
		select {
		case err := <-ended:
			if l.listens(ctx) {
				return nil // another one was quicker
			}
			return errors.Join(fmt.Errorf("the recorder ended: %s", lastOf(said)), err)
		case <-look.C:
			if l.listens(ctx) {
				return nil
			}
		case <-late.C:
			_ = cmd.Process.Kill()
			return fmt.Errorf("the recorder does not listen after %s", detachTimeout)
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			return ctx.Err()
		}
	}
}

// listens reports whether a recorder answers.
func (l lending) listens(ctx context.Context) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", l.socket)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// lastOf is the last line of a file.
func lastOf(f *os.File) string {
	text := make([]byte, 64<<10)
	n, _ := f.ReadAt(text, 0) // what is there
	lines := strings.Split(string(bytes.TrimSpace(text[:n])), "\n")
	return cmp.Or(lines[len(lines)-1], "it said nothing")
}

package slurm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// credential is the token for slurmrestd: from a file that the site renews, or from
// a command that is run again and again.
type credential struct {
	file    string
	command []string
	// every is how long a command's token is used.
	every time.Duration

	mu    sync.Mutex
	token muster.Secret
	until time.Time
}

// tokenPrefix is what scontrol prints before a token.
const tokenPrefix = "SLURM_JWT="

func (c *credential) get(ctx context.Context) (muster.Secret, error) {
	if c.file != "" {
		text, err := os.ReadFile(c.file) // each time: the site may have renewed it
		if err != nil {
			return "", fmt.Errorf("%w: read token_file: %w", provider.ErrTransient, err)
		}
		return clean(text, "token_file")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != "" && time.Now().Before(c.until) {
		return c.token, nil
	}
	cmd := exec.CommandContext(ctx, c.command[0], c.command[1:]...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	cmd.WaitDelay = time.Second
	text, err := cmd.Output() // its output is the secret and is in no error
	if err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("run token_command: %w", ctx.Err())
		}
		return "", fmt.Errorf("%w: run token_command: %w: %.200s", provider.ErrTransient, err, errs.String())
	}
	token, err := clean(text, "token_command")
	if err != nil {
		return "", err
	}
	c.token, c.until = token, time.Now().Add(c.every)
	return token, nil
}

func clean(text []byte, from string) (muster.Secret, error) {
	token := strings.TrimPrefix(strings.TrimSpace(string(text)), tokenPrefix)
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return "", fmt.Errorf("%w: %s holds no token: it must be the line that `scontrol token` prints", provider.ErrTransient, from)
	}
	return muster.Secret(token), nil
}

// forget drops a token that was refused.
func (c *credential) forget() {
	c.mu.Lock()
	c.until = time.Time{}
	c.mu.Unlock()
}

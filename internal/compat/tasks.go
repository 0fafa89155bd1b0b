package compat

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// Task is a request that a queue makes at a time (S3-7).
type Task struct {
	// Name is of letters, digits and '-'. The same deadline has the same name, names
	// begin with a hash, which spreads them, and no name comes twice (4-23).
	Name   string
	URL    string
	Method string
	Header map[string]string
	Body   []byte
	At     time.Time
}

// Queue makes requests later. An error of muster.CodeExists says that a task of that
// name is known, which is as good as taken.
type Queue interface {
	Enqueue(ctx context.Context, t Task) error
}

// taskLife is how long after its time a task may be late; a queue's own retries end
// sooner.
const taskLife = time.Hour

// Tasks turns machines' deadlines into tasks that call /runner/stop (S3-3, S3-7). It
// wakes and decides nothing: the machine's own timer has the same deadline (C32).
type Tasks struct {
	url   string
	keys  []muster.Secret
	queue Queue
}

// NewTasks makes tasks that call the manager at its public address.
func NewTasks(serviceURL string, s Secrets, q Queue) *Tasks {
	return &Tasks{url: strings.TrimRight(serviceURL, "/") + stopPath, keys: s.tasks(), queue: q}
}

// Set gives the queue the task of a deadline.
func (t *Tasks) Set(ctx context.Context, a muster.MachineAlarm) error {
	if len(t.keys) == 0 {
		return muster.Errorf(muster.CodeInvalid, "tasks need a secret: set the manager's")
	}
	body, err := json.Marshal(machineBody{Name: a.Machine.Name, Zone: a.Machine.Zone})
	if err != nil {
		return fmt.Errorf("write the body of a task: %w", err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", a.Machine, a.Generation, a.At.UnixNano()))
	err = t.queue.Enqueue(ctx, Task{
		Name: hex.EncodeToString(sum[:8]) + "-stop-" + word(a.Machine.Name), URL: t.url, Method: "POST", At: a.At, Body: spaced(body),
		Header: map[string]string{
			"Content-Type": "application/json",
			// Not the secret itself, which every reader of the queue would have (4-34).
			secretHeader: sign(t.keys[0], claims{Name: a.Machine.Name, Zone: a.Machine.Zone, Generation: a.Generation, Expires: a.At.Add(taskLife).Unix()}),
		},
	})
	if muster.CodeOf(err) == muster.CodeExists {
		return nil
	}
	if err != nil {
		return fmt.Errorf("queue the task of machine %s: %w", a.Machine.Name, err)
	}
	return nil
}

// word is a name as a queue takes it.
func word(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-':
			return c
		}
		return '-'
	}, s)
}

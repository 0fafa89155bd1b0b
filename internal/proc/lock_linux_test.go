package proc

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "locked")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	held, err := Lock(t.Context(), dir, syscall.LOCK_EX, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(t.Context(), dir, syscall.LOCK_SH, false); !errors.Is(err, ErrLocked) {
		t.Errorf("a second call: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Lock(ctx, dir, syscall.LOCK_EX, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call that waits: %v", err)
	}
	if !Current(held, dir) {
		t.Error("the directory is another one")
	}
	got := make(chan error)
	go func() {
		f, err := Lock(t.Context(), dir, syscall.LOCK_EX, true)
		if err == nil {
			err = f.Close()
		}
		got <- err
	}()
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("after the first: %v", err)
	}
	old, err := Lock(t.Context(), dir, syscall.LOCK_SH, false)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := errors.Join(os.Remove(dir), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	if Current(old, dir) {
		t.Error("a directory that was made anew is taken for the old one")
	}
}

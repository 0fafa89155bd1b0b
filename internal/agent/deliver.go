package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// deliver puts this program and the boot token where another container of the same
// machine finds them: below dir, in bin/muster-agent and boot/token. It runs in a
// container that ends before the runner's own starts, so that no job ever sees
// where the token came from, and an image with nothing but this program will do.
func deliver(dir, token string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	from, err := os.Open(self)
	if err != nil {
		return fmt.Errorf("read this program: %w", err)
	}
	defer from.Close()
	if err := place(filepath.Join(dir, "bin", "muster-agent"), from, 0o755); err != nil {
		return err
	}
	text, err := os.ReadFile(token)
	if err != nil {
		return fmt.Errorf("read boot token: %w", err)
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return errors.New("the boot token is empty")
	}
	return place(filepath.Join(dir, "boot", "token"), bytes.NewReader(text), 0o600)
}

// place writes a file that appears complete or not at all; a container that is
// started again finds what the first one left.
func place(name string, from io.Reader, mode os.FileMode) (err error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(name+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(name+".part", name)
}

// delivery returns the directory of --deliver, if that is what is asked for.
func delivery(args []string) (dir string, ok bool) {
	for i, a := range args {
		name, v, has := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if name != "deliver" || !strings.HasPrefix(a, "-") {
			continue
		}
		if !has && i+1 < len(args) {
			v = args[i+1]
		}
		return v, v != ""
	}
	return "", false
}

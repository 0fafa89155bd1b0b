package container

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/moby/client"
)

var (
	attachStdin = client.ContainerAttachOptions{Stream: true, Stdin: true}
	startNow    = client.ContainerStartOptions{}
)

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
		t.Fatal(err)
	}
}

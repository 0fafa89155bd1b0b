package engine_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/muster-ci/muster/internal/engine"
)

// sealer is AES-GCM with a fixed key and nonce: enough to see what is and what is
// not in clear, and stable across the processes of the kill test.
type sealer struct{}

func aead() cipher.AEAD {
	block, err := aes.NewCipher([]byte("0123456789abcdef"))
	if err != nil {
		panic(err)
	}
	g, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return g
}

func (sealer) Seal(purpose string, plain []byte) ([]byte, error) {
	return aead().Seal(nil, make([]byte, 12), plain, []byte(purpose)), nil
}

func (sealer) Open(purpose string, sealed []byte) ([]byte, error) {
	return aead().Open(nil, make([]byte, 12), sealed, []byte(purpose))
}

const canary = "canary-7f3a-in-clear"

// echo waits for one signal and returns its argument with it.
func echo(ctx workflow.Context, arg string) (string, error) {
	var sig string
	workflow.GetSignalChannel(ctx, "go").Receive(ctx, &sig)
	if sig == "fail" {
		return "", fmt.Errorf("failing with %s", arg)
	}
	return arg + sig, nil
}

func open(t testing.TB, dir string) (*engine.Engine, worker.Worker) {
	t.Helper()
	e, err := engine.Open(t.Context(), engine.Config{Namespace: "muster", Dir: dir, Sealer: sealer{}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	w := worker.New(e.Client(), "q", worker.Options{})
	w.RegisterWorkflow(echo)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	return e, w
}

// S4-25: a workflow that was started by a process that is then killed with
// SIGKILL is finished by the next process on the same file.
func TestSurvivesKill(t *testing.T) {
	if dir := os.Getenv("ENGINE_TEST_DIR"); dir != "" {
		childStartsAndWaits(t, dir)
		return
	}
	dir := t.TempDir()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSurvivesKill$")
	child.Env = append(os.Environ(), "ENGINE_TEST_DIR="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	started := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if started = strings.Contains(lines.Text(), "STARTED"); started {
			break
		}
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed: the error is the point
	if !started {
		t.Fatal("the child never started its workflow")
	}

	e, w := open(t, dir)
	defer e.Close()
	defer w.Stop()
	if err := e.Client().SignalWorkflow(t.Context(), "w1", "", "go", "!"); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := e.Client().GetWorkflow(t.Context(), "w1", "").Get(t.Context(), &got); err != nil || got != canary+"!" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func childStartsAndWaits(t *testing.T, dir string) {
	e, _ := open(t, dir)
	if _, err := e.Client().ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "w1", TaskQueue: "q"}, echo, canary); err != nil {
		t.Fatal(err)
	}
	fmt.Println("STARTED")
	select {} // until the parent kills us
}

// Payloads, results and failure texts are encrypted before they reach the file.
func TestNothingInClear(t *testing.T) {
	dir := t.TempDir()
	e, w := open(t, dir)
	for i, sig := range []string{"!", "fail"} {
		run, err := e.Client().ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: fmt.Sprint("w", i), TaskQueue: "q"}, echo, canary)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Client().SignalWorkflow(t.Context(), run.GetID(), "", "go", sig); err != nil {
			t.Fatal(err)
		}
		err = run.Get(t.Context(), nil)
		if (err != nil) != (sig == "fail") {
			t.Fatal(err)
		}
		if err != nil && !strings.Contains(err.Error(), canary) {
			t.Errorf("the failure's text did not survive encryption: %v", err)
		}
	}
	w.Stop()
	e.Close()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(canary)) {
			t.Errorf("%s holds the canary in clear", filepath.Base(f))
		}
	}
}

func TestOneProcessPerFile(t *testing.T) {
	dir := t.TempDir()
	e, w := open(t, dir)
	defer e.Close()
	defer w.Stop()
	_, err := engine.Open(t.Context(), engine.Config{Namespace: "muster", Dir: dir, Sealer: sealer{}, Logger: slog.Default()})
	if err == nil || !strings.Contains(err.Error(), "another control plane") {
		t.Fatalf("got %v", err)
	}
}

func TestRefusesPlainTextToAnotherHost(t *testing.T) { // S4-66
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := engine.Open(ctx, engine.Config{Address: "temporal.example.com:7233", Namespace: "muster", Sealer: sealer{}, Logger: slog.Default()})
	if err == nil || !strings.Contains(err.Error(), "TLS") {
		t.Fatalf("got %v", err)
	}
}

// S4-67: an operator sees the workflows in Temporal's own interface.
func TestUI(t *testing.T) {
	e, w := open(t, t.TempDir())
	defer e.Close()
	defer w.Stop()
	if _, err := e.Client().ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "seen-in-the-ui", TaskQueue: "q"}, echo, canary); err != nil {
		t.Fatal(err)
	}
	// Below the ports that systems hand out by themselves.
	var addr string
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(10000)))
		if err == nil {
			addr = l.Addr().String()
			l.Close()
			break
		}
	}
	ui, err := engine.StartUI(t.Context(), addr, e.Address(), "muster")
	if err != nil {
		t.Fatal(err)
	}
	defer ui.Stop()
	var page, list string
	ok := false
	for range 1200 {
		page, _ = fetch(t, "http://"+addr+"/namespaces/muster/workflows")
		list, ok = fetch(t, "http://"+addr+"/api/v1/namespaces/muster/workflows")
		if ok && strings.Contains(list, "seen-in-the-ui") && strings.Contains(page, "<html") {
			break
		}
		select {
		case <-time.After(50 * time.Millisecond): // another server starts, and the engine indexes
		case <-t.Context().Done():
		}
	}
	if !strings.Contains(page, "<html") || !strings.Contains(list, "seen-in-the-ui") {
		t.Fatalf("page %.80q, list %.200q", page, list)
	}
	if strings.Contains(list, canary) {
		t.Error("the interface shows a payload in clear")
	}
	if _, err := engine.StartUI(t.Context(), "0.0.0.0:8233", e.Address(), "muster"); err == nil {
		t.Error("the interface, which asks for no password, would listen beyond this machine")
	}
}

func fetch(t *testing.T, url string) (string, bool) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		return "", false
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err == nil && resp.StatusCode == http.StatusOK
}

package storetest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver named "pgx"
)

// startTimeout bounds how long a server may take to accept connections.
const startTimeout = time.Minute

// Main runs a test binary whose tests use Postgres: func TestMain(m *testing.M)
// { storetest.Main(m) }. It stops the server, if one was started, and removes its
// files. Each of after runs then and may turn the result of the tests into a failure.
func Main(m *testing.M, after ...func() error) {
	managed = true
	code := m.Run()
	for _, f := range append([]func() error{shared.stop}, after...) {
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

var (
	managed bool
	shared  server
)

// Postgres returns the URL of a new, empty database on a private PostgreSQL
// server: one per test binary, started by the first call, stopped by Main. The
// server does not wait for the disk (fsync=off). Without PostgreSQL's binaries
// the test is skipped, or fails if CI=true.
func Postgres(t testing.TB) string {
	t.Helper()
	if !managed {
		t.Fatal("storetest.Postgres needs func TestMain(m *testing.M) { storetest.Main(m) }")
	}
	bin := binaries()
	if bin == "" {
		const why = "no PostgreSQL server here: apt-get install postgresql"
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	if err := shared.start(bin); err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	name, err := shared.database(t.Context())
	if err != nil {
		t.Fatalf("create database: %v", err)
	}
	return shared.url(name)
}

// binaries returns a directory that holds postgres and initdb, "" if there is none.
func binaries() string {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"} {
		found, _ := filepath.Glob(pattern)
		slices.Reverse(found) // newer first
		dirs = append(dirs, found...)
	}
	dirs = append(dirs, "/usr/local/bin", "/usr/local/pgsql/bin")
	for _, dir := range dirs {
		if runnable(filepath.Join(dir, "postgres")) && runnable(filepath.Join(dir, "initdb")) {
			return dir
		}
	}
	return ""
}

func runnable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// server is one PostgreSQL server. The zero server is not started.
type server struct {
	once     sync.Once
	err      error
	dir      string
	port     int
	password string
	process  *exec.Cmd
	ended    chan struct{} // closed when the process has ended and its output was read
	admin    *sql.DB
	count    atomic.Int64
}

func (s *server) start(bin string) error {
	s.once.Do(func() { s.err = s.tryStart(bin) })
	return s.err
}

func (s *server) tryStart(bin string) (err error) {
	if s.dir, err = os.MkdirTemp("", "muster-pg-"); err != nil {
		return err
	}
	s.password = rand.Text()
	secret := filepath.Join(s.dir, "password")
	if err := os.WriteFile(secret, []byte(s.password), 0o600); err != nil {
		return err
	}
	uid, gid, err := unprivileged()
	if err != nil {
		return err
	}
	if uid >= 0 {
		for _, path := range []string{s.dir, secret} {
			if err := os.Chown(path, uid, gid); err != nil {
				return err
			}
		}
	}
	command := func(name string, args ...string) *exec.Cmd {
		c := exec.CommandContext(context.Background(), filepath.Join(bin, name), args...)
		c.Dir = s.dir
		c.Env = []string{"LC_ALL=C", "TZ=UTC", "PATH=" + os.Getenv("PATH")}
		c.SysProcAttr = attributes(uid, gid)
		return c
	}
	data := filepath.Join(s.dir, "data")
	initdb := command("initdb", "-D", data, "-U", "muster", "-A", "scram-sha-256", "--pwfile="+secret, "-E", "UTF8", "--no-locale", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	// Another process may take the free port before the server does.
	for range 5 {
		if s.port, err = freePort(); err != nil {
			return err
		}
		if err = s.run(command("postgres", "-D", data, "-h", "127.0.0.1", "-p", strconv.Itoa(s.port), "-k", s.dir,
			"-c", "fsync=off", "-c", "max_connections=300", "-c", "shared_buffers=64MB")); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	s.admin, err = sql.Open("pgx", s.url("postgres"))
	return err
}

// run starts the server's process and returns when it accepts connections.
func (s *server) run(c *exec.Cmd) error {
	logs, err := c.StderrPipe()
	if err != nil {
		return err
	}
	ready, started := make(chan struct{}), make(chan error, 1)
	ended := make(chan struct{})
	var said bytes.Buffer // read only after ended
	go func() {
		defer close(ended)
		// The kernel ends the server when this thread does, so that no server
		// survives a test binary that was killed.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := c.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		isReady := false
		lines := bufio.NewScanner(logs)
		for lines.Scan() {
			if !isReady {
				fmt.Fprintln(&said, lines.Text())
				if isReady = strings.Contains(lines.Text(), "ready to accept connections"); isReady {
					close(ready)
				}
			}
		}
		_, _ = io.Copy(io.Discard, logs) // after a line that is too long
		_ = c.Wait()
	}()
	if err := <-started; err != nil {
		return err
	}
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case <-ready:
		s.process, s.ended = c, ended
		return nil
	case <-ended:
		return fmt.Errorf("the server ended:\n%s", said.Bytes())
	case <-timer.C:
		_ = c.Process.Kill()
		<-ended
		return fmt.Errorf("the server was not ready after %v:\n%s", startTimeout, said.Bytes())
	}
}

func (s *server) database(ctx context.Context) (string, error) {
	name := fmt.Sprintf("muster_%d", s.count.Add(1))
	_, err := s.admin.ExecContext(ctx, "CREATE DATABASE "+name)
	return name, err
}

func (s *server) url(database string) string {
	return fmt.Sprintf("postgres://muster:%s@127.0.0.1:%d/%s?sslmode=disable", s.password, s.port, database)
}

func (s *server) stop() error {
	var errs []error
	if s.admin != nil {
		errs = append(errs, s.admin.Close())
	}
	if s.process != nil {
		// Fast shutdown: clients that are still there are cut off.
		errs = append(errs, s.process.Process.Signal(syscall.SIGINT))
		<-s.ended
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// unprivileged names the user that the server runs as: -1 for ourselves, since
// PostgreSQL refuses root only.
func unprivileged() (uid, gid int, err error) {
	if os.Geteuid() != 0 {
		return -1, -1, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		return uid, gid, errors.Join(err1, err2)
	}
	return 0, 0, errors.New("we are root, which PostgreSQL refuses, and there is no user postgres or nobody")
}

func freePort() (int, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

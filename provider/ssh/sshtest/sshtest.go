package sshtest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-ci/muster/internal/proc"
)

// Server is one sshd. Its files are readable by all, so that any user of the machine
// may log in with Identity.
type Server struct {
	// Dir has all that belongs to it, "home" as the home directory of who logs in: start-up
	// files of the machine's own users do not slow it down.
	Dir string
	// Port is where it listens, on 127.0.0.1; the same after a Start that follows Kill.
	Port int
	// User is whom to log in as: who runs the test.
	User string
	// Identity is the file of a private key that it lets in.
	Identity string
	// HostKey is the fingerprint of its ed25519 key.
	HostKey string
	// KnownHosts is a file that confirms its keys.
	KnownHosts string

	program string
	who     *syscall.Credential // nil: who runs the test
	mu      sync.Mutex
	cmd     *exec.Cmd
	ended   chan struct{}
}

// New starts a server that ends with the test. Without sshd the test is skipped, or
// fails where CI is set.
func New(tb testing.TB) *Server {
	tb.Helper()
	who, err := user.Current()
	if err != nil {
		tb.Fatal(err)
	}
	return start(tb, who.Username, nil)
}

// NewAs is New with a server that runs as another user and lets in nobody else. It
// needs root.
func NewAs(tb testing.TB, name string) *Server {
	tb.Helper()
	who, err := user.Lookup(name)
	if err != nil {
		tb.Fatal(err)
	}
	uid, err1 := strconv.ParseUint(who.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(who.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		tb.Fatal(err)
	}
	return start(tb, name, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)})
}

func start(tb testing.TB, name string, who *syscall.Credential) *Server {
	tb.Helper()
	program := ""
	for _, at := range []string{"/usr/sbin/sshd", "/usr/local/sbin/sshd"} {
		if _, err := os.Stat(at); err == nil {
			program = at
			break
		}
	}
	if program == "" {
		if os.Getenv("CI") == "true" {
			tb.Fatal("there is no sshd: run scripts/setup.sh")
		}
		tb.Skip("there is no sshd: install openssh-server")
	}
	s := &Server{Dir: tb.TempDir(), User: name, program: program, who: who}
	if err := errors.Join(s.setUp(), s.handOver()); err != nil {
		tb.Fatal(err)
	}
	s.Start(tb)
	tb.Cleanup(func() { s.Kill(tb) })
	return s
}

func (s *Server) setUp() error {
	if os.Getuid() == 0 {
		// Where sshd as root confines its children; a boot would have made it.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return err
		}
	}
	// Below the ports that systems hand out by themselves: nobody takes it between a Kill
	// and the Start that follows.
	for try := 0; ; try++ {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(10000)))
		if err == nil {
			s.Port = l.Addr().(*net.TCPAddr).Port
			_ = l.Close()
			break
		}
		if try == 100 {
			return fmt.Errorf("find a free port: %w", err)
		}
	}
	s.Identity, s.KnownHosts = filepath.Join(s.Dir, "id"), filepath.Join(s.Dir, "known_hosts")
	public, err := writeKey(s.Identity)
	if err != nil {
		return err
	}
	host, err := writeKey(filepath.Join(s.Dir, "host_key"))
	if err != nil {
		return err
	}
	s.HostKey = ssh.FingerprintSHA256(host)
	known := fmt.Sprintf("[127.0.0.1]:%d %s", s.Port, ssh.MarshalAuthorizedKey(host))
	config := fmt.Sprintf(`ListenAddress 127.0.0.1:%d
HostKey %[2]s/host_key
AuthorizedKeysFile %[2]s/authorized_keys
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding yes
MaxStartups 200
PrintMotd no
SetEnv HOME=%[2]s/home
`, s.Port, s.Dir)
	return errors.Join(
		os.Mkdir(filepath.Join(s.Dir, "home"), 0o777),
		os.Chmod(s.Dir, 0o755),
		os.WriteFile(filepath.Join(s.Dir, "authorized_keys"), ssh.MarshalAuthorizedKey(public), 0o644),
		os.WriteFile(s.KnownHosts, []byte(known), 0o644),
		os.WriteFile(filepath.Join(s.Dir, "sshd_config"), []byte(config), 0o644))
}

// handOver gives the files to the user that the server runs as.
func (s *Server) handOver() error {
	if s.who == nil {
		return nil
	}
	if err := os.Chmod(filepath.Dir(s.Dir), 0o755); err != nil { // the test's own, which he has to pass
		return err
	}
	return filepath.WalkDir(s.Dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, int(s.who.Uid), int(s.who.Gid)))
	})
}

// writeKey makes a key pair and writes its private half.
func writeKey(file string) (ssh.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "muster test")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, err
	}
	return ssh.NewPublicKey(public)
}

// Start starts the server, and returns when it answers.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	// It starts itself again for every connection, so that its path must be absolute.
	cmd := exec.CommandContext(context.Background(), s.program, "-D", "-E", filepath.Join(s.Dir, "sshd.log"), "-f", filepath.Join(s.Dir, "sshd_config"))
	if s.who != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.who}
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	s.cmd, s.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		_ = cmd.Wait() // it is killed in the end
		close(ended)
	}(s.ended)
	deadline := time.Now().Add(time.Minute)
	for {
		conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", s.Address())
		if err == nil {
			hello := make([]byte, 4)
			_ = conn.SetReadDeadline(deadline)
			_, err = conn.Read(hello)
			conn.Close()
			if err == nil && bytes.Equal(hello, []byte("SSH-")) {
				return
			}
		}
		select {
		case <-s.ended:
			tb.Fatalf("sshd ended:\n%s", s.Log())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			tb.Fatalf("sshd does not answer: %v\n%s", err, s.Log())
		}
	}
}

// Address is "127.0.0.1:port".
func (s *Server) Address() string { return fmt.Sprintf("127.0.0.1:%d", s.Port) }

// Log is what the server has logged.
func (s *Server) Log() string {
	text, _ := os.ReadFile(filepath.Join(s.Dir, "sshd.log")) // none yet
	return string(text)
}

// Kill kills the server and every connection to it, as a crash would. What was
// started over one goes on.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	for _, p := range s.daemons(tb) {
		_ = p.Signal(syscall.SIGKILL) // one that has ended needs none
	}
	<-s.ended
	s.cmd = nil
}

// Drop kills the connections and leaves the server running.
func (s *Server) Drop(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.daemons(tb) {
		if s.cmd != nil && p.PID != s.cmd.Process.Pid {
			_ = p.Signal(syscall.SIGKILL)
		}
	}
}

// daemons are the processes of sshd itself: the server and one or two for each connection.
func (s *Server) daemons(tb testing.TB) (found []proc.Process) {
	tb.Helper()
	all, err := proc.All()
	if err != nil {
		tb.Fatal(err)
	}
	for _, p := range append(proc.Descendants(all, s.cmd.Process.Pid), proc.Process{PID: s.cmd.Process.Pid}) {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID))
		if p, now := proc.Read(p.PID); err == nil && now == nil && strings.HasPrefix(string(name), "sshd") {
			found = append(found, p)
		}
	}
	return found
}

package replays

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// The test's own program is four processes of the play: the stage, in namespaces of its
// own, with the stand-ins for the rest of the world; the runner's worker and a stand-in for
// its agent, below it; and the programs that incidents bring along.
const roleVariable = "MUSTER_REPLAY_ROLE"

func TestMain(m *testing.M) {
	var err error
	switch role := os.Getenv(roleVariable); role {
	case "":
		// Most of a play is waiting, for programs that wait for each other.
		if err := flag.Set("test.parallel", "4"); err != nil {
			panic(err)
		}
		os.Exit(m.Run())
	case "stage":
		err = stage(os.Args[1])
	case "worker":
		err = worker(os.Args[1])
	case "prop":
		err = prop()
	case "agent":
		err = unix.Pause() // it is there to be attacked
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Where things are on the stage. All of it is on file systems that end with it.
const (
	home       = "/home/runner"
	runnerRoot = home + "/actions-runner"
	workspace  = runnerRoot + "/_work/app/app"
	temp       = runnerRoot + "/_work/_temp"
	resolver   = "198.51.100.53"
)

// play is one script, cut into its steps.
type play struct {
	Name  string
	Facts map[string]string // the head of the script: "# rule: …"
	Steps []step
}

type step struct {
	Name, Uses, Script string
}

// checkout is the first step of every play.
var checkout = step{Name: "Checkout", Uses: "actions/checkout@v4", Script: "git clone -q /home/origin.git .\n"}

// read cuts a script into steps at lines "## step: NAME" and "## uses: ACTION".
func read(file string) (play, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return play{}, err
	}
	p := play{Name: strings.TrimSuffix(filepath.Base(file), ".sh"), Facts: map[string]string{}}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "## step: "); ok {
			p.Steps = append(p.Steps, step{Name: strings.TrimSpace(name)})
			continue
		}
		if len(p.Steps) == 0 {
			if key, value, ok := strings.Cut(strings.TrimPrefix(line, "# "), ": "); ok && strings.HasPrefix(line, "# ") {
				p.Facts[key] = strings.TrimSpace(strings.TrimSpace(p.Facts[key] + " " + strings.TrimSpace(value)))
			}
			continue
		}
		last := &p.Steps[len(p.Steps)-1]
		if uses, ok := strings.CutPrefix(line, "## uses: "); ok {
			last.Uses = strings.TrimSpace(uses)
			continue
		}
		last.Script += line
	}
	return p, nil
}

// text is the script that read makes the play of.
func (p play) text() string {
	var b strings.Builder
	for key, value := range p.Facts {
		fmt.Fprintf(&b, "# %s: %s\n", key, value)
	}
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "## step: %s\n", s.Name)
		if s.Uses != "" {
			fmt.Fprintf(&b, "## uses: %s\n", s.Uses)
		}
		b.WriteString(s.Script)
	}
	return b.String()
}

// rules are those that the play is to be caught by.
func (p play) rules() []string { return strings.Split(p.Facts["rule"], ", ") }

// bound is a step's begin or end, as the worker tells it.
type bound struct {
	Number int
	Begin  bool
	At     time.Time
	Failed string
}

// stage makes the world of a play and runs its worker. It has been started in mount and
// network namespaces of its own. On standard output it tells the worker's pid and that of
// the stand-in for the agent, and the worker tells the bounds of steps; a line on standard input lets the worker begin.
func stage(file string) error {
	// The script may lie below what is covered in a moment.
	script, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for _, set := range []func() error{folders, network, files, serve} {
		if err := set(); err != nil {
			return err
		}
	}
	if err := startDocker(os.Getenv("MUSTER_REPLAY_DOCKER")); err != nil {
		return err
	}
	file = filepath.Join("/run", filepath.Base(file))
	if err := os.WriteFile(file, script, 0o644); err != nil {
		return err
	}
	self := filepath.Join(runnerRoot, "bin", "Runner.Worker")
	if err := os.Symlink(self, "/run/muster-agent"); err != nil {
		return err
	}
	agent := exec.Command("/run/muster-agent")
	agent.Env = []string{roleVariable + "=agent"}
	if err := agent.Start(); err != nil {
		return err
	}
	if err := os.Setenv("AGENT", fmt.Sprint(agent.Process.Pid)); err != nil {
		return err
	}
	cmd := exec.Command(self, file)
	cmd.Dir = workspace
	cmd.Env = environment()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Println(cmd.Process.Pid, agent.Process.Pid)
	if err := cmd.Wait(); err != nil {
		return err
	}
	select {} // what the job has left lives until the stage is killed
}

func environment() []string {
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, tool := range []string{"go", "cargo", "docker"} {
		if dir := os.Getenv("MUSTER_REPLAY_" + strings.ToUpper(tool)); dir != "" {
			path = dir + ":" + path
		}
	}
	return []string{
		"AGENT=" + os.Getenv("AGENT"), "RECORDER_MAP=" + os.Getenv("MUSTER_REPLAY_MAP"),
		roleVariable + "=worker", "PATH=" + path, "HOME=" + home, "LANG=C.UTF-8", "CI=true", "GITHUB_ACTIONS=true",
		"GITHUB_WORKSPACE=" + workspace, "RUNNER_TEMP=" + temp, "GITHUB_ENV=" + temp + "/_runner_file_commands/set_env_1",
		"MUSTER_FAKE_SECRET=not-a-secret", "GOFLAGS=-mod=mod", "GOPROXY=off", "GOTOOLCHAIN=local", "CGO_ENABLED=0", "GOTELEMETRY=off",
		"CARGO_NET_OFFLINE=true", "npm_config_update_notifier=false",
		"PIP_DISABLE_PIP_VERSION_CHECK=1", "PIP_NO_INDEX=1", "PIP_ROOT_USER_ACTION=ignore", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
	}
}

// folders lays empty file systems over what a play writes to.
func folders() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, dir := range []string{"/home", "/tmp", "/var/tmp", "/dev/shm", "/etc", "/opt", "/run"} {
		if err := cover(dir); err != nil {
			return fmt.Errorf("cover %s: %w", dir, err)
		}
	}
	return nil
}

// cover puts a file system in memory on a folder: empty, or for /etc with what is there
// below what is written.
func cover(dir string) error {
	if dir != "/etc" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=1777,size=1g")
	}
	upper := "/home/.etc"
	for _, d := range []string{upper + "/u", upper + "/w"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return unix.Mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir="+upper+"/u,workdir="+upper+"/w")
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// network makes every address that a play may reach one of this namespace.
func network() error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"route", "add", "local", "203.0.113.0/24", "dev", "lo"},
		{"route", "add", "local", "198.51.100.0/24", "dev", "lo"},
		{"addr", "add", "198.51.100.1/32", "dev", "lo"},
		{"route", "add", "local", "169.254.169.254/32", "dev", "lo"},
		{"-6", "route", "add", "local", "fd00:ec2::254/128", "dev", "lo"},
	} {
		if err := run("ip", args...); err != nil {
			return err
		}
	}
	if err := os.Remove("/etc/resolv.conf"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.WriteFile("/etc/resolv.conf", []byte("nameserver "+resolver+"\noptions timeout:2 attempts:1\n"), 0o644); err != nil {
		return err
	}
	return os.WriteFile("/etc/hosts", []byte("127.0.0.1 localhost\n"), 0o644)
}

// files puts the runner, its work and false credentials where they belong.
func files() error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	const none = "this is no secret\n"
	for name, text := range map[string]string{
		runnerRoot + "/bin/Runner.Worker":            string(self),
		runnerRoot + "/.runner":                      "{}",
		runnerRoot + "/.credentials":                 none,
		runnerRoot + "/.credentials_rsaparams":       none,
		home + "/.aws/credentials":                   "[default]\naws_access_key_id = none\n",
		home + "/.ssh/id_ed25519":                    none,
		home + "/.npmrc":                             "fund=false\naudit=false\n",
		home + "/.kube/config":                       none,
		home + "/.docker/config.json":                "{}",
		home + "/.git-credentials":                   none,
		home + "/.config/gh/hosts.yml":               none,
		home + "/.bashrc":                            "# none\n",
		temp + "/_runner_file_commands/set_env_1":    "",
		"/opt/hostedtoolcache/tool/1.0/x64/bin/tool": "#!/bin/sh\necho tool\n",
	} {
		if err := put(name, text); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(workspace, 0o755); err != nil {
		return err
	}
	warm()
	if err := os.Setenv(roleVariable, ""); err != nil {
		return err
	}
	return run("bash", "-c", origin)
}

// warm lays the cache of Go's builds under that of the stage, so that a build does not
// compile the standard library. Without one it does.
func warm() {
	lower := os.Getenv("MUSTER_REPLAY_GOCACHE")
	over := "/home/.gocache"
	for _, d := range []string{home + "/.cache/go-build", over + "/u", over + "/w"} {
		_ = os.MkdirAll(d, 0o755)
	}
	if lower != "" {
		_ = unix.Mount("overlay", home+"/.cache/go-build", "overlay", 0, "lowerdir="+lower+",upperdir="+over+"/u,workdir="+over+"/w")
	}
}

func put(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(text), 0o755)
}

// origin is the repository that plays check out.
const origin = `set -e
export HOME=/home GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com
mkdir -p /home/src && cd /home/src && git init -q -b main .
cat > main.c <<'X'
#include <stdio.h>
#include "util.h"
int main(void) { printf("%d\n", answer()); return 0; }
X
echo 'int answer(void);' > util.h
printf '#include "util.h"\nint answer(void) { return 42; }\n' > util.c
printf 'app: main.o util.o\n\tgcc -o app main.o util.o\n%%.o: %%.c\n\tgcc -c -o $@ $<\ntest: app\n\t./app | grep -q 42\nclean:\n\trm -f app *.o\n' > Makefile
mkdir -p .github/workflows && echo 'on: push' > .github/workflows/ci.yml
git add . && git commit -qm one && git clone -q --bare /home/src /home/origin.git
`

// addressOf gives every name an address of its own, the same each time.
func addressOf(name string) [4]byte {
	switch {
	case strings.HasPrefix(name, "metadata."):
		return [4]byte{169, 254, 169, 254}
	case name == "localhost":
		return [4]byte{127, 0, 0, 1}
	}
	h := fnv.New32()
	h.Write([]byte(name))
	return [4]byte{203, 0, 113, byte(h.Sum32()%250) + 2}
}

// serve stands in for everybody that a play talks to.
func serve() error {
	dns, err := net.ListenPacket("udp4", resolver+":53")
	if err != nil {
		return err
	}
	go answerNames(dns)
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	for _, port := range []string{"80", "8080", "443"} {
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		if port == "443" {
			l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}})
		}
		go http.Serve(l, http.HandlerFunc(answer)) //nolint:gosec // ends with the process
	}
	if os.Getenv("MUSTER_REPLAY_DOCKER") == "" {
		engine, err := net.Listen("unix", "/run/docker.sock")
		if err != nil {
			return err
		}
		go http.Serve(engine, http.HandlerFunc(answer)) //nolint:gosec // as above
	}
	l, err := net.Listen("tcp", ":4444")
	if err != nil {
		return err
	}
	go listener(l)
	return nil
}

// startDocker starts Docker's daemon, of the folder of its tools, with one image; it ends with
// the stage. "" starts none.
func startDocker(bin string) error {
	if bin == "" {
		return nil
	}
	daemon := exec.Command(filepath.Join(filepath.Dir(bin), "sbin", "dockerd"), "-H", "unix:///run/docker.sock", "--data-root", "/home/docker", "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid",
		"--config-file", "/run/daemon.json", "--default-ulimit", "nofile=1024:1024")
	if err := os.WriteFile("/run/daemon.json", []byte("{}"), 0o600); err != nil {
		return err
	}
	said, err := os.Create("/run/docker.log")
	if err != nil {
		return err
	}
	daemon.Env = []string{"PATH=" + filepath.Join(filepath.Dir(bin), "sbin") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/home"}
	daemon.Stdout, daemon.Stderr = said, said
	if err := daemon.Start(); err != nil {
		return err
	}
	// Before the job begins, as where an image of machines has it.
	err = run("bash", "-c", `set -e
		for i in $(seq 300); do "$0/docker" version > /dev/null 2>&1 && break; sleep 0.1; done
		mkdir -p /home/base/bin /home/base/tmp && cd /home/base && cp "$(command -v busybox)" bin/busybox
		for tool in sh cat mkdir touch nc echo; do ln -s busybox bin/$tool; done
		tar c . | "$0/docker" import - localhost/base:1`, bin)
	if err != nil {
		text, _ := os.ReadFile("/run/docker.log")
		return fmt.Errorf("%w\n%s", err, text[max(0, len(text)-3000):])
	}
	return nil
}

func answerNames(c net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) == 0 {
			continue
		}
		q := m.Questions[0]
		m.Response, m.Additionals = true, nil
		head := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}
		switch q.Type {
		case dnsmessage.TypeA:
			m.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AResource{A: addressOf(strings.TrimSuffix(strings.ToLower(q.Name.String()), "."))}}}
		case dnsmessage.TypeTXT:
			m.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.TXTResource{TXT: []string{"ok"}}}}
		}
		if text, err := m.Pack(); err == nil {
			_, _ = c.WriteTo(text, from)
		}
	}
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stand-in"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// answer is every web site: programs and scripts that say a word, a registry of npm, and "ok" for the rest.
func answer(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 1<<20))
	switch {
	case strings.HasSuffix(r.URL.Path, "/program"):
		self, _ := os.ReadFile("/proc/self/exe")
		_, _ = w.Write(self)
	case strings.HasSuffix(r.URL.Path, ".sh"):
		fmt.Fprintln(w, "echo came from the net")
	case r.URL.Path == "/tiny":
		fmt.Fprintf(w, `{"name":"tiny","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"tiny","version":"1.0.0","dist":{"tarball":"http://%s/tiny/-/tiny-1.0.0.tgz"}}}}`, r.Host)
	case strings.HasSuffix(r.URL.Path, ".tgz"):
		out, _ := exec.Command("bash", "-c", `d=$(mktemp -d); mkdir $d/package; echo '{"name":"tiny","version":"1.0.0"}' > $d/package/package.json; tar -C $d -czf - package`).Output()
		_, _ = w.Write(out)
	default:
		fmt.Fprintln(w, "ok")
	}
}

// listener is who waits for a shell: it says goodbye.
func listener(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = c.Write([]byte("exit\n"))
			_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}()
	}
}

// worker is the runner's: it runs the steps of a play one after the other.
func worker(file string) error {
	if _, err := bufio.NewReaderSize(os.Stdin, 16).ReadByte(); err != nil {
		return err
	}
	p, err := read(file)
	if err != nil {
		return err
	}
	tell := json.NewEncoder(os.Stdout)
	for i, s := range p.Steps {
		name := filepath.Join(temp, fmt.Sprintf("00000000-0000-4000-8000-%012d.sh", i+1))
		if err := os.WriteFile(name, []byte(s.Script), 0o644); err != nil {
			return err
		}
		if err := tell.Encode(bound{Number: i + 1, Begin: true, At: time.Now()}); err != nil {
			return err
		}
		cmd := exec.Command("/usr/bin/bash", "--noprofile", "--norc", "-e", "-o", "pipefail", name)
		cmd.Dir = workspace
		for _, v := range os.Environ() {
			if !strings.HasPrefix(v, roleVariable+"=") {
				cmd.Env = append(cmd.Env, v)
			}
		}
		cmd.Env = append(cmd.Env, fmt.Sprint("WORKER=", os.Getpid()), "PROP="+os.Args[0])
		out, err := cmd.CombinedOutput()
		b := bound{Number: i + 1, At: time.Now()}
		if err != nil {
			b.Failed = fmt.Sprintf("step %q: %v\n%s", s.Name, err, bytes.ToValidUTF8(out, []byte("?")))
		}
		if err := tell.Encode(b); err != nil {
			return err
		}
		if err != nil {
			return nil //nolint:nilerr // told
		}
	}
	return nil
}

// prop is a program that incidents download: it connects to where it is told, or waits a moment.
func prop() error {
	if len(os.Args) > 1 && strings.Contains(os.Args[1], ":") {
		c, err := net.Dial("tcp", os.Args[1])
		if err != nil {
			return err
		}
		return c.Close()
	}
	return nil
}

// namespaces are those of a stage.
func namespaces() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
}

package slurmtest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-ci/muster/internal/proc"
)

// Options change a cluster. Zero values take the defaults.
type Options struct {
	// Nodes is how many nodes there are; 2 by default.
	Nodes int
	// CPUs is how many each node claims to have; 16 by default.
	CPUs int
	// MinJobAge is how long Slurm remembers a job that has ended; 300 s by default.
	MinJobAge time.Duration
	// SlurmdTimeout is how long a node may be silent; 6 s by default.
	SlurmdTimeout time.Duration
	// BoundMemory lets the nodes bound the memory of each job with control groups, where
	// CanBoundMemory says that they can. One such cluster runs at a time.
	BoundMemory bool
	// Lines are further lines of slurm.conf, or others in the place of this package's own.
	Lines []string
}

// Cluster is a running Slurm.
type Cluster struct {
	// Dir is its directory, readable by everybody as far as Slurm wants it.
	Dir string
	// Conf is the path of slurm.conf.
	Conf string
	// URL is where slurmrestd listens.
	URL string
	// User is the SlurmUser, whose token may act for every user.
	User string
	// Users are two users to run jobs as: different ones where the test is root.
	Users []string

	opts Options
	root bool
}

// programs are what a cluster needs, and the Debian package of each.
var programs = map[string]string{
	"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "slurmrestd": "slurmrestd",
	"sbatch": "slurm-client", "scontrol": "slurm-client", "squeue": "slurm-client", "scancel": "slurm-client",
}

// Start starts a cluster and stops it at the end of the test. Where Slurm is not
// installed the test is skipped, or fails if CI=true.
func Start(tb testing.TB, o Options) *Cluster {
	tb.Helper()
	for program, pkg := range programs {
		if look(program) == "" {
			why := fmt.Sprintf("%s is not installed: scripts/setup.sh installs it (Debian package %s)", program, pkg)
			if os.Getenv("CI") == "true" {
				tb.Fatal(why)
			}
			tb.Skip(why)
		}
	}
	o.Nodes, o.CPUs = cmp.Or(o.Nodes, 2), cmp.Or(o.CPUs, 16)
	o.MinJobAge, o.SlurmdTimeout = cmp.Or(o.MinJobAge, 300*time.Second), cmp.Or(o.SlurmdTimeout, 6*time.Second)
	c := &Cluster{opts: o, root: os.Getuid() == 0}
	if err := c.start(tb); err != nil {
		if c.Dir != "" {
			logs, _ := filepath.Glob(filepath.Join(c.Dir, "*", "*.log"))
			for _, name := range logs {
				text, _ := os.ReadFile(name)
				tb.Logf("%s:\n%s", name, text[max(0, len(text)-2000):])
			}
		}
		tb.Fatalf("start a Slurm cluster: %v", err)
	}
	return c
}

// look finds a program, also where only root's PATH leads.
func look(program string) string {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin", "/usr/local/sbin") {
		path := filepath.Join(dir, program)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 && !info.IsDir() {
			return path
		}
	}
	return ""
}

func (c *Cluster) start(tb testing.TB) error {
	own, err := user.Current()
	if err != nil {
		return err
	}
	munge, rest := own.Username, own.Username
	c.User, c.Users = own.Username, []string{own.Username, own.Username}
	if c.root {
		// slurmrestd refuses to be root or SlurmUser; any user without power does.
		munge, rest, c.User, c.Users = "munge", "nobody", "slurm", []string{"games", "daemon"}
	}
	// Other users than the test's own must reach it, which t.TempDir does not let them.
	if c.Dir, err = os.MkdirTemp("", "muster-slurm-"); err != nil {
		return err
	}
	tb.Cleanup(func() {
		if tb.Failed() && os.Getenv("MUSTER_TEST_KEEP") != "" {
			tb.Logf("kept %s", c.Dir)
			return
		}
		if err := os.RemoveAll(c.Dir); err != nil {
			tb.Errorf("remove the cluster's directory: %v", err)
		}
	})
	if err := os.Chmod(c.Dir, 0o755); err != nil {
		return err
	}
	for _, d := range []struct {
		name, owner string
		mode        os.FileMode
	}{{"log", own.Username, 0o755}, {"spool", own.Username, 0o755}, {"munge", munge, 0o711}, {"munge/private", munge, 0o700}, {"ctld", c.User, 0o755}, {"rest", rest, 0o755}, {"jobs", own.Username, 0o1777}} {
		path := filepath.Join(c.Dir, d.name)
		if err := errors.Join(os.Mkdir(path, d.mode), os.Chmod(path, d.mode|stickyBit(d.mode)), c.give(path, d.owner)); err != nil {
			return err
		}
	}
	secret := func(path, owner string, size int) error {
		key := make([]byte, size)
		_, _ = rand.Read(key) // never fails
		return errors.Join(os.WriteFile(path, key, 0o600), c.give(path, owner))
	}
	mungeKey, jwtKey := filepath.Join(c.Dir, "munge/private/key"), c.KeyFile()
	if err := errors.Join(secret(mungeKey, munge, 128), secret(jwtKey, c.User, 32)); err != nil {
		return err
	}
	ports, err := freePorts(c.opts.Nodes + 2)
	if err != nil {
		return err
	}
	socket := filepath.Join(c.Dir, "munge/socket")
	c.Conf = filepath.Join(c.Dir, "slurm.conf")
	version, err := exec.CommandContext(tb.Context(), look("slurmd"), "-V").Output()
	if err != nil {
		return fmt.Errorf("ask slurmd for its version: %w", err)
	}
	openapi := "openapi/v0.0.38"
	if newer(string(version)) {
		openapi = "slurmctld"
		if err := os.WriteFile(filepath.Join(c.Dir, "cgroup.conf"), []byte("CgroupPlugin=disabled\n"), 0o644); err != nil {
			return err
		}
	}
	if c.opts.BoundMemory {
		if err := c.boundMemory(tb); err != nil {
			return err
		}
	}
	if err := c.configure(own.Username, socket, jwtKey, ports); err != nil {
		return err
	}

	// From here on there are processes to end.
	tb.Cleanup(func() { c.stop(tb) })
	if err := c.daemon(tb.Context(), munge, nil, "munged", "--key-file="+mungeKey, "--socket="+socket, "--pid-file="+filepath.Join(c.Dir, "munge/munged.pid"),
		"--log-file="+filepath.Join(c.Dir, "munge/private/munged.log"), "--seed-file="+filepath.Join(c.Dir, "munge/private/seed")); err != nil {
		return err
	}
	if err := c.daemon(tb.Context(), c.User, nil, "slurmctld"); err != nil {
		return err
	}
	for i := range c.opts.Nodes {
		if err := c.StartNode(tb.Context(), i+1); err != nil {
			return err
		}
	}
	listen := fmt.Sprintf("127.0.0.1:%d", ports[1])
	c.URL = "http://" + listen
	if err := c.rest(rest, openapi, listen); err != nil {
		return err
	}
	return c.awaitUp(tb.Context(), listen)
}

// controllers is where the control groups of version 1 are.
const controllers = "/sys/fs/cgroup"

// CanBoundMemory says why nodes on this machine cannot bound memory, "" if they can. Slurm
// 22.05 does so with the memory controller of version 1, as root; with version 2 it needs
// systemd, and refuses a machine that has both.
func CanBoundMemory() string {
	if os.Getuid() != 0 {
		return "only root may make control groups for jobs"
	}
	dir, err := os.MkdirTemp(filepath.Join(controllers, "memory"), "muster-slurm-")
	if err != nil {
		return fmt.Sprintf("no memory controller of control groups version 1 to write to: %v", err)
	}
	if err := os.Remove(dir); err != nil {
		return err.Error()
	}
	return ""
}

// boundMemory prepares a cluster whose nodes make control groups. Their names hold only
// node, user and job, so that two clusters would share them: others wait for this one.
func (c *Cluster) boundMemory(tb testing.TB) error {
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), "muster-slurm-memory.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	tb.Cleanup(func() {
		for i := range c.opts.Nodes {
			removeGroups(tb, filepath.Join(controllers, "memory", "slurm_"+NodeName(i+1)))
		}
		_ = lock.Close() // which gives the lock back
	})
	for {
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			break
		}
		select {
		case <-tb.Context().Done():
			return tb.Context().Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	c.opts.Lines = append(c.opts.Lines, "TaskPlugin=task/cgroup")
	return os.WriteFile(filepath.Join(c.Dir, "cgroup.conf"), []byte("CgroupPlugin=cgroup/v1\nCgroupMountpoint="+controllers+"\nConstrainRAMSpace=yes\n"), 0o644)
}

// removeGroups removes a control group and those below it. Nothing is in them any more.
func removeGroups(tb testing.TB, top string) {
	var dirs []string
	_ = filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, dir := range slices.Backward(dirs) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			tb.Errorf("remove a node's control group: %v", err)
		}
	}
}

func stickyBit(m os.FileMode) os.FileMode {
	if m&0o1000 != 0 {
		return os.ModeSticky
	}
	return 0
}

// newer reports whether Slurm serves the newer dialect and has the plugin for "no
// control groups".
func newer(version string) bool {
	fields := strings.Fields(version) // "slurm-wlm 22.05.8"
	if len(fields) < 2 {
		return false
	}
	major, _, _ := strings.Cut(fields[len(fields)-1], ".")
	n, err := strconv.Atoi(major)
	return err == nil && n >= 23
}

func (c *Cluster) give(path, owner string) error {
	if !c.root {
		return nil
	}
	uid, gid, err := ids(owner)
	if err != nil {
		return err
	}
	return os.Chown(path, uid, gid)
}

func ids(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, err
	}
	uid, err = strconv.Atoi(u.Uid)
	if err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}

func (c *Cluster) configure(daemonUser, socket, jwtKey string, ports []int) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	host, _, _ = strings.Cut(host, ".")
	var b strings.Builder
	at := func(parts ...string) string { return filepath.Join(append([]string{c.Dir}, parts...)...) }
	for _, line := range [][2]string{
		{"ClusterName", "test"}, {"SlurmctldHost", "localhost(127.0.0.1)"}, {"SlurmctldPort", strconv.Itoa(ports[0])},
		{"SlurmUser", c.User}, {"SlurmdUser", daemonUser},
		{"AuthType", "auth/munge"}, {"AuthInfo", "socket=" + socket}, {"CredType", "cred/munge"},
		{"AuthAltTypes", "auth/jwt"}, {"AuthAltParameters", "jwt_key=" + jwtKey},
		{"StateSaveLocation", at("ctld")}, {"SlurmdSpoolDir", at("spool", "%n")},
		{"SlurmctldPidFile", at("ctld", "slurmctld.pid")}, {"SlurmdPidFile", at("spool", "%n.pid")},
		{"SlurmctldLogFile", at("ctld", "slurmctld.log")}, {"SlurmdLogFile", at("log", "slurmd.%n.log")},
		// Nothing of control groups: containers and small machines have none.
		{"ProctrackType", "proctrack/linuxproc"}, {"TaskPlugin", "task/none"}, {"JobAcctGatherType", "jobacct_gather/none"},
		{"SwitchType", "switch/none"}, {"MpiDefault", "none"},
		{"SelectType", "select/cons_tres"}, {"SelectTypeParameters", "CR_Core_Memory"},
		{"SchedulerType", "sched/backfill"}, {"SchedulerParameters", "sched_interval=2,batch_sched_delay=0,bf_interval=2,sched_min_interval=100000"},
		{"ReturnToService", "2"}, {"SlurmdTimeout", seconds(c.opts.SlurmdTimeout)}, {"SlurmctldTimeout", "20"}, {"InactiveLimit", "0"},
		{"MinJobAge", seconds(c.opts.MinJobAge)}, {"KillWait", "5"}, {"CompleteWait", "0"}, {"MessageTimeout", "10"},
		{"JobRequeue", "1"}, // the worse default, so that tests show who forbids it
		{"MailProg", "/bin/true"}, {"AccountingStorageType", "accounting_storage/none"}, {"JobCompType", "jobcomp/filetxt"}, {"JobCompLoc", at("ctld", "ended.txt")},
		{"SlurmdParameters", "config_overrides"}, // nodes claim what they do not have
		{"GresTypes", "gpu"},
	} {
		if !slices.ContainsFunc(c.opts.Lines, func(l string) bool { return strings.HasPrefix(l, line[0]+"=") }) {
			fmt.Fprintf(&b, "%s=%s\n", line[0], line[1])
		}
	}
	var gres strings.Builder
	for i := range c.opts.Nodes {
		fmt.Fprintf(&b, "NodeName=n%d NodeHostname=%s NodeAddr=127.0.0.1 Port=%d CPUs=%d RealMemory=%d", i+1, host, ports[i+2], c.opts.CPUs, c.opts.CPUs*1024)
		if i == 0 {
			b.WriteString(" Gres=gpu:2") // any two devices do: without control groups they are only counted
			gres.WriteString("NodeName=n1 Name=gpu File=/dev/null,/dev/zero\n")
		}
		b.WriteString(" State=UNKNOWN\n")
	}
	fmt.Fprintf(&b, "PartitionName=ci Nodes=n[1-%d] Default=YES MaxTime=7-00:00:00 DefaultTime=10 DefMemPerCPU=256 State=UP\n", c.opts.Nodes)
	// A queue that never moves, for jobs that wait.
	fmt.Fprintf(&b, "PartitionName=closed Nodes=n[1-%d] MaxTime=7-00:00:00 DefMemPerCPU=256 State=DOWN\n", c.opts.Nodes)
	for _, line := range c.opts.Lines {
		b.WriteString(line + "\n")
	}
	return errors.Join(os.WriteFile(c.Conf, []byte(b.String()), 0o644), os.WriteFile(filepath.Join(c.Dir, "gres.conf"), []byte(gres.String()), 0o644))
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

// freePorts finds ports below those that systems hand out by themselves.
func freePorts(n int) (out []int, err error) {
	for try := 0; len(out) < n && try < 500; try++ {
		var random [2]byte
		_, _ = rand.Read(random[:])
		port := 10000 + (int(random[0])<<8|int(random[1]))%10000
		if slices.Contains(out, port) {
			continue
		}
		l, listenErr := (&net.ListenConfig{}).Listen(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if listenErr != nil {
			err = listenErr
			continue
		}
		_ = l.Close()
		out = append(out, port)
	}
	if len(out) < n {
		return nil, fmt.Errorf("find free ports: %w", err)
	}
	return out, nil
}

// command makes a command of the cluster that runs as a user.
func (c *Cluster) command(ctx context.Context, as string, env []string, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, look(program), args...)
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "SLURM_CONF=" + c.Conf}, env...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if c.root && as != "root" {
		if uid, gid, err := ids(as); err == nil {
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	return cmd
}

// daemon starts a program that goes to the background by itself.
func (c *Cluster) daemon(ctx context.Context, as string, env []string, program string, args ...string) error {
	// Not a pipe: a daemon would keep it open.
	out, err := os.Create(filepath.Join(c.Dir, "log", program+".start.log"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := c.command(ctx, as, env, program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: %w\n%s", program, err, text)
	}
	return nil
}

// rest starts slurmrestd, which stays in the foreground.
func (c *Cluster) rest(as, openapi, listen string) error {
	out, err := os.Create(filepath.Join(c.Dir, "log", "slurmrestd.log"))
	if err != nil {
		return err
	}
	defer out.Close()
	// "daemon" keeps it from asking munge for itself.
	cmd := c.command(context.Background(), as, []string{"SLURM_JWT=daemon"}, "slurmrestd", "-a", "rest_auth/jwt", "-s", openapi, listen)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // ended by stop, by its pid
	return os.WriteFile(filepath.Join(c.Dir, "rest", "slurmrestd.pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644)
}

func (c *Cluster) awaitUp(ctx context.Context, listen string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	last := ""
	for {
		// A node counts as idle before its slurmd has spoken; its start time tells.
		out, err := c.command(ctx, c.self(), nil, "scontrol", "-o", "show", "node").CombinedOutput()
		up := 0
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "State=IDLE ") && !strings.Contains(line, "SlurmdStartTime=None") {
				up++
			}
		}
		if err == nil && up == c.opts.Nodes {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", listen)
			if err == nil {
				return conn.Close()
			}
		}
		last = string(out)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d nodes are up\n%s", up, c.opts.Nodes, last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *Cluster) self() string {
	if c.root {
		return "root"
	}
	return c.User
}

// KeyFile is the key of Slurm's web tokens.
func (c *Cluster) KeyFile() string { return filepath.Join(c.Dir, "ctld", "jwt.key") }

// NodeName is the name of the node with that number, from 1.
func NodeName(n int) string { return fmt.Sprintf("n%d", n) }

// StartNode starts a node's slurmd.
func (c *Cluster) StartNode(ctx context.Context, n int) error {
	return c.daemon(ctx, c.self(), nil, "slurmd", "-N", NodeName(n))
}

// KillNode kills a node as a loss of power does: its slurmd, and what it had started.
func (c *Cluster) KillNode(tb testing.TB, n int) {
	tb.Helper()
	pid := pidIn(filepath.Join(c.Dir, "spool", NodeName(n)+".pid"))
	if pid == 0 {
		tb.Fatalf("node %s has no slurmd", NodeName(n))
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	// slurmstepd hides its environment and is no child of slurmd: it is found as the
	// parent of the job, and goes first, so that it reports nothing.
	var job []int
	steps := map[int]bool{}
	for _, p := range c.processes() {
		if !strings.Contains(p.environ, "SLURMD_NODENAME="+NodeName(n)+"\x00") {
			continue
		}
		job = append(job, p.pid)
		if parent := parentOf(p.pid); comm(parent) == "slurmstepd" {
			steps[parent] = true
		}
	}
	for step := range steps {
		_ = syscall.Kill(step, syscall.SIGKILL)
	}
	for _, p := range job {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
}

func comm(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "" // it has ended
	}
	return strings.TrimSpace(string(text))
}

func parentOf(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ") // after the name, which may hold anything
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return parent
}

type process struct {
	pid     int
	environ string
}

// processes are those of this cluster, by the configuration in their environment.
func (c *Cluster) processes() (out []process) {
	all, _ := proc.All() // this is Linux, which has them
	for _, p := range all {
		if env := proc.Environ(p.PID); p.PID != os.Getpid() && bytes.Contains(env, []byte("SLURM_CONF="+c.Conf)) {
			out = append(out, process{p.PID, string(env)})
		}
	}
	return out
}

// Command runs a program of Slurm, as root or the only user there is.
func (c *Cluster) Command(ctx context.Context, program string, args ...string) (string, error) {
	cmd := c.command(ctx, c.self(), nil, program, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// Must is Command for tests that cannot go on without it.
func (c *Cluster) Must(tb testing.TB, program string, args ...string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 30*time.Second)
	defer cancel()
	out, err := c.Command(ctx, program, args...)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// Token makes a web token for a user, good for an hour, and returns the file with it.
func (c *Cluster) Token(tb testing.TB, user string) string {
	tb.Helper()
	out := c.Must(tb, "scontrol", "token", "username="+user, "lifespan=3600")
	_, token, ok := strings.Cut(strings.TrimSpace(out), "SLURM_JWT=")
	if !ok {
		tb.Fatalf("scontrol token printed %d bytes without a token", len(out))
	}
	path := filepath.Join(tb.TempDir(), "slurm.token")
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// Queue is what squeue shows of jobs that have not ended.
func (c *Cluster) Queue(tb testing.TB) (lines []string) {
	tb.Helper()
	for line := range strings.Lines(c.Must(tb, "squeue", "-h", "-o", "%i %u %T %r %j %k")) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

func pidIn(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

// stop ends what start started, by pid, and waits for it.
func (c *Cluster) stop(tb testing.TB) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 30*time.Second)
	defer cancel()
	for _, state := range []string{"RUNNING", "PENDING"} {
		_, _ = c.Command(ctx, "scancel", "--full", "--signal=KILL", "--state="+state) // none may be left
		_, _ = c.Command(ctx, "scancel", "--state="+state)
	}
	files, _ := filepath.Glob(filepath.Join(c.Dir, "spool", "*.pid"))
	files = append([]string{filepath.Join(c.Dir, "rest", "slurmrestd.pid")}, files...)
	files = append(files, filepath.Join(c.Dir, "ctld", "slurmctld.pid"), filepath.Join(c.Dir, "munge", "munged.pid"))
	var pids []int
	for _, f := range files {
		if pid := pidIn(f); pid > 0 && c.ours(pid) {
			pids = append(pids, pid)
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
	}
	gone := func() bool { return !slices.ContainsFunc(pids, c.ours) }
	for range 40 {
		if gone() {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	for _, pid := range pids {
		if c.ours(pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	// Jobs and their steps whose node is gone.
	for range 20 {
		left := c.processes()
		if len(left) == 0 {
			return
		}
		for _, p := range left {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// ours reports whether a process runs and is one of this cluster's.
func (c *Cluster) ours(pid int) bool {
	return bytes.Contains(proc.Environ(pid), []byte(c.Dir))
}

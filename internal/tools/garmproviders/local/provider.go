package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cloudbase/garm-provider-common/cloudconfig"
	garmerrors "github.com/cloudbase/garm-provider-common/errors"
	"github.com/cloudbase/garm-provider-common/execution/common"
	"github.com/cloudbase/garm-provider-common/params"
	"github.com/cloudbase/garm-provider-common/util"
)

// config is the provider's configuration file, in JSON.
type config struct {
	// Root is where the cloud keeps its machines.
	Root string `json:"root"`
	// UserData lets machines run their user data, for which they get namespaces; it needs root.
	UserData bool `json:"user_data"`
	// Runner is a directory with GitHub's runner that the image has already.
	Runner string `json:"runner"`
	// Quota is how many machines the cloud allows in all; 0 means any number.
	Quota int `json:"quota"`
	// Vague ends a look-up of a machine that does not exist with 1, as several clouds' providers do.
	Vague bool `json:"vague"`
	// Doubles lets the cloud make a second machine of one name.
	Doubles bool `json:"doubles"`
	// Lingers is how many lists a deleted machine still shows in.
	Lingers int `json:"lingers"`
	// Journal gets a line for every call: command, environment and standard input.
	Journal string `json:"journal"`
	// Faults are what goes wrong, by command.
	Faults map[string]fault `json:"faults"`
}

// fault is how a command goes wrong. What it does, it does before if After is set,
// and else not at all.
type fault struct {
	After  bool   `json:"after"`
	Exit   int    `json:"exit"`
	Stderr string `json:"stderr"`
	Stdout string `json:"stdout"`
	// Hang waits for this file to exist, with a helper process that does the same.
	Hang string `json:"hang"`
	// Once is a file that the first call makes, and that spares the others.
	Once string `json:"once"`
}

type cloud struct {
	config
	command, controller, pool string
}

func load(file, controller, pool string) (*cloud, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	c := &cloud{command: os.Getenv("GARM_COMMAND"), controller: controller, pool: pool}
	if err := json.Unmarshal(text, &c.config); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if c.Journal != "" {
		line, err := json.Marshal(map[string]any{"command": c.command, "env": os.Environ(), "pid": os.Getpid()})
		if err != nil {
			return nil, err
		}
		f, err := os.OpenFile(c.Journal, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if _, err := f.Write(append(line, '\n')); err != nil {
			return nil, err
		}
	}
	return c, os.MkdirAll(filepath.Join(c.Root, "machines"), 0o755)
}

// spoilt runs a command with what goes wrong with it.
func (c *cloud) spoilt(do func() (string, error)) (string, error) {
	f, spoil := c.Faults[c.command]
	if spoil && f.Once != "" {
		made, err := os.OpenFile(f.Once, os.O_CREATE|os.O_EXCL, 0o600)
		if spoil = err == nil; spoil {
			made.Close()
		}
	}
	if !spoil {
		return do()
	}
	if f.After {
		if out, err := do(); err != nil {
			return out, err
		}
	}
	if f.Hang != "" {
		helper := exec.Command("sleep", "600")
		helper.Stdout, helper.Stderr = os.Stdout, os.Stderr
		if err := helper.Start(); err != nil {
			return "", err
		}
		for {
			if _, err := os.Stat(f.Hang); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		_ = helper.Process.Kill()
	}
	fmt.Fprint(os.Stderr, f.Stderr)
	if f.Exit != 0 {
		fmt.Print(f.Stdout)
		return "", exitCode(f.Exit)
	}
	return f.Stdout, nil
}

// vm is a machine's description, machine.json in its directory.
type vm struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Controller string    `json:"controller"`
	Pool       string    `json:"pool"`
	CreatedAt  time.Time `json:"created_at"`
	Image      string    `json:"image"`
	Flavor     string    `json:"flavor"`
	PID        int       `json:"pid"`
	Start      string    `json:"start"`
	Deleted    bool      `json:"deleted"`
	Shown      int       `json:"shown"`

	dir string
}

func (v vm) save() error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(v.dir, "machine.json.new"), text, 0o644); err != nil {
		return err
	}
	return os.Rename(filepath.Join(v.dir, "machine.json.new"), filepath.Join(v.dir, "machine.json"))
}

// startOf is when a process started, in the kernel's ticks, "" if there is none.
func startOf(pid int) string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return ""
	}
	return f[19]
}

func (v vm) alive() bool { return v.PID != 0 && v.Start != "" && startOf(v.PID) == v.Start }

func (v vm) instance() params.ProviderInstance {
	in := params.ProviderInstance{
		ProviderID: v.ID, Name: v.Name, OSType: params.Linux, OSName: "debian", OSVersion: "12", OSArch: params.Amd64,
		Addresses: []params.Address{{Address: "127.0.0.1", Type: params.PrivateAddress}}, Status: params.InstanceStopped,
	}
	if v.alive() {
		in.Status = params.InstanceRunning
	}
	return in
}

// locked runs do while nobody else changes the cloud.
func (c *cloud) locked(do func() error) error {
	f, err := os.OpenFile(filepath.Join(c.Root, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	return do()
}

func (c *cloud) all() ([]vm, error) {
	dirs, err := filepath.Glob(filepath.Join(c.Root, "machines", "*", "machine.json"))
	if err != nil {
		return nil, err
	}
	var out []vm
	for _, name := range dirs {
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		v := vm{dir: filepath.Dir(name)}
		if err == nil {
			err = json.Unmarshal(text, &v)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (c *cloud) find(instance string) ([]vm, error) {
	all, err := c.all()
	return slices.DeleteFunc(all, func(v vm) bool {
		return v.Deleted || v.Controller != c.controller && v.Controller != "" || v.ID != instance && v.Name != instance
	}), err
}

// CreateInstance implements the interface.
func (c *cloud) CreateInstance(_ context.Context, b params.BootstrapInstance) (params.ProviderInstance, error) {
	tools, err := util.GetTools(b.OSType, b.OSArch, b.Tools)
	if err != nil {
		return params.ProviderInstance{}, fmt.Errorf("failed to get tools: %w", err)
	}
	userData, err := cloudconfig.GetCloudConfig(b, tools, b.Name)
	if err != nil {
		return params.ProviderInstance{}, fmt.Errorf("failed to generate cloud config: %w", err)
	}
	var v vm
	err = c.locked(func() error {
		all, err := c.all()
		if err != nil {
			return err
		}
		if c.Quota > 0 && len(all) >= c.Quota {
			return fmt.Errorf("Quota exceeded for instances: Requested 1, but already used %d of %d instances", len(all), c.Quota)
		}
		if !c.Doubles && slices.ContainsFunc(all, func(v vm) bool { return v.Name == b.Name && !v.Deleted }) {
			return fmt.Errorf("machine %s exists: %w", b.Name, garmerrors.ErrDuplicateEntity)
		}
		var random [8]byte
		_, _ = rand.Read(random[:])
		v = vm{ID: "local-" + hex.EncodeToString(random[:]), Name: b.Name, Controller: c.controller, Pool: b.PoolID, CreatedAt: time.Now(), Image: b.Image, Flavor: b.Flavor}
		v.dir = filepath.Join(c.Root, "machines", v.ID)
		if err := os.Mkdir(v.dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(v.dir, "user-data"), []byte(userData), 0o600); err != nil {
			return err
		}
		return c.boot(&v, c.UserData)
	})
	if err != nil {
		return params.ProviderInstance{}, err
	}
	return v.instance(), nil
}

// boot starts a machine's process.
func (c *cloud) boot(v *vm, userData bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	console, err := os.OpenFile(filepath.Join(v.dir, "console.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer console.Close()
	cmd := exec.Command(self, "machine", v.dir)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if userData {
		cmd.Env = append(cmd.Env, "MACHINE_RUNNER="+c.Runner, "MACHINE_USER_DATA=1")
		// Its own processes end with the first of them, and its mounts are its own.
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	v.PID, v.Start = cmd.Process.Pid, startOf(cmd.Process.Pid)
	return v.save()
}

func (v vm) kill() error {
	if !v.alive() {
		return nil
	}
	_ = syscall.Kill(-v.PID, syscall.SIGKILL)
	_ = syscall.Kill(v.PID, syscall.SIGKILL)
	for range 2000 {
		if !v.alive() {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("machine %s does not end", v.Name)
}

// DeleteInstance implements the interface. A machine that is not there is deleted.
func (c *cloud) DeleteInstance(_ context.Context, instance string) error {
	return c.locked(func() error {
		found, err := c.find(instance)
		if err != nil {
			return err
		}
		if len(found) == 0 && !c.Vague {
			return notFound(instance)
		}
		for _, v := range found[:min(1, len(found))] {
			if err := v.kill(); err != nil {
				return err
			}
			if c.Lingers > 0 {
				v.Deleted = true
				return v.save()
			}
			return os.RemoveAll(v.dir)
		}
		return nil
	})
}

// GetInstance implements the interface.
func (c *cloud) GetInstance(_ context.Context, instance string) (params.ProviderInstance, error) {
	found, err := c.find(instance)
	switch {
	case err != nil:
		return params.ProviderInstance{}, err
	case len(found) == 0 && c.Vague:
		return params.ProviderInstance{}, fmt.Errorf("the cloud knows nothing of %s", instance)
	case len(found) == 0:
		return params.ProviderInstance{}, notFound(instance)
	}
	return found[0].instance(), nil
}

// ListInstances implements the interface.
func (c *cloud) ListInstances(_ context.Context, pool string) ([]params.ProviderInstance, error) {
	out := []params.ProviderInstance{}
	err := c.locked(func() error {
		all, err := c.all()
		for _, v := range all {
			if v.Controller != c.controller || v.Pool != pool {
				continue
			}
			if v.Deleted {
				if v.Shown++; v.Shown > c.Lingers {
					if err := os.RemoveAll(v.dir); err != nil {
						return err
					}
					continue
				}
				if err := v.save(); err != nil {
					return err
				}
			}
			out = append(out, v.instance())
		}
		return err
	})
	return out, err
}

// RemoveAllInstances implements the interface.
func (c *cloud) RemoveAllInstances(ctx context.Context) error {
	all, err := c.all()
	for _, v := range all {
		if v.Controller == c.controller {
			err = errors.Join(err, c.DeleteInstance(ctx, v.ID))
		}
	}
	return err
}

// Stop implements the interface.
func (c *cloud) Stop(_ context.Context, instance string, _ bool) error {
	return c.locked(func() error {
		found, err := c.find(instance)
		if err == nil && len(found) == 0 {
			err = notFound(instance)
		}
		if err != nil {
			return err
		}
		return found[0].kill()
	})
}

// Start implements the interface.
func (c *cloud) Start(_ context.Context, instance string) error {
	return c.locked(func() error {
		found, err := c.find(instance)
		if err == nil && len(found) == 0 {
			err = notFound(instance)
		}
		if err != nil || found[0].alive() {
			return err
		}
		return c.boot(&found[0], false)
	})
}

// GetVersion implements the interface.
func (c *cloud) GetVersion(context.Context) string { return "local-1" }

// GetSupportedInterfaceVersions implements the interface.
func (c *cloud) GetSupportedInterfaceVersions(context.Context) []string {
	return []string{common.Version010, common.Version011}
}

// ValidatePoolInfo implements the interface; image and flavor are always empty (the
// library fills them for CreateInstance only).
func (c *cloud) ValidatePoolInfo(_ context.Context, image, flavor, _, extraSpecs string) error {
	if image != "" || flavor != "" {
		return fmt.Errorf("image %q and flavor %q were not expected", image, flavor)
	}
	if strings.Contains(extraSpecs, "cmVmdXNlLW1l") { // "refuse-me" in base64
		return errors.New("extra specs: refuse-me is not allowed")
	}
	return nil
}

// GetConfigJSONSchema implements the interface.
func (c *cloud) GetConfigJSONSchema(context.Context) (string, error) {
	return `{"type": "object", "required": ["root"]}`, nil
}

// GetExtraSpecsJSONSchema implements the interface.
func (c *cloud) GetExtraSpecsJSONSchema(context.Context) (string, error) {
	return `{"type": "object"}`, nil
}

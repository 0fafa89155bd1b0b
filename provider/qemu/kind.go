package qemu

import (
	_ "embed"
	"encoding/json"
	"errors"
	"path/filepath"
	"time"

	"github.com/muster-ci/muster/provider"
)

//go:embed guide.md
var guide string

// Kind is this platform for the configuration and the documentation.
func Kind() provider.Kind { return provider.Kind{Description: description(), Read: read} }

func description() provider.Description {
	return provider.Description{
		Kind:      "qemu",
		Summary:   "Every runner in a virtual machine of this host, by QEMU, copied from a warm template in a fraction of a second.",
		Isolation: "That of a virtual machine: a kernel, memory and disk of its own for every job, QEMU in a seccomp sandbox, no network card, and only what `egress` lists within reach.",
		Needs: []string{
			"Linux on x86-64.", "`qemu-system-x86` and `qemu-utils`.",
			"An image, made by `muster image build`.", "A working `/dev/kvm` for real work: without it, machines run and are slow.",
		},
		// Design §7.
		ConnectTimeout: 5 * time.Minute,
		NoGPUs:         "the virtual machines have no GPUs; use another kind for them",
		NoSpot:         "the virtual machines are of this host, and nobody takes it away; leave spot out",
		Settings: provider.Settings(Defaults(), map[string]string{
			"qemu":         "the emulator, a path or a name in PATH",
			"accel":        "`kvm`; `tcg`, QEMU's own translation; or `auto`: KVM where a trial machine shows that it works, `tcg` otherwise",
			"images":       "the directory of images; by default `images` in the data directory",
			"image":        "the image of offerings that name none",
			"root":         "where the directories of machines and the templates are; by default `machines/NAME` in the data directory",
			"machines_dir": "the machines that are kept: `ZONE/NAME/disk.qcow2` or `NAME/disk.qcow2`; empty keeps none",
			"max":          "how many machines may exist at once, those that ended and are not yet deleted included",
			"cpus":         "processors of a machine whose offering does not say; fractions are rounded up",
			"memory_mib":   "memory of a machine whose offering does not say",
			"warm":         "make machines from a template that waits in memory and on disk, instead of booting each",
			"egress":       "what machines may reach through the host, as `HOST:PORT`, `*.DOMAIN:PORT` or `*:PORT`; only addresses that are written down may be private or the host's own",
			"taps":         "network devices, made by the operator, of which each machine gets one; with them, machines are booted and never copied",
			"grace":        "how long a machine may take to power itself off before it is killed",
		}),
		Example: `providers:
  - name: vm
    kind: qemu
    config:
      image: debian-12
      max: 8
      egress:
        - "github.com:443"
        - "*.github.com:443"
        - "*.githubusercontent.com:443"
        - "*.blob.core.windows.net:443"
offerings:
  - {name: vm-small, cpus: 2, memory_mib: 2048, image: debian-12, price_usd_per_minute: "0"}
pools:
  - name: vm
    scope: your-organization
    labels: [muster-vm]
    provider: vm
    offering: vm-small
    scaling: {max_runners: 8}
`,
		Guide: guide,
	}
}

func read(section json.RawMessage, env provider.Env) (func() (provider.Provider, error), error) {
	cfg := Defaults()
	cfg.Root = filepath.Join(env.DataDir, "machines", env.Name)
	cfg.Images = filepath.Join(env.DataDir, "images")
	err := provider.DecodeConfig(section, &cfg)
	for _, path := range []*string{&cfg.Root, &cfg.Images, &cfg.MachinesDir} {
		*path = env.Path(*path)
	}
	if err := errors.Join(err, cfg.Validate()); err != nil {
		return nil, err
	}
	cfg.Owner, cfg.Logger = env.Owner, env.Logger
	return func() (provider.Provider, error) { return New(cfg) }, nil
}

//go:build linux

package qemu

import (
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/muster-ci/muster/internal/guest"
	"github.com/muster-ci/muster/internal/instancedir"

	"github.com/muster-ci/muster/internal/proc"
)

func (o ImageOrder) validate() error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if !imageName.MatchString(o.Name) {
		add("name: %q must be of lower-case letters, digits, dots and dashes", o.Name)
	}
	if o.Images == "" {
		add("images: the directory of images is missing")
	}
	for what, path := range map[string]string{"kernel": o.Kernel, "root": o.Root, "runner": o.Runner, "agent": o.Agent} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			add("%s: %w", what, err)
		}
	}
	if o.Agent == "" {
		add("agent: the path of muster-agent is missing")
	} else if f, err := elf.Open(o.Agent); err == nil {
		if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
			add("agent: %s is linked dynamically; build cmd/muster-agent with CGO_ENABLED=0", o.Agent)
		}
		f.Close()
	}
	if o.Runner == "" {
		add("runner: name the directory of GitHub's unpacked runner, or its archive")
	}
	if o.Root != "" && o.Debian != "" {
		add("root and debian are two ways to the same thing: choose one")
	}
	if o.DiskMiB < 0 || o.DiskMiB > 0 && o.DiskMiB < 16 {
		add("disk: %d MiB is too small for a disk", o.DiskMiB)
	}
	return errors.Join(problems...)
}

// BuildImage makes an image and returns its record, in the directory of which it can
// be seen from the beginning; progress gets what the tools say. One image is built at
// a time. An image that failed is replaced, one that is ready is not.
func BuildImage(ctx context.Context, o ImageOrder, progress io.Writer) (Image, error) {
	if err := o.validate(); err != nil {
		return Image{}, err
	}
	dir := filepath.Join(o.Images, o.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Image{}, err
	}
	held, err := proc.Lock(ctx, dir, syscall.LOCK_EX, false)
	if errors.Is(err, proc.ErrLocked) {
		return Image{}, fmt.Errorf("image %s is being built by somebody else", o.Name)
	}
	if err != nil {
		return Image{}, err
	}
	defer held.Close()
	record := filepath.Join(dir, manifestFile)
	var img Image
	if err := instancedir.ReadJSON(record, &img); err == nil && img.State == ImageReady {
		return img, fmt.Errorf("image %s is there already, and images do not change: choose another name, and try it with a pool's canary", o.Name)
	}
	img = Image{Name: o.Name, State: ImageQueued, QueuedAt: time.Now().UTC(), Agent: o.Version, dir: dir}
	if err := instancedir.WriteJSON(record, img); err != nil {
		return img, err
	}
	fail := func(err error) (Image, error) {
		img.State, img.Error, img.EndedAt, img.Parts = ImageFailed, err.Error(), time.Now().UTC(), nil
		for _, part := range []string{kernelPart, initrdPart, diskPart} {
			_ = os.Remove(img.path(part)) // parts of nothing
		}
		return img, errors.Join(err, instancedir.WriteJSON(record, img))
	}
	queue := filepath.Join(o.Images, ".queue")
	if err := os.MkdirAll(queue, 0o755); err != nil {
		return fail(err)
	}
	turn, err := proc.Lock(ctx, queue, syscall.LOCK_EX, true)
	if err != nil {
		return fail(fmt.Errorf("wait for another build: %w", err))
	}
	defer turn.Close()
	img.State, img.StartedAt = ImageBuilding, time.Now().UTC()
	if err := instancedir.WriteJSON(record, img); err != nil {
		return fail(err)
	}
	work := filepath.Join(dir, ".work")
	if err := os.RemoveAll(work); err != nil {
		return fail(err)
	}
	defer os.RemoveAll(work)
	b := builder{ImageOrder: o, img: &img, work: work, progress: progress}
	if err := b.build(ctx); err != nil {
		return fail(err)
	}
	if img.Parts, err = sum(ctx, dir); err != nil {
		return fail(err)
	}
	img.Digest, img.State, img.EndedAt = digest(img.Parts), ImageReady, time.Now().UTC()
	return img, instancedir.WriteJSON(record, img)
}

type builder struct {
	ImageOrder
	img      *Image
	work     string
	progress io.Writer
}

func (b *builder) run(ctx context.Context, name string, args ...string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	if err != nil {
		return fmt.Errorf("%s is needed and not installed", name)
	}
	fmt.Fprintln(b.progress, "+", name, strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, path, args...)
	var said tail
	cmd.Stdout, cmd.Stderr = io.MultiWriter(b.progress, &said), io.MultiWriter(b.progress, &said)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, said.text())
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	t.kept = t.kept[max(0, len(t.kept)-1024):]
	return len(p), nil
}

func (t *tail) text() string { return strings.TrimSpace(string(t.kept)) }

func (b *builder) build(ctx context.Context) error {
	boot, root := filepath.Join(b.work, "boot"), filepath.Join(b.work, "root")
	if err := errors.Join(os.MkdirAll(boot, 0o755), os.MkdirAll(root, 0o755)); err != nil {
		return err
	}
	modules, err := b.kernel(ctx)
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	if err := b.initModules(ctx, modules, filepath.Join(boot, guest.ModulesDir)); err != nil {
		return fmt.Errorf("modules: %w", err)
	}
	if err := b.root(ctx, root); err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	if err := b.runner(ctx, filepath.Join(root, guest.RunnerDir)); err != nil {
		return fmt.Errorf("runner: %w", err)
	}
	trees := []string{boot}
	if b.DiskMiB == 0 {
		trees = append(trees, root)
	} else if err := b.disk(ctx, modules, root); err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	if err := copyFile(b.Agent, filepath.Join(boot, "init"), 0o755); err != nil {
		return err
	}
	if err := writeInitramfs(b.img.path(initrdPart), trees...); err != nil {
		return fmt.Errorf("initrd: %w", err)
	}
	return nil
}

// kernel unpacks the kernel's package, keeps the kernel and returns the directory of
// its modules.
func (b *builder) kernel(ctx context.Context) (modules string, err error) {
	from := b.Kernel
	if from == "" {
		if from, err = b.fetchKernel(ctx); err != nil {
			return "", err
		}
	}
	if info, err := os.Stat(from); err != nil {
		return "", err
	} else if !info.IsDir() {
		dir := filepath.Join(b.work, "kernel")
		if err := b.run(ctx, "dpkg-deb", "-x", from, dir); err != nil {
			return "", err
		}
		from = dir
	}
	images, _ := filepath.Glob(filepath.Join(from, "boot", "vmlinuz-*"))
	if len(images) != 1 {
		return "", fmt.Errorf("%d kernels in %s, and there must be one boot/vmlinuz-VERSION", len(images), from)
	}
	b.img.Kernel = strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	for _, lib := range []string{"lib", "usr/lib"} {
		dir := filepath.Join(from, lib, "modules", b.img.Kernel)
		if _, err := os.Stat(dir); err == nil {
			return dir, copyFile(images[0], b.img.path(kernelPart), 0o644)
		}
	}
	return "", fmt.Errorf("no modules of kernel %s in %s", b.img.Kernel, from)
}

// fetchKernel downloads Debian's kernel for virtual machines, without installing it.
func (b *builder) fetchKernel(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", "linux-image-cloud-amd64").Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for linux-image-cloud-amd64: %w; name a kernel package with --kernel", err)
	}
	_, after, _ := strings.Cut(string(out), "Depends: ")
	name, _, _ := strings.Cut(after, "\n")
	if name = strings.TrimSpace(name); name == "" {
		return "", errors.New("apt knows no linux-image-cloud-amd64: name a kernel package with --kernel")
	}
	path, err := exec.LookPath("apt-get")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, "download", name)
	cmd.Dir = b.work
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("download %s: %w: %s", name, err, strings.TrimSpace(string(text)))
	}
	found, _ := filepath.Glob(filepath.Join(b.work, name+"_*.deb"))
	if len(found) != 1 {
		return "", fmt.Errorf("download %s: %d packages came", name, len(found))
	}
	return found[0], nil
}

// initNeeds are the modules that a guest loads before anything else.
var initNeeds = []string{"virtio_pci", "virtio_console", "virtio_blk", "virtio_net", "button", "evdev", "overlay"}

// initModules copies the modules that a guest needs, with those that they need, and
// the order in which they are loaded.
func (b *builder) initModules(ctx context.Context, from, to string) error {
	files := map[string]string{}
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if base, _, ok := strings.Cut(d.Name(), ".ko"); err == nil && ok {
			files[strings.ReplaceAll(base, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return err
	}
	built, _ := os.ReadFile(filepath.Join(from, "modules.builtin")) // some kernels have none
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	var order []string
	var add func(name string) error
	add = func(name string) error {
		file := name + ".ko"
		if slices.Contains(order, file) {
			return nil
		}
		path, ok := files[name]
		if !ok {
			if strings.Contains(strings.ReplaceAll(string(built), "-", "_"), "/"+name+".ko") {
				return nil
			}
			return fmt.Errorf("the kernel has no %s", name)
		}
		dst := filepath.Join(to, file)
		if err := b.unpackModule(ctx, path, dst); err != nil {
			return err
		}
		needs, err := moduleNeeds(dst)
		if err != nil {
			return err
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		order = append(order, file)
		return nil
	}
	for _, name := range initNeeds {
		if err := add(name); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(to, "order"), []byte(strings.Join(order, "\n")+"\n"), 0o644)
}

// unpackModule copies a module; other distributions than Debian 12 compress them.
func (b *builder) unpackModule(ctx context.Context, from, to string) error {
	if err := copyFile(from, to, 0o644); err != nil || strings.HasSuffix(from, ".ko") {
		return err
	}
	tool := map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"}[filepath.Ext(from)]
	if tool == "" {
		return fmt.Errorf("%s is compressed in an unknown way", from)
	}
	out, err := exec.CommandContext(ctx, tool, "-dc", from).Output()
	if err != nil {
		return fmt.Errorf("%s: %w", tool, err)
	}
	return os.WriteFile(to, out, 0o644)
}

// moduleNeeds reads which modules a module needs.
func moduleNeeds(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%s says nothing of itself", path)
	}
	text, err := section.Data()
	if err != nil {
		return nil, err
	}
	for line := range strings.SplitSeq(string(text), "\x00") {
		if list, ok := strings.CutPrefix(line, "depends="); ok && list != "" {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ","), nil
		}
	}
	return nil, nil
}

func (b *builder) root(ctx context.Context, to string) error {
	switch info, err := os.Stat(cmp.Or(b.Root, "/")); {
	case err != nil:
		return err
	case b.Debian != "":
		args := []string{"--variant=minbase", "--include=" + strings.Join(append([]string{"ca-certificates", "git", "iproute2", "procps"}, b.Packages...), ","), b.Debian}
		archive := filepath.Join(b.work, "root.tar")
		if err := b.run(ctx, "mmdebstrap", append(args, archive)...); err != nil {
			return err
		}
		return b.run(ctx, "tar", "-C", to, "--numeric-owner", "--exclude=./dev/*", "-xpf", archive)
	case b.Root == "":
		return b.busybox(ctx, to)
	case info.IsDir():
		return b.run(ctx, "cp", "-a", b.Root+"/.", to)
	}
	return b.run(ctx, "tar", "-C", to, "--numeric-owner", "--exclude=./dev/*", "--exclude=dev/*", "-xpf", b.Root)
}

// busybox makes a small root of the host's BusyBox, which must be linked statically.
func (b *builder) busybox(ctx context.Context, to string) error {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return errors.New("busybox is needed and not installed: apt-get install busybox-static, or name a root with --root")
	}
	if f, err := elf.Open(path); err == nil {
		dynamic := slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
		f.Close()
		if dynamic {
			return fmt.Errorf("%s is linked dynamically: apt-get install busybox-static", path)
		}
	}
	list, err := exec.CommandContext(ctx, path, "--list").Output()
	if err != nil {
		return fmt.Errorf("busybox: %w", err)
	}
	for _, dir := range []string{"bin", "etc", "root", "usr", "var/tmp"} {
		if err := os.MkdirAll(filepath.Join(to, dir), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(path, filepath.Join(to, "bin", "busybox"), 0o755); err != nil {
		return err
	}
	for _, dir := range []string{"sbin", "usr/bin", "usr/sbin"} {
		up := strings.Repeat("../", strings.Count(dir, "/"))
		if err := os.Symlink(up+"bin", filepath.Join(to, dir)); err != nil {
			return err
		}
	}
	for name := range strings.FieldsSeq(string(list)) {
		if err := os.Symlink("busybox", filepath.Join(to, "bin", name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return errors.Join(os.WriteFile(filepath.Join(to, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644),
		os.WriteFile(filepath.Join(to, "etc/group"), []byte("root:x:0:\n"), 0o644))
}

func (b *builder) runner(ctx context.Context, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if info, err := os.Stat(b.Runner); err != nil {
		return err
	} else if info.IsDir() {
		if err := b.run(ctx, "cp", "-a", b.Runner+"/.", to); err != nil {
			return err
		}
	} else if err := b.run(ctx, "tar", "-C", to, "--no-same-owner", "-xf", b.Runner); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(to, "run.sh")); err != nil {
		return fmt.Errorf("there is no run.sh in %s", b.Runner)
	}
	// What is of one registration must not be in every machine.
	for _, name := range []string{".runner", ".credentials", ".credentials_rsaparams", ".jitconfig", "_work", "_diag"} {
		if err := os.RemoveAll(filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

// disk makes a disk with the root file system and all modules of the kernel.
func (b *builder) disk(ctx context.Context, modules, root string) error {
	lib := filepath.Join(root, "lib")
	if target, err := filepath.EvalSymlinks(lib); err == nil && strings.HasPrefix(target, root) {
		lib = target // of a merged /usr
	} else {
		lib = filepath.Join(root, "usr", "lib")
	}
	if err := os.MkdirAll(filepath.Join(lib, "modules"), 0o755); err != nil {
		return err
	}
	if err := b.run(ctx, "cp", "-a", modules, filepath.Join(lib, "modules")); err != nil {
		return err
	}
	if err := b.run(ctx, "depmod", "-b", filepath.Dir(lib), b.img.Kernel); err != nil {
		// modprobe in the machine will not find dependencies; nothing of ours needs it.
		fmt.Fprintln(b.progress, "depmod:", err)
	}
	raw := filepath.Join(b.work, "disk.raw")
	f, err := os.Create(raw)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(b.DiskMiB<<20), f.Close()); err != nil {
		return err
	}
	if err := b.run(ctx, "mke2fs", "-q", "-t", "ext4", "-L", "root", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", root, raw); err != nil {
		return err
	}
	return b.run(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, b.img.path(diskPart))
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

//go:build linux

package qemu

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/muster-ci/muster/internal/instancedir"
	"github.com/muster-ci/muster/internal/proc"
)

// A template is a machine that was stopped at the moment at which it began to wait
// for its boot data: its memory in one file, the state of its devices in another, what
// it wrote to its disk in a third. Machines map the memory privately, so that what
// none of them has written is there once.
//
// It holds no secret and nothing of any job. Pages that machines share can be probed
// from one for what another reads, which is why every workspace has its own.
const (
	templateFile = "template.json"
	memoryPart   = "memory"
	statePart    = "state"
)

// templateKey is everything that a template depends on. When any of it changes, the
// key is another and the old template is not found any more.
type templateKey struct {
	shape
	QEMU    string // path, version, size and time
	Machine string // the arguments, without what differs from machine to machine
	Image   string // digest, and how the files look
	Domain  string // whose machines trust each other
}

func (k templateKey) String() string {
	text, _ := json.Marshal(k) // never fails for these types
	h := sha256.Sum256(text)
	return hex.EncodeToString(h[:16])
}

// templateRecord is in the template's directory; it is written last.
type templateRecord struct {
	MadeAt time.Time              `json:"made_at"`
	Key    templateKey            `json:"key"`
	Parts  map[string]templateWas `json:"parts"`
}

// templateWas is how a file looked when the template was made.
type templateWas struct {
	Size int64     `json:"size"`
	At   time.Time `json:"at"`
}

// key computes a template's key.
func (p *Provider) key(img Image, s shape, workspace string) (templateKey, error) {
	stamp, err := img.stamp()
	if err != nil {
		return templateKey{}, err
	}
	info, err := os.Stat(p.program)
	if err != nil {
		return templateKey{}, fmt.Errorf("QEMU: %w", err)
	}
	pattern := run{shape: s, dir: "", tag: "template", image: Image{dir: "image"}, memory: "memory", disk: "disk"}
	return templateKey{
		shape: s, Domain: cmp.Or(p.cfg.domain, p.cfg.Owner+"\n"+workspace), Image: img.Digest + "\n" + stamp,
		QEMU:    fmt.Sprintf("%s %s %d %d", p.program, p.version, info.Size(), info.ModTime().UnixNano()),
		Machine: strings.Join(pattern.arguments(), " "),
	}, nil
}

// templateDir is where a template lies.
func (p *Provider) templateDir(key string) string { return filepath.Join(p.templates, key) }

// template returns the directory of the template for a key, and makes it if it is not
// there. It goes on making it when ctx ends, for the next caller.
func (p *Provider) template(ctx context.Context, img Image, s shape, workspace string) (string, error) {
	key, err := p.key(img, s, workspace)
	if err != nil {
		return "", err
	}
	name := key.String()
	dir := p.templateDir(name)
	if checkTemplate(dir) == nil {
		return dir, nil
	}
	p.mu.Lock()
	making := p.making[name]
	if making == nil {
		if p.ctx.Err() != nil {
			p.mu.Unlock()
			return "", p.ctx.Err()
		}
		making = &templateMaking{done: make(chan struct{})}
		p.making[name] = making
		p.work.Go(func() {
			making.err = p.makeTemplate(p.ctx, key, img, s)
			p.mu.Lock()
			delete(p.making, name)
			p.mu.Unlock()
			close(making.done)
		})
	}
	p.mu.Unlock()
	select {
	case <-making.done:
		return dir, making.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

type templateMaking struct {
	done chan struct{}
	err  error
}

// checkTemplate returns nil if the template in dir is whole and unchanged.
func checkTemplate(dir string) error {
	var rec templateRecord
	if err := instancedir.ReadJSON(filepath.Join(dir, templateFile), &rec); err != nil {
		return err
	}
	for name, was := range rec.Parts {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if info.Size() != was.Size || !info.ModTime().Equal(was.At) {
			return fmt.Errorf("%s of the template has changed since it was made", name)
		}
	}
	return nil
}

// templateTime is how long a template may take to boot.
const templateTime = 3 * time.Minute

// makeTemplate boots a machine and saves it.
func (p *Provider) makeTemplate(ctx context.Context, key templateKey, img Image, s shape) error {
	name := key.String()
	dir, all := p.templateDir(name), p.templates
	ctx, cancel := context.WithTimeout(ctx, templateTime)
	defer cancel()
	if err := os.MkdirAll(all, 0o700); err != nil {
		return err
	}
	gate, err := os.OpenFile(filepath.Join(all, name+".lock"), os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	gate.Close()
	held, err := proc.Lock(ctx, gate.Name(), syscall.LOCK_EX, true)
	if err != nil {
		return err
	}
	defer held.Close()
	if checkTemplate(dir) == nil {
		return nil // another control plane made it
	}
	began := time.Now()
	if err := img.verify(ctx); err != nil {
		return err
	}
	// What another one left when it was killed. We hold the lock.
	tag := p.set.Other(templateKind, name)
	p.killTagged(tag, nil)
	tmp := filepath.Join(all, "."+name)
	if err := errors.Join(os.RemoveAll(tmp), os.RemoveAll(dir), os.Mkdir(tmp, 0o700)); err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	r := run{shape: s, dir: tmp, tag: tag, image: img, memory: filepath.Join(tmp, memoryPart), share: true}
	if s.Disk {
		r.disk, r.keep = filepath.Join(tmp, diskPart), true
		if err := p.overlay(ctx, img.path(diskPart), r.disk); err != nil {
			return err
		}
	}
	if err := p.bootTemplate(ctx, r); err != nil {
		return fmt.Errorf("make a template of image %s: %w", img.Name, err)
	}
	rec := templateRecord{MadeAt: time.Now().UTC(), Key: key, Parts: map[string]templateWas{}}
	for _, part := range []string{memoryPart, statePart, diskPart} {
		f, err := os.Open(filepath.Join(tmp, part))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
		rec.Parts[part] = templateWas{info.Size(), info.ModTime()}
	}
	for _, rest := range []string{consoleFile, eventsFile, logFile, qmpSocket, agentSocket} {
		if err := os.Remove(filepath.Join(tmp, rest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := errors.Join(instancedir.WriteJSON(filepath.Join(tmp, templateFile), rec), os.Rename(tmp, dir)); err != nil {
		return err
	}
	p.log.Info("template made", "image", img.Name, "cpus", s.CPUs, "memory_mib", s.MemoryMiB, "accel", s.Accel, "took", time.Since(began).Round(time.Millisecond))
	p.dropTemplates(img, name)
	return nil
}

// templateKind marks the processes that make a template; see instancedir.Set.Other.
const templateKind = 't'

// abandoned clears away what a control plane left that was killed while it made a
// template. One that is being made has its lock held, and is left alone.
func (p *Provider) abandoned() {
	all, _ := proc.All() // unreadable reads as none, and the next start looks again
	names := map[string]bool{}
	for _, a := range all {
		if name := p.set.OtherName(templateKind, a.Env(instancedir.Tag)); name != "" && !a.Zombie {
			names[name] = true
		}
	}
	dirs, _ := filepath.Glob(filepath.Join(p.templates, ".?*"))
	for _, dir := range dirs {
		names[strings.TrimPrefix(filepath.Base(dir), ".")] = true
	}
	for name := range names {
		held, err := proc.Lock(p.ctx, filepath.Join(p.templates, name+".lock"), syscall.LOCK_EX, false)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if !p.killTagged(p.set.Other(templateKind, name), nil) {
			_ = os.RemoveAll(filepath.Join(p.templates, "."+name))
		}
		if held != nil {
			held.Close()
		}
	}
}

// dropTemplates removes the templates of an image that has changed since. Machines
// that were made of them keep the files that they have open.
func (p *Provider) dropTemplates(img Image, except string) {
	all, _ := filepath.Glob(filepath.Join(p.templates, "*", templateFile))
	for _, path := range all {
		var rec templateRecord
		dir := filepath.Dir(path)
		if filepath.Base(dir) == except || instancedir.ReadJSON(path, &rec) != nil || time.Since(rec.MadeAt) < time.Hour {
			continue
		}
		now, err := p.key(img, rec.Key.shape, "")
		now.Domain = rec.Key.Domain
		if err == nil && strings.HasPrefix(rec.Key.Image, img.Digest) && now != rec.Key {
			_ = os.RemoveAll(dir)
			_ = os.Remove(dir + ".lock")
		}
	}
}

func (p *Provider) overlay(ctx context.Context, base, path string) error {
	out, err := exec.CommandContext(ctx, p.imgProgram, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("qemu-img: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// bootTemplate boots the machine, waits until it waits, and saves it.
func (p *Provider) bootTemplate(ctx context.Context, r run) error {
	l, err := p.spawn(r)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_, _ = l.process.Wait()
		close(ended)
	}()
	defer func() {
		_ = l.boot.Close()
		_ = l.process.Kill()
		<-ended
	}()
	dir, err := os.Open(r.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	m, err := dialMonitor(ctx, dir, l.id.Alive)
	if err != nil {
		return fmt.Errorf("%w: %s", err, complaint(r.dir))
	}
	defer m.close()
	if err := awaitPort(ctx, m, "boot"); err != nil {
		text, _ := os.ReadFile(filepath.Join(r.dir, consoleFile))
		return fmt.Errorf("the machine does not wait for its boot data: %w; its console ends with %q", err, text[max(0, len(text)-300):])
	}
	if err := quiet(ctx, l.id.PID); err != nil {
		return err
	}
	return m.save(ctx, filepath.Join(r.dir, statePart), ended)
}

// awaitPort waits until the guest has opened a port.
func awaitPort(ctx context.Context, m *monitor, id string) error {
	for {
		select {
		case e, ok := <-m.events:
			switch {
			case !ok:
				return errEnded
			case e.Name == "VSERPORT_CHANGE" && e.Data.ID == id && e.Data.Open:
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// save writes the state of the machine's devices to a file, and ends QEMU.
func (m *monitor) save(ctx context.Context, path string, ended <-chan struct{}) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := m.ignoreShared(ctx); err != nil {
		return err
	}
	if _, err := m.do(ctx, "migrate-set-parameters", map[string]any{"max-bandwidth": int64(10) << 30}); err != nil {
		return err
	}
	if _, err := m.do(ctx, "stop", nil); err != nil {
		return err
	}
	if _, err := m.do(ctx, "getfd", map[string]string{"fdname": statePart}, f); err != nil {
		return err
	}
	if _, err := m.do(ctx, "migrate", map[string]string{"uri": "fd:" + statePart}); err != nil {
		return err
	}
	if err := m.migrated(ctx); err != nil {
		return err
	}
	if _, err := m.do(ctx, "quit", nil); err != nil && !errors.Is(err, errEnded) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// killTagged kills the processes that carry a tag, those known included, and reports
// whether any is left.
func (p *Provider) killTagged(tag string, known []proc.Process) (left bool) {
	for wait := time.Millisecond; ; wait *= 2 {
		victims := known
		all, _ := proc.All() // unreadable reads as none, and the next call looks again
		for _, v := range all {
			if !v.Zombie && v.PID != os.Getpid() && v.HasEnv(instancedir.Tag+"="+tag) {
				victims = append(victims, v)
			}
		}
		alive := victims[:0:0]
		for _, v := range victims {
			if v.Signal(syscall.SIGKILL) == nil {
				alive = append(alive, v)
			}
		}
		if len(alive) == 0 {
			return false
		}
		if wait > 256*time.Millisecond {
			return true
		}
		known = alive
		time.Sleep(wait) // for the kernel, which needs a moment to end them
	}
}

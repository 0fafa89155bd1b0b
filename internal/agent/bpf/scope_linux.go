//go:build linux && (amd64 || arm64)

package bpf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// Scope is what one job does. Whoever follows reads Events until it is closed.
type Scope struct {
	r      *Recorder
	id     uint32
	root   int
	egress trace.Egress
	// protect are processes that nobody is to touch while it is followed.
	protect []int
	engines Engines

	cgroup   string // directory, "" if the scope is a tree only
	own      bool   // it was made for this scope
	cgroupID uint64
	level    uint32

	out  chan []trace.Event
	once sync.Once
	err  error
	done chan struct{} // finish has run

	mu    sync.Mutex
	lost  map[string]int64
	home  string        // the cgroup below the mount that is the job's own: leaving it is told
	early []trace.Event // of processes that were there before; nil once handed over
	ready bool          // nothing is handed over before
	// Of containers: the cgroups that are in the kernel's table, and the levels they are at.
	adopted []uint64
	deep    uint32
	over    bool // nothing more is put into the kernel's tables

	looking   sync.Mutex     // held while engines are looked for
	looks     sync.WaitGroup // of lookAgain; nothing is added once over
	network   uint32         // whose engines, as Recorder.engines has it
	engaged   bool
	unengaged string // why its engines are not followed

	// The reader's own.
	armed   bool
	batch   []trace.Event
	dropped map[drop]int64 // not told yet
	repeats map[repeatKey]*repeat
	// repeatsAt is when it was last looked at which of them are over.
	repeatsAt time.Time
	bucket    bucket
	written   map[uint32]map[fileKey]trace.Event // by process
	gone      []uint32                           // processes that have ended since the last sweep
	names     map[string]string                  // commands, so that each is kept once
	lookedAt  time.Time                          // for engines
}

type drop struct {
	event  trace.Type
	reason string
}

// How much waits for a reader that does not read: so many batches, and when they are
// full so many events more.
const (
	batches   = 128
	batchSize = 512
	pending   = 32768
)

// ErrNotRecording is that of a recorder that records nothing on this machine.
var ErrNotRecording = errors.New("nothing is recorded on this machine")

// Follow begins to attribute events to a scope. Processes that Root has already started
// are its too, and are told of as ProcessExec with the method "running".
func (r *Recorder) Follow(ctx context.Context, f Follow) (*Scope, error) {
	if !r.live {
		return nil, fmt.Errorf("%w: %s", ErrNotRecording, r.missing["all"])
	}
	s := &Scope{
		r: r, root: f.Root, egress: f.Egress, protect: f.Protect, engines: f.Engines,
		out: make(chan []trace.Event, batches), done: make(chan struct{}),
		lost: map[string]int64{}, dropped: map[drop]int64{}, repeats: map[repeatKey]*repeat{},
		written: map[uint32]map[fileKey]trace.Event{}, names: map[string]string{},
		bucket: bucket{rate: float64(r.options.Rate), left: float64(r.options.Rate), at: time.Now()},
	}
	if s.egress.Mode == trace.EgressOff {
		s.egress = r.options.Egress
	}
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return nil, errors.New("the recorder has stopped")
	}
	r.next++
	s.id = r.next
	r.scopes[s.id] = s
	r.mu.Unlock()

	early, err := s.seed(ctx)
	if err == nil {
		err = s.enter(f.Cgroup)
	}
	if err == nil {
		err = r.net.follow(s)
	}
	if err == nil {
		var engines []trace.Event
		engines, err = s.engage(ctx)
		early = append(early, engines...)
	}
	if err != nil {
		r.mu.Lock()
		delete(r.scopes, s.id)
		r.mu.Unlock()
		s.forget()
		return nil, fmt.Errorf("follow process %d: %w", f.Root, err)
	}
	for _, pid := range s.protect {
		r.guard(guardProcess, uint32(pid))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.early, s.ready = append(early, s.early...), true
	return s, nil
}

// Describe says how processes are known to be the scope's, and what of them is recorded.
func (s *Scope) Describe() trace.Recorder {
	d := s.r.Describe()
	d.Scope = "tree"
	if s.cgroup != "" {
		d.Scope = "cgroup+tree"
	}
	d.Egress = string(s.egress.Mode)
	switch {
	case s.engaged:
		d.Extras = append(d.Extras, enginesExtra)
	case s.unengaged != "":
		if d.Missing == nil {
			d.Missing = map[string]string{}
		}
		d.Missing[enginesExtra] = s.unengaged
	}
	return d
}

// seed puts Root and what descends from it into the tree. From then on the kernel
// follows their children; it looks again until it finds nobody new.
func (s *Scope) seed(ctx context.Context) ([]trace.Event, error) {
	tree := s.r.maps["tree"]
	if err := tree.Put(uint32(s.root), s.id); err != nil {
		return nil, fmt.Errorf("add to tree: %w", err)
	}
	var events []trace.Event
	seen := map[uint32]bool{}
	for more := true; more; {
		all, err := s.r.tasks(ctx)
		if err != nil {
			return nil, err
		}
		more = false
		for _, t := range descendants(all, uint32(s.root)) {
			if seen[t.PID] {
				continue
			}
			seen[t.PID], more = true, true
			if err := tree.Put(t.PID, s.id); err != nil {
				return nil, fmt.Errorf("add to tree: %w", err)
			}
			events = append(events, running(t))
		}
		if len(seen) == 0 {
			return nil, os.ErrProcessDone
		}
	}
	return events, nil
}

// descendants are root, if it is there, and all below it, parents first.
func descendants(all []listed, root uint32) []listed {
	children := map[uint32][]listed{}
	var found []listed
	for _, t := range all {
		if t.PID == root {
			found = append(found, t)
		}
		children[t.PPID] = append(children[t.PPID], t)
	}
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i].PID]...)
	}
	return found
}

// running tells of a process that was there before its scope.
func running(t listed) trace.Event {
	dir := fmt.Sprintf("/proc/%d/", t.PID)
	e := trace.Event{
		Type: trace.ProcessExec, Timestamp: time.Now().UTC(), Method: "running",
		PID: int(t.PID), Start: t.Start, PPID: int(t.PPID), ParentStart: t.ParentStart, UID: t.UID, Command: text(t.Comm[:]),
	}
	if at, err := cgroupOf("/", int(t.PID)); err == nil {
		e.Container = containerOf(at)
	}
	e.Path, _ = os.Readlink(dir + "exe") // "" of one that has ended meanwhile
	e.Dir, _ = os.Readlink(dir + "cwd")
	args, _ := os.ReadFile(dir + "cmdline")
	if len(args) > 4095 {
		args, e.Truncated = args[:4095], true
	}
	e.Args = trace.RedactArgs(arguments(args))
	return e
}

// enter gives the scope its cgroup. A machine on which none can be made follows the
// tree alone; a directory that was asked for must be there.
func (s *Scope) enter(dir string) error {
	if s.r.mount == "" {
		if dir != "" {
			return errors.New("no cgroup hierarchy of version 2 is mounted")
		}
		return nil
	}
	at, err := cgroupOf(s.r.mount, s.root)
	if err != nil {
		return fmt.Errorf("find its cgroup: %w", err)
	}
	if dir == "" {
		if dir, err = s.makeCgroup(at); err != nil {
			s.r.log.Info("the job gets no cgroup of its own", "error", err)
			s.setHome(at)
			return nil
		}
	}
	if s.cgroupID, err = cgroupID(dir); err != nil {
		return fmt.Errorf("find cgroup: %w", err)
	}
	s.cgroup = dir
	s.setHome(dir)
	s.level = s.levelOf(dir)
	if s.level == 0 || s.level >= 12 {
		return fmt.Errorf("cgroup %s is %d levels below the root, and 1 to 11 can be followed", dir, s.level)
	}
	if err := s.r.maps["cgroups"].Put(s.cgroupID, s.id); err != nil {
		return fmt.Errorf("add cgroup: %w", err)
	}
	return s.r.levels(s)
}

func (s *Scope) setHome(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.home = s.below(dir)
}

// leaves reports whether a cgroup is outside of the job's own. A job that has none and
// is in the root of all leaves it for any other.
func (s *Scope) leaves(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.home == "/" {
		return path != "/"
	}
	return path != s.home && !strings.HasPrefix(path, s.home+"/")
}

// below is a directory's path in the hierarchy.
func (s *Scope) below(dir string) string {
	return "/" + strings.TrimPrefix(strings.TrimPrefix(dir, s.r.mount), "/")
}

// makeCgroup makes one below the one that the root is in, so that what holds for that
// one holds for it, and moves the tree there.
func (s *Scope) makeCgroup(at string) (string, error) {
	dir := filepath.Join(at, ownName(s.id))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	s.cgroup, s.own = dir, true
	s.setHome(dir)
	for range 100 {
		moved, err := s.moveInto(dir)
		if err != nil {
			s.cgroup, s.own = "", false
			return "", errors.Join(err, removeCgroup(dir, time.Now().Add(time.Second)))
		}
		if moved == 0 {
			break
		}
	}
	return dir, nil
}

// moveInto moves every process of the tree that is not there yet, and says how many.
func (s *Scope) moveInto(dir string) (int, error) {
	moved := 0
	for _, pid := range s.members() {
		if in, err := cgroupOf(s.r.mount, pid); err != nil || in == dir {
			continue // it has ended, or is there
		}
		err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		if err != nil && pid == s.root {
			return 0, err
		}
		if err == nil {
			moved++
		}
	}
	return moved, nil
}

// members are the processes of the tree.
func (s *Scope) members() []int {
	var pid, scope uint32
	var pids []int
	for all := s.r.maps["tree"].Iterate(); all.Next(&pid, &scope); {
		if scope&^marks == s.id {
			pids = append(pids, int(pid))
		}
	}
	return pids
}

// levelOf is how deep below the root of the hierarchy a cgroup is. The kernel knows it
// of the processes in it; a mount may show a part of the hierarchy only.
func (s *Scope) levelOf(dir string) uint32 {
	all, _ := s.r.tasks(context.Background())
	for _, t := range all {
		if t.Cgroup == s.cgroupID {
			return t.Level
		}
	}
	return uint32(strings.Count(s.below(dir), "/"))
}

// levels tells the programs at which levels there are cgroups of scopes, that of the
// one that is coming with them.
func (r *Recorder) levels(coming *Scope) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var levels uint32
	for _, s := range r.scopes {
		if s.cgroup != "" {
			levels |= 1 << s.level
		}
		s.mu.Lock()
		levels |= s.deep
		s.mu.Unlock()
	}
	if coming != nil {
		levels |= 1 << coming.level
	}
	r.log.Debug("levels of cgroups", "count", bits.OnesCount32(levels))
	return r.settings(levels)
}

// Events are what the scope does, in the kernel's order as far as it has one, with
// Timestamp and without Seq and Step. It is closed when Close has handed over the last.
func (s *Scope) Events() <-chan []trace.Event { return s.out }

// Lost counts what was dropped, by reason; empty if nothing was. Every one of them is
// told in a trace.Dropped too.
func (s *Scope) Lost() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.lost)
}

// Close ends the scope: what was done until now is handed over, and Events closed. What
// its processes do from now on is nobody's. It kills none of them, and removes the
// cgroup that was made. It does not wait for Events to be read.
func (s *Scope) Close() error {
	s.once.Do(func() { s.err = s.end() })
	return s.err
}

// drainTime bounds how long Close waits for the reader.
const drainTime = 5 * time.Second

func (s *Scope) end() error {
	var errs []error
	s.awaitExits()
	errs = append(errs, s.r.net.unfollow(s))
	s.forget()
	s.r.mu.Lock()
	s.r.ending = append(s.r.ending, s)
	s.r.mu.Unlock()
	if err := s.r.reader.Flush(); err != nil {
		errs = append(errs, fmt.Errorf("flush ring: %w", err))
	}
	wait := time.NewTimer(drainTime)
	defer wait.Stop()
	select {
	case <-s.done:
	case <-wait.C:
		errs = append(errs, fmt.Errorf("the ring was not read within %s", drainTime))
	}
	return errors.Join(append(errs, s.r.levels(nil))...)
}

// awaitExits waits until processes that have ended have been told of: the parent of one
// may know before the scheduler has added up what it used. That takes microseconds; it
// waits for at most 100 ms.
func (s *Scope) awaitExits() {
	for range 100 {
		var tid uint32
		var e exiting
		waiting := false
		for all := s.r.maps["exiting"].Iterate(); all.Next(&tid, &e); {
			waiting = waiting || e.Header.Scope == s.id
		}
		if !waiting {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// exiting is what process.h calls struct exit.
type exiting struct {
	Header                     header
	CPU, Memory, Read, Written uint64
}

// forget takes the scope out of the kernel and removes its cgroup.
func (s *Scope) forget() {
	s.disengage()
	for _, pid := range s.protect {
		s.r.unguard(guardProcess, uint32(pid))
	}
	if s.cgroupID != 0 {
		_ = s.r.maps["cgroups"].Delete(s.cgroupID)
	}
	if s.own {
		if err := removeCgroup(s.cgroup, time.Now().Add(2*time.Second)); err != nil {
			s.r.log.Warn("a cgroup is left behind", "error", err)
		}
	}
	for {
		members := s.members()
		for _, pid := range members {
			_ = s.r.maps["tree"].Delete(uint32(pid))
			_ = s.r.maps["writers"].Delete(uint32(pid))
		}
		if len(members) == 0 {
			return
		}
	}
}

// take receives an event of the scope's.
func (s *Scope) take(h header, data []byte) {
	if h.Type >= evNetFirst {
		for _, e := range s.r.net.decode(s, h, data) {
			s.add(s.dress(e, h))
		}
		return
	}
	if h.Type == evCgroup || h.Type == evMkdir {
		if at := text(h.parts(data)[0]); at != "" {
			s.r.paths.learn(h.Cgroup, at)
		}
	}
	e, ok := decode(h, data)
	if !ok {
		return
	}
	e = s.dress(e, h)
	switch h.Type {
	case evUnix:
		if engineSocket(e.Path) {
			s.lookAgain()
		}
	case evCgroup:
		if h.Flags&byEngine != 0 {
			at := s.r.paths.look(h.Cgroup).path
			if containerOf(at) != "" {
				s.adopt(h.Cgroup, uint32(strings.Count(at, "/")))
			}
			return
		}
		if int(h.Value) == os.Getpid() {
			return // the recorder itself, when it makes the scope's and removes it
		}
		if e.Path == "" { // it was made there
			e.Path = s.r.paths.look(h.Cgroup).path
		}
		if !s.leaves(e.Path) {
			return
		}
		e.Target = int(h.Value)
	case evExit:
		s.gone = append(s.gone, h.PID)
	case evWrite:
		s.remember(e, h.parts(data)[1])
	case evOpen:
		if s.r.options.Reads == ReadsSensitive && e.Flags == "read" && !Sensitive(e.Path) {
			return
		}
	case evMem:
		resolveTarget(&e, h)
	case evTamper:
		e.TargetCommand = commandOf(e.Target)
	}
	s.add(e)
}

// dress adds what the header alone does not say.
func (s *Scope) dress(e trace.Event, h header) trace.Event {
	e.Timestamp = s.r.clock.at(h.Time)
	e.Container = s.r.paths.look(h.Cgroup).container
	if name, ok := s.names[e.Command]; ok {
		e.Command = name
	} else if len(s.names) < 4096 {
		s.names[e.Command] = e.Command
	}
	return e
}

// add puts an event into the batch, unless it is one of too many, or like one that was
// told a moment ago.
func (s *Scope) add(e trace.Event) {
	now := s.r.now
	if repeats(e.Type) {
		key := keyOf(e)
		if again := s.repeats[key]; again != nil {
			kept := e // here and not e itself, or every event would be put on the heap
			again.n, again.last = again.n+1, &kept
			return
		}
		if len(s.repeats) < maxRepeats {
			s.repeats[key] = &repeat{since: now}
		}
	}
	if !s.bucket.take(now) {
		s.lose(e.Type, lostRate, 1)
		return
	}
	s.push(e)
}

func (s *Scope) push(e trace.Event) {
	if len(s.batch) >= pending {
		s.lose(e.Type, lostFull, 1)
		return
	}
	s.batch = append(s.batch, e)
	if len(s.batch) >= batchSize {
		s.hand(2)
	}
}

// hand gives the batch to whoever reads, if there is room for it and spare more.
func (s *Scope) hand(spare int) {
	s.mu.Lock()
	ready, early := s.ready, s.early
	if ready {
		s.early = nil
	}
	s.mu.Unlock()
	if !ready {
		return
	}
	if early != nil {
		s.batch = append(early, s.batch...)
	}
	if len(s.batch) > 0 && len(s.out) < cap(s.out)-spare {
		s.out <- s.batch // only the reader sends: there is room
		s.batch = nil
	}
}

// lose counts events that are not told.
func (s *Scope) lose(t trace.Type, reason string, n int64) {
	s.dropped[drop{t, reason}] += n
	s.mu.Lock()
	s.lost[reason] += n
	s.mu.Unlock()
}

// settle hands over what there is.
func (s *Scope) settle(now time.Time) {
	s.tellNet(now, false)
	s.tellRepeats(now, false)
	s.tellDropped()
	s.hand(2)
}

// tellDropped puts what was lost into the trace. There is always room for it: kinds and
// reasons are few.
func (s *Scope) tellDropped() {
	for d, n := range s.dropped {
		if len(s.batch) >= pending {
			return // and stays to be told
		}
		s.batch = append(s.batch, trace.Event{Type: trace.Dropped, Timestamp: time.Now().UTC(), Name: string(d.event), Count: n, Method: d.reason})
		delete(s.dropped, d)
	}
}

// finish hands over the last and closes.
func (s *Scope) finish() {
	s.r.mu.Lock()
	delete(s.r.scopes, s.id)
	s.r.mu.Unlock()
	s.tellNet(s.r.now, true)
	s.tellRepeats(s.r.now, true)
	for d, n := range s.dropped {
		s.batch = append(s.batch, trace.Event{Type: trace.Dropped, Timestamp: time.Now().UTC(), Name: string(d.event), Count: n, Method: d.reason})
	}
	s.hand(0)
	s.r.forgetLost(s.id)
	close(s.out)
	close(s.done)
}

// resolveTarget names the process that was aimed at. The kernel has told the numbers
// of those that were reached through /proc; others are as the caller gave them.
func resolveTarget(e *trace.Event, h header) {
	if h.Flags&flagInside != 0 && e.Path == "" {
		e.Target = outside(e.PID, e.Target)
	}
	if e.TargetCommand == "" && e.Target != 0 {
		e.TargetCommand = commandOf(e.Target)
	}
}

func commandOf(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) // it may have ended
	return string(bytes.TrimSpace(b))
}

// outside finds the machine's number of a process that caller knows by another: the
// process of the caller's namespace whose innermost number it is. 0 if there is none.
func outside(caller, number int) int {
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", caller))
	if err != nil {
		return 0
	}
	all, _ := os.ReadDir("/proc")
	for _, d := range all {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); ns != own {
			continue
		}
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for line := range strings.Lines(string(status)) {
			if numbers, ok := strings.CutPrefix(line, "NSpid:"); ok {
				f := strings.Fields(numbers)
				if len(f) > 0 && f[len(f)-1] == strconv.Itoa(number) {
					return pid
				}
			}
		}
	}
	return 0
}

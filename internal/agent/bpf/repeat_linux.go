//go:build linux && (amd64 || arm64)

package bpf

import (
	"encoding/binary"
	"time"

	"github.com/muster-ci/muster/internal/trace"
)

// repeats reports whether events of a type that are alike may be told in one. Processes,
// bytes and names are not: each counts.
func repeats(t trace.Type) bool {
	switch t {
	case trace.FileOpen, trace.FileDelete, trace.FileRename, trace.FileLink, trace.NetListen, trace.UnixConnect, trace.RawSocket, trace.MemRead,
		trace.BPFLoad, trace.ModuleLoad, trace.SetUID, trace.Mount, trace.IOUring, trace.Tamper:
		return true
	}
	return false
}

// window is how long an event stands for those like it: the first is told at once, the
// others in one when it is over.
const window = time.Second

// maxRepeats bounds how many are remembered; beyond it each is told.
const maxRepeats = 16384

// repeatKey is what makes events alike.
type repeatKey struct {
	event               trace.Type
	pid                 int
	start               uint64
	path, other, method string
	target, port        int
	uid                 uint32
}

func keyOf(e trace.Event) repeatKey {
	return repeatKey{e.Type, e.PID, e.Start, e.Path, e.NewPath + e.Flags + e.Name + e.Protocol + e.Address, e.Method, e.Target + e.Signal<<32, e.Port, e.TargetUID}
}

type repeat struct {
	since time.Time
	n     int64
	last  *trace.Event // nil as long as there was none
}

// tellRepeats tells of those whose window is over, or of all.
func (s *Scope) tellRepeats(now time.Time, all bool) {
	if !all && now.Sub(s.repeatsAt) < window/4 {
		return
	}
	s.repeatsAt = now
	for key, again := range s.repeats {
		if !all && now.Sub(again.since) < window {
			continue
		}
		if again.n == 0 {
			delete(s.repeats, key)
			continue
		}
		e := *again.last
		e.Count = again.n
		if s.bucket.take(now) {
			s.push(e)
		} else {
			s.lose(e.Type, lostRate, again.n)
		}
		*again = repeat{since: now}
	}
}

// bucket lets so many events through in a second, and as many again after a pause.
type bucket struct {
	rate, left float64
	at         time.Time
}

func (b *bucket) take(now time.Time) bool {
	if d := now.Sub(b.at); d > 0 {
		b.left = min(2*b.rate, b.left+d.Seconds()*b.rate)
		b.at = now
	}
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// fileKey is a file in the hands of a process, as file.h has it.
type fileKey struct {
	Inode    uint64
	Dev, PID uint32
	Exec     uint64
}

// writtenBytes is what is not told of it yet.
type writtenBytes struct {
	Bytes, Told, Start uint64
	Scope, _           uint32
}

// maxWritten bounds how many files a scope remembers that are written to.
const maxWritten = 65536

// remember keeps an event of a file that is being written to: it may be closed in a way
// that shows no path, with bytes that are not told.
func (s *Scope) remember(e trace.Event, key []byte) {
	if len(key) != binary.Size(fileKey{}) {
		return
	}
	k := fileKey{binary.LittleEndian.Uint64(key), binary.LittleEndian.Uint32(key[8:]), binary.LittleEndian.Uint32(key[12:]), 0}
	files := s.written[k.PID]
	if files == nil {
		files = map[fileKey]trace.Event{}
		s.written[k.PID] = files
	}
	if len(files) < maxWritten {
		files[k] = e
	}
}

// idle is how long nothing is told of a file before user space looks for what is left.
const idle = 2 * time.Second

// sweepWrites tells of bytes that were written to files that nobody has closed by
// close(2), and forgets files that nobody writes to. Of a scope that ends it takes all.
func (r *Recorder) sweepWrites(ending *Scope) {
	now := uint64(nanoseconds(clockBoot))
	gone := r.gone()
	var key fileKey
	var w writtenBytes
	var old []fileKey
	for entries := r.maps["writes"].Iterate(); entries.Next(&key, &w); {
		if now-w.Told > uint64(idle) || gone[key.PID] || ending != nil && w.Scope == ending.id {
			old = append(old, key)
		}
	}
	for _, k := range old {
		if r.maps["writes"].LookupAndDelete(k, &w) != nil {
			continue // it was closed just now
		}
		r.mu.Lock()
		s := r.scopes[w.Scope]
		r.mu.Unlock()
		if s != nil {
			s.leftOver(k, w.Bytes)
		}
	}
}

// leftOver tells of bytes that the kernel has not.
func (s *Scope) leftOver(k fileKey, bytes uint64) {
	if bytes == 0 {
		return
	}
	e, known := s.written[k.PID][k]
	if !known {
		s.lose(trace.FileWrite, lostFull, 1)
		return
	}
	e.Timestamp, e.Bytes = time.Now().UTC(), int64(bytes)
	s.push(e)
}

// gone are the processes that have ended since the last sweep.
func (r *Recorder) gone() map[uint32]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[uint32]bool{}
	for _, s := range r.scopes {
		for _, pid := range s.gone {
			all[pid] = true
		}
	}
	return all
}

// sweepGone forgets the files of processes that have ended.
func (s *Scope) sweepGone() {
	for _, pid := range s.gone {
		delete(s.written, pid)
	}
	s.gone = s.gone[:0]
}

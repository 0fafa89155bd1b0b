package agent

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// diagnostics follows the files Worker_*.log of a runner's _diag folder: one per job, or
// several for a job whose log grew long. It reads when it is asked to, and never waits.
type diagnostics struct {
	dir     string
	began   time.Time // files that were last written before belong to jobs before
	file    *os.File
	name    string // of file, and the last one that was read
	partial []byte
	skip    bool // the rest of a line that is too long
	looked  time.Time
}

const (
	// maxLogLine is how much of a line is looked at; the message of a job is one long one.
	maxLogLine = 64 << 10
	// maxLogRead is the most that one call reads.
	maxLogRead = 4 << 20
	// lookAgain is how often the folder is read for another file.
	lookAgain = 200 * time.Millisecond
	// fileClock is the longest step of the clock by which the kernel says when a file was
	// written: a tick of 100 Hz, the slowest that Linux is built with. A bound of steps that is told too
	// late is put right by the exact time, which the runner tells after a step; one too early is not.
	fileClock = 10 * time.Millisecond
)

// read passes on the lines that were written since the last call, each with a time at
// which it was there: when its file was last written, which is much nearer to the truth
// than when somebody came to read it.
func (d *diagnostics) read(now time.Time, line func(text string, there time.Time)) {
	for left := maxLogRead; left > 0; {
		if d.file == nil && !d.next() {
			return
		}
		n := d.some(left, now, line)
		left -= n
		if n > 0 {
			continue
		}
		// At its end: another file may have begun, and then this one is over.
		if now.Sub(d.looked) < lookAgain {
			return
		}
		if d.looked = now; d.newer() == "" {
			return
		}
		if d.some(left, now, line) > 0 {
			continue
		}
		d.close()
	}
}

// some reads a piece of the file and returns how many bytes it had.
func (d *diagnostics) some(most int, now time.Time, line func(string, time.Time)) int {
	buf := make([]byte, min(most, 64<<10))
	n, err := d.file.Read(buf)
	if err != nil && err != io.EOF {
		n = 0
	}
	there := now
	// After the read, so that what was read is not younger. The clock of files goes in steps.
	if info, err := d.file.Stat(); n > 0 && err == nil && info.ModTime().Add(fileClock).Before(now) {
		there = info.ModTime().Add(fileClock)
	}
	for p := buf[:n]; len(p) > 0; {
		i := bytes.IndexByte(p, '\n')
		piece := p
		if i >= 0 {
			piece = p[:i]
		}
		if room := maxLogLine - len(d.partial); len(piece) > room {
			d.skip, piece = true, piece[:max(room, 0)]
		}
		d.partial = append(d.partial, piece...)
		if i < 0 {
			break
		}
		if !d.skip {
			line(strings.TrimSuffix(string(d.partial), "\r"), there)
		}
		d.partial, d.skip, p = d.partial[:0], false, p[i+1:]
	}
	return n
}

// next opens the next file, if there is one.
func (d *diagnostics) next() bool {
	name := d.newer()
	if name == "" {
		return false
	}
	f, err := openRegular(filepath.Join(d.dir, name))
	d.name, d.partial, d.skip = name, d.partial[:0], false
	if err != nil {
		return false
	}
	d.file = f
	return true
}

// newer is the first file after the one that is read; "" if there is none.
func (d *diagnostics) newer() string {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return ""
	}
	var names []string
	for _, e := range entries {
		// The time in the name puts them in order.
		if name := e.Name(); strings.HasPrefix(name, "Worker_") && strings.HasSuffix(name, "-utc.log") && name > d.name {
			if info, err := e.Info(); err == nil && info.ModTime().After(d.began) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return ""
	}
	return slices.Min(names)
}

func (d *diagnostics) close() {
	if d.file != nil {
		_ = d.file.Close()
		d.file = nil
	}
}

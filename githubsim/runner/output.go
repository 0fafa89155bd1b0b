package runner

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// syncWriter makes lines of several goroutines come out whole. A nil w discards.
type syncWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *syncWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.w == nil {
		return len(p), nil
	}
	return s.w.Write(p)
}

// say prints a line as the real listener does: time first.
func (r *program) say(format string, args ...any) {
	fmt.Fprintf(r.out, "%s: %s\n", time.Now().UTC().Format("2006-01-02 15:04:05Z"), fmt.Sprintf(format, args...))
}

// diag is one log file under _diag. It mirrors to standard output when
// ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT is set. A file that cannot be written is
// no reason to refuse a job.
type diag struct {
	file   *os.File
	mirror io.Writer
	who    string
	mu     sync.Mutex
}

func (r *program) openDiag(who string) *diag {
	d := &diag{who: who, mirror: io.Discard}
	if r.printsLog() {
		d.mirror = r.out
	}
	dir := filepath.Join(r.root, "_diag")
	if os.MkdirAll(dir, 0o755) == nil {
		name := fmt.Sprintf("%s_%s-utc.log", who, time.Now().UTC().Format("20060102-150405"))
		if f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err == nil {
			d.file = f
		}
	}
	return d
}

func (r *program) printsLog() bool {
	v := r.env["ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT"]
	return v == "1" || v == "true"
}

// info writes a line as the real logs have them.
func (d *diag) info(where, format string, args ...any) {
	line := fmt.Sprintf("[%s INFO %s] %s\n", time.Now().UTC().Format("2006-01-02 15:04:05Z"), where, fmt.Sprintf(format, args...))
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file != nil {
		_, _ = d.file.WriteString(line)
	}
	_, _ = io.WriteString(d.mirror, line)
}

func (d *diag) close() {
	if d.file != nil {
		_ = d.file.Close()
	}
}

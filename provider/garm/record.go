package garm

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// stage is how far Create has come. It is written before the step that it names.
type stage string

const (
	asked   stage = "asked"   // the executable was started; a machine may exist
	refused stage = "refused" // it ended with an error; parts may exist
	made    stage = "made"    // it answered with a machine
	found   stage = "found"   // the platform listed a machine that there was no record of
)

// record is what the platform does not keep for us. It holds no secret.
type record struct {
	Runner     muster.RunnerID `json:"runner"`
	Name       string          `json:"name"`
	ProviderID string          `json:"provider_id,omitempty"`
	Workspace  string          `json:"workspace,omitempty"`
	Pool       string          `json:"pool,omitempty"`
	TraceID    string          `json:"trace_id,omitempty"`
	CreatedAt  time.Time       `json:"created_at"`
	Stage      stage           `json:"stage"`
	// AskedAt is when the executable was last asked for the machine.
	AskedAt time.Time `json:"asked_at,omitzero"`
	// Words are the platform's own about the last creation that failed.
	Words string `json:"words,omitempty"`
}

// open reports whether the platform may still come up with the machine of an
// executable that did not live to say how it ended.
func (r record) open(now time.Time, settle time.Duration) bool {
	return r.Stage == asked && now.Before(r.AskedAt.Add(settle))
}

func (p *Provider) recordPath(name string) string { return filepath.Join(p.dir, name+".json") }
func (p *Provider) lockPath(name string) string   { return filepath.Join(p.dir, name+".lock") }

// load returns the record of a name; ok is false if there is none, or if it cannot
// be read as one, which is the same: the platform is what is believed.
func (p *Provider) load(name string) (r record, ok bool, err error) {
	text, err := os.ReadFile(p.recordPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, err
	}
	if err := json.Unmarshal(text, &r); err != nil || r.Name != name {
		p.cfg.Logger.Warn("unreadable record of a machine left aside", "file", p.recordPath(name), "error", err)
		return record{}, false, nil
	}
	return r, true, nil
}

// save replaces a record at once, so that a reader sees the old or the new one.
func (p *Provider) save(r record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(p.dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), p.recordPath(r.Name))
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// forget removes a record.
func (p *Provider) forget(name string) error {
	err := os.Remove(p.recordPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// release gives the lock of a machine back; its file goes with the record.
func (p *Provider) release(held *os.File, name string) {
	if _, err := os.Stat(p.recordPath(name)); errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(held.Name()) // a file too many is only that
	}
	held.Close()
}

// records are all names that there is a record of.
func (p *Provider) records() ([]string, error) {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && strings.HasPrefix(name, p.prefix) {
			names = append(names, name)
		}
	}
	return names, nil
}

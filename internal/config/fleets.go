package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// fleetsKey is the top key of the fleets file (S1-85).
const fleetsKey = "github_runner_fleets"

// KeepRunners is the key of a fleet that was disabled without ending its runners.
const KeepRunners = "keep_runners"

// Fleet is one entry of the fleets file (S1-86). Nil fields are absent (C31).
type Fleet struct {
	RepoOwner          string   `json:"repo_owner"`
	RepoName           string   `json:"repo_name"`
	Labels             []string `json:"labels"`
	MinRunners         int      `json:"min_runners"`
	MaxRunners         int      `json:"max_runners"`
	Enabled            bool     `json:"enabled"`
	JobsPerRunner      *int     `json:"jobs_per_runner"`
	ScaleUpThreshold   *int     `json:"scale_up_threshold"`
	ScaleDownThreshold *int     `json:"scale_down_threshold"`
	CooldownSeconds    *int     `json:"cooldown_seconds"`
	MinRunTimeSeconds  *int     `json:"min_run_time_seconds"`
	MaxJobCount        *int     `json:"max_job_count"`
	RotationHours      *int     `json:"rotation_interval_hours"`
	// KeepRunners says of a fleet that is not enabled that its runners stay: none is
	// made and none is ended before its time.
	KeepRunners bool `json:"keep_runners"`
}

// Fleets is the fleets file: pools by name, in the file's order. It keeps every
// key that it does not know, at every level, and writes what was not changed
// byte for byte as it was read (S1-85, S1-86, C31).
type Fleets struct {
	top    object
	fleets object
	// text is the file as it was read, until something is set.
	text []byte
}

// ReadFleets reads a fleets file. A file that does not exist is an empty one.
func ReadFleets(path string) (*Fleets, error) {
	f := &Fleets{}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %s", path, reason(err))
	}
	if err := f.top.UnmarshalJSON(data); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", path, lineAt(data, err), err)
	}
	if raw, ok := f.top.values[fleetsKey]; ok {
		if err := f.fleets.UnmarshalJSON(raw); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, fleetsKey, err)
		}
	}
	f.text = data
	return f, nil
}

// Names are the pools of the file, in its order.
func (f *Fleets) Names() []string { return slices.Clone(f.fleets.keys) }

// Fleet returns one entry; ok is false if there is none of that name.
func (f *Fleets) Fleet(name string) (entry Fleet, ok bool, err error) {
	raw, ok := f.fleets.values[name]
	if !ok {
		return Fleet{}, false, nil
	}
	if err := json.Unmarshal(raw, &entry); err != nil {
		return Fleet{}, true, fmt.Errorf("fleet %s: %w", name, err)
	}
	return entry, true, nil
}

// Set writes one key of one entry, and makes the entry if there is none.
func (f *Fleets) Set(name, key string, value any) error {
	var entry object
	if raw, ok := f.fleets.values[name]; ok {
		if err := entry.UnmarshalJSON(raw); err != nil {
			return fmt.Errorf("fleet %s: %w", name, err)
		}
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if _, ok := value.([]string); ok {
		raw = bytes.ReplaceAll(raw, []byte(`","`), []byte(`", "`))
	}
	entry.set(key, raw)
	f.put(name, entry)
	return nil
}

// Unset removes one key of one entry, if it is there.
func (f *Fleets) Unset(name, key string) error {
	var entry object
	raw, ok := f.fleets.values[name]
	if !ok {
		return nil
	}
	if err := entry.UnmarshalJSON(raw); err != nil {
		return fmt.Errorf("fleet %s: %w", name, err)
	}
	if _, ok := entry.values[key]; ok {
		delete(entry.values, key)
		entry.keys = slices.DeleteFunc(entry.keys, func(k string) bool { return k == key })
		f.put(name, entry)
	}
	return nil
}

func (f *Fleets) put(name string, entry object) {
	f.fleets.set(name, entry.text("    "))
	f.top.set(fleetsKey, f.fleets.text("  "))
	f.text = nil
}

// Write replaces the file at path in one step; a reader sees the old or the new
// one, never a part. The file keeps its mode, and a symbolic link stays one.
func (f *Fleets) Write(path string) error {
	mode := fs.FileMode(0o644)
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".fleets-*")
	if err != nil {
		return fmt.Errorf("write %s: %s", path, reason(err))
	}
	_, err = tmp.Write(f.Bytes())
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(tmp.Name()))
	}
	return nil
}

// Bytes is the file's text.
func (f *Fleets) Bytes() []byte {
	if f.text != nil {
		return slices.Clone(f.text)
	}
	return append(f.top.text(""), '\n')
}

// object is a JSON object that remembers the order of its keys and the text of
// its values.
type object struct {
	keys   []string
	values map[string]json.RawMessage
}

func (o *object) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil {
		return err
	} else if t != json.Delim('{') {
		return errors.New("it is not a JSON object")
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		key, _ := t.(string)
		if _, twice := o.values[key]; twice {
			return fmt.Errorf("the key %q stands there twice", key)
		}
		o.set(key, raw)
	}
	if _, err := dec.Token(); err != nil {
		return err
	}
	return nil
}

func (o *object) set(key string, raw json.RawMessage) {
	if o.values == nil {
		o.values = map[string]json.RawMessage{}
	}
	if _, ok := o.values[key]; !ok {
		o.keys = append(o.keys, key)
	}
	o.values[key] = raw
}

// text is the object with one key per line, its closing brace at indent.
func (o *object) text(indent string) []byte {
	if len(o.keys) == 0 {
		return []byte("{}")
	}
	var b bytes.Buffer
	b.WriteString("{\n")
	for i, key := range o.keys {
		name, _ := json.Marshal(key) // a string always encodes
		fmt.Fprintf(&b, "%s  %s: %s", indent, name, o.values[key])
		if i < len(o.keys)-1 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
	}
	b.WriteString(indent + "}")
	return b.Bytes()
}

// lineAt is the line of a JSON error, as far as it tells its offset.
func lineAt(data []byte, err error) int {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok && e.Offset <= int64(len(data)) {
		return 1 + bytes.Count(data[:e.Offset], []byte("\n"))
	}
	return 1
}

// fleets adds the pools of the fleets file to those of the configuration.
func (l *loader) fleets(f fileFleets, c Config) (string, []muster.Pool) {
	if f.File == "" {
		if l.written("fleets") && l.sound("fleets.file") {
			l.at("fleets", "set file to the JSON file that muster github-runner writes", "fleets names no file")
		}
		return "", c.Pools
	}
	path := l.path(f.File)
	file, err := ReadFleets(path)
	if err != nil {
		l.at("fleets.file", "correct the file", "%s", err)
		return path, c.Pools
	}
	app := l.refer("fleets", "app", f.App, "fleets", namesOf(c.Apps, func(a App) string { return a.Name }), true)
	prov := l.refer("fleets", "provider", f.Provider, "fleets", namesOf(c.Providers, func(v Provider) string { return v.Name }), true)
	off := l.refer("fleets", "offering", f.Offering, "fleets", namesOf(c.Offerings, func(o muster.Offering) string { return o.Name }), false)
	pools := slices.Clone(c.Pools)
	for _, name := range file.Names() {
		e, _, err := file.Fleet(name)
		if err != nil {
			l.at("fleets.file", "correct the file", "%s: %s", path, err)
			continue
		}
		if slices.ContainsFunc(pools, func(p muster.Pool) bool { return p.Name == name }) {
			l.at("fleets.file", "rename one of them", "the fleet %q of %s has the name of a pool", name, path)
			continue
		}
		p := e.Pool(name)
		p.App, p.Provider, p.Offering = app, prov, off
		if err := p.Validate(); err != nil && prov != "" {
			for _, e := range joined(err) {
				l.at("fleets.file", "", "%s: %s", path, strings.TrimPrefix(muster.MessageOf(e), "pool "))
			}
			continue
		}
		pools = append(pools, p)
	}
	return path, pools
}

// Pool is the fleet as a pool, with the defaults of a fleet (S1-37…S1-42), of which
// one-job runners change the ratio (C14), and without app, provider and offering, which the configuration knows.
func (f Fleet) Pool(name string) muster.Pool {
	s := muster.DefaultScaling()
	s.MinRunners, s.MaxRunners = f.MinRunners, f.MaxRunners
	number := func(n *int, into *int) {
		if n != nil {
			*into = *n
		}
	}
	if f.MaxJobCount == nil || *f.MaxJobCount == 1 {
		s.JobsPerRunner = 1 // one-job runners: one per job, unless said otherwise (C14)
	}
	number(f.JobsPerRunner, &s.JobsPerRunner)
	number(f.ScaleUpThreshold, &s.ScaleUpThreshold)
	number(f.ScaleDownThreshold, &s.ScaleDownThreshold)
	if f.CooldownSeconds != nil {
		s.Cooldown = time.Duration(*f.CooldownSeconds) * time.Second
	}
	if f.MinRunTimeSeconds != nil {
		s.MinRunTime = time.Duration(*f.MinRunTimeSeconds) * time.Second
	}
	p := muster.Pool{
		Name: name, Scope: muster.Scope{Kind: muster.ScopeRepository, Owner: f.RepoOwner, Repo: f.RepoName},
		Labels: f.Labels, Scaling: s, Enabled: f.Enabled || f.KeepRunners, Suspended: !f.Enabled && f.KeepRunners,
	}
	number(f.MaxJobCount, &p.MaxJobCount)
	if f.RotationHours != nil {
		p.RotationInterval = time.Duration(*f.RotationHours) * time.Hour
	}
	return p.WithDefaults()
}

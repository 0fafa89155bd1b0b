package provider

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"
	"time"
)

// Kind is one kind of platform: the word that the configuration names it by, what
// is to be known of it, and how a provider of it is made. Every package below this
// one that is a platform exports one, and internal/server lists them.
type Kind struct {
	Description
	// Read reads a provider's section of the configuration, tells every problem of it
	// at once, and returns what makes the provider. Read touches no platform; open may,
	// and may fail.
	Read func(section json.RawMessage, env Env) (open func() (Provider, error), err error)
}

// Env is what a provider gets besides its own section.
type Env struct {
	// Name is the provider's in the configuration.
	Name string
	// Owner is the control plane that its instances are tagged with.
	Owner string
	// DataDir is the control plane's own directory; a provider keeps what it has to keep
	// in a directory of its own below it.
	DataDir string
	// Dir is the configuration file's directory, absolute: relative paths start there.
	Dir    string
	Logger *slog.Logger
}

// Path makes a path of the configuration absolute. "" stays "".
func (e Env) Path(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(e.Dir, path)
}

// Description is what a kind of provider, or one provider, is: for documentation,
// defaults and help.
type Description struct {
	// Kind is the word used in the configuration: "process", "container", …
	Kind string
	// Summary is one sentence.
	Summary string
	// Isolation says in a sentence what stands between a job, its neighbours and the machine below.
	Isolation string
	// Needs are what the platform, or the control plane's machine, has to have, one sentence each.
	Needs []string
	// ConnectTimeout is how long an agent of this platform may take to connect
	// (design §7): 10 s for a process, 60 s for a container, 5 min for a VM; 0
	// means for ever.
	ConnectTimeout time.Duration
	// Queues says that an accepted instance may wait in the platform's own queue, for
	// days perhaps: then ConnectTimeout counts from when it was seen to run.
	Queues bool
	// CreateTimeout is how long one Create may take before it counts as hanging, at
	// most four and a half minutes; 0 means one minute.
	CreateTimeout time.Duration
	// NoGPUs and NoSpot say in half a sentence why the platform gives no GPUs and no
	// machines that may be taken away; "" of one that does. An offering that asks for
	// what is not given is refused when the configuration is read.
	NoGPUs string
	NoSpot string
	// Settings are the keys of the section, in the order in which they are to be read.
	Settings []Setting
	// Example is a part of a configuration file in YAML that can be used as it is: the
	// lists providers, offerings and pools, with one entry of each at least.
	Example string
	// Guide is what an operator has to know beyond the settings, in Markdown, its
	// headings from the second level on: set-up, trust, limits, clean-up, faults.
	Guide string
}

// Setting is one key of a provider's section.
type Setting struct {
	Key string
	// Type is in an operator's words: "text", "whole number", "duration", "list of text", …
	Type string
	// Default is what an empty section means, as it would be written; "" if nothing does.
	Default string
	Help    string
}

// Settings lists the keys of a section from the struct that it is decoded into, with
// its defaults, and a help text for each. It panics if a key has no help or a help no
// key: a package's own test finds that.
func Settings(defaults any, help map[string]string) []Setting {
	v := reflect.ValueOf(defaults)
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	var out []Setting
	for f, value := range v.Fields() {
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if key == "" || key == "-" {
			continue
		}
		text, ok := help[key]
		if !ok || text == "" {
			panic(fmt.Sprintf("provider setting %s has no help", key))
		}
		s := Setting{Key: key, Type: settingType(f.Type), Help: text}
		if !value.IsZero() {
			written, err := json.Marshal(value.Interface())
			if err != nil {
				panic(fmt.Sprintf("default of provider setting %s: %v", key, err))
			}
			s.Default = strings.Trim(string(written), `"`)
		}
		out = append(out, s)
	}
	for key := range help {
		known := false
		for _, s := range out {
			known = known || s.Key == key
		}
		if !known {
			panic(fmt.Sprintf("help for %s, which is no provider setting", key))
		}
	}
	return out
}

func settingType(t reflect.Type) string {
	if t == reflect.TypeFor[Duration]() {
		return "duration"
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "whole number"
	case reflect.Float64:
		return "number"
	case reflect.Slice:
		if e := settingType(t.Elem()); e != "keys and values" {
			return "list of " + e
		}
		return "list of keys and values"
	case reflect.Pointer:
		return settingType(t.Elem())
	}
	return "keys and values"
}

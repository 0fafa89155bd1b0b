package provider_test

import (
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/muster-ci/muster/provider"
)

func TestSettingsDescribeTheSection(t *testing.T) {
	help := map[string]string{"root": "where", "max": "how many", "env": "which", "grace": "how long"}
	got := provider.Settings(&config{Root: "/r", Grace: provider.Duration(90 * time.Second)}, help)
	want := []provider.Setting{
		{Key: "root", Type: "text", Default: "/r", Help: "where"},
		{Key: "max", Type: "whole number", Help: "how many"},
		{Key: "env", Type: "list of text", Help: "which"},
		{Key: "grace", Type: "duration", Default: "1m30s", Help: "how long"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestSettingsHaveHelpEach(t *testing.T) {
	for name, help := range map[string]map[string]string{
		"a key without help": {"root": "where"},
		"a help without key": {"root": "where", "max": "m", "env": "e", "grace": "g", "rooot": "?"},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was accepted", name)
				}
			}()
			provider.Settings(config{}, help)
		}()
	}
}

func TestPathsStartAtTheFile(t *testing.T) {
	e := provider.Env{Dir: "/etc/muster"}
	for in, want := range map[string]string{"": "", "/a": "/a", "b/c": filepath.Join("/etc/muster", "b/c")} {
		if got := e.Path(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

package detect

import (
	"slices"
	"strings"
	"testing"
)

func TestPaths(t *testing.T) {
	for _, c := range []struct {
		glob string
		yes  string
		no   string
	}{
		{"~/.aws/credentials", "/root/.aws/credentials /home/a/.aws/credentials /.aws/credentials", "/root/.aws/credentials2 /root/aws/credentials"},
		{"/etc/cron*", "/etc/cron.d /etc/crontab", "/etc/cron.d/x /x/etc/crontab"},
		{"/etc/cron*/**", "/etc/cron.d/x /etc/cron.d/x/y", "/etc/cron /etc/crontab"},
		{"/**/*.c", "/a.c /w/b/a.c", "/a.cc /c"},
		{"/**/_work/_actions/**", "/r/_work/_actions/o/a /_work/_actions/x", "/r/_work/actions/x /r/_work/_actions"},
		{"/**/.git/hooks/*", "/w/.git/hooks/pre-push", "/w/.git/hooks/x/y /w/git/hooks/x"},
		{"/run/docker.sock", "/run/docker.sock", "/var/run/docker.sock"},
		{"/usr/lib/systemd/system/*", "/usr/lib/systemd/system/a.service", "/usr/lib/systemd/system"},
	} {
		var m pathMatcher
		if err := m.add(c.glob); err != nil {
			t.Fatal(err)
		}
		for p := range strings.FieldsSeq(c.yes) {
			if !m.has(p) {
				t.Errorf("%s does not match %s", c.glob, p)
			}
		}
		for p := range strings.FieldsSeq(c.no) {
			if m.has(p) {
				t.Errorf("%s matches %s", c.glob, p)
			}
		}
	}
}

func TestHosts(t *testing.T) {
	m, err := Set{Hosts: []string{"example.com", "*.wild.org", "192.0.2.0/24", "fd00:ec2::254"}}.compile()
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{
		"example.com": true, "a.example.com": false, "wild.org": false, "a.wild.org": true, "a.b.wild.org": true, "notwild.org": false,
		"192.0.2.9": true, "::ffff:192.0.2.9": true, "192.0.3.9": false, "fd00:ec2::254": true, "": false, ".": false,
	} {
		if m.has(host) != want {
			t.Errorf("%q: %v", host, !want)
		}
	}
}

// A script's name says what it is only where tools are installed.
func TestNames(t *testing.T) {
	for _, c := range []struct {
		exe, args, want string
	}{
		{"/usr/bin/node", "node /usr/lib/node_modules/npm/bin/npm-cli.js ci", "node npm-cli"},
		{"/usr/bin/node", "node /w/node_modules/.bin/prettier -w", "node prettier"},
		{"/usr/bin/node", "node /w/node_modules/evil/npm-cli.js", "node"},
		{"/usr/bin/node", "node bundle.js", "node"},
		{"/usr/bin/node", "node -e code /usr/bin/npm", "node"},
		{"/usr/bin/python3.11", "python3 -m pip install x", "python3.11 python3 pip"},
		{"/usr/bin/python3", "python3 -X dev /usr/bin/pip install", "python3 pip"},
		{"/usr/bin/bash", "bash -e -o pipefail /usr/bin/tool.sh", "bash tool"},
		{"/usr/bin/bash", "-bash", "bash"},
		{"/bin/busybox", "wget http://x", "busybox wget"},
		{"/tmp/x", "", "x"},
	} {
		if got := strings.Join(names(c.exe, strings.Fields(c.args)), " "); got != c.want {
			t.Errorf("%s: %q instead of %q", c.args, got, c.want)
		}
	}
}

// Marks follow their files; those that stay belong to the path.
func TestMarks(t *testing.T) {
	m := newMarks(map[string]bool{"stays": true})
	m.set("moves", "/a", "x.org")
	m.set("stays", "/a", "")
	m.rename("/a", "/b")
	if m.has("moves", "/a") || !m.has("moves", "/b") || m.origin("moves", "/b") != "x.org" || !m.has("stays", "/a") || m.has("stays", "/b") {
		t.Error("a renamed file")
	}
	m.rename("/c", "/b")
	if m.has("moves", "/b") {
		t.Error("another file has taken the name")
	}
	m.set("moves", "/d", "")
	m.remove("/d")
	m.remove("/a")
	if m.has("moves", "/d") || !m.has("stays", "/a") {
		t.Error("a deleted file")
	}
}

// The names that rules ask for are all used, or somebody has misspelt one.
func TestSetsAreUsed(t *testing.T) {
	rules := shippedRules(t)
	var text strings.Builder
	for _, r := range rules.List() {
		text.WriteString(r.When)
		for _, s := range r.Sequence {
			text.WriteString(s.When)
		}
		for _, x := range r.Except {
			text.WriteString(x.When)
		}
	}
	for _, m := range rules.source.Marks {
		text.WriteString(m.When)
	}
	var names []string
	for name := range rules.source.Sets {
		if !strings.Contains(text.String(), `"`+name+`"`) && name != "sensitive" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if len(names) > 0 {
		t.Errorf("nobody asks for %v", names)
	}
}

package detect

import (
	"strings"
	"testing"

	"github.com/muster-ci/muster/internal/trace"
)

func TestIOC(t *testing.T) {
	list, err := ParseIOC(strings.NewReader(`
# March 2026
hxxps://sfrclak[.]com/x   # axios
scan.aquasecurtiy.org
ip: 45.148.10.212
203.0.113.0/24
/tmp/ld.py
path: ~/.config/sysmon/*
command: --dangerously-skip-permissions
fd00:ec2::254
curl -d @inventory.txt
*.zip
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		e    trace.Event
		want string
	}{
		{"a name", trace.Event{Type: trace.DNSQuery, Hostname: "sfrclak.com"}, "domain sfrclak.com"},
		{"a name below", trace.Event{Type: trace.DNSQuery, Hostname: "a.b.SFRCLAK.com"}, "domain sfrclak.com"},
		{"a name that ends alike", trace.Event{Type: trace.DNSQuery, Hostname: "notsfrclak.com"}, ""},
		{"a name above", trace.Event{Type: trace.DNSQuery, Hostname: "aquasecurtiy.org"}, ""},
		{"all of a top-level domain", trace.Event{Type: trace.DNSQuery, Hostname: "update.zip"}, "domain *.zip"},
		{"a name that ends like one", trace.Event{Type: trace.DNSQuery, Hostname: "unzip.example"}, ""},
		{"an address", trace.Event{Type: trace.NetConnect, Address: "45.148.10.212"}, "ip 45.148.10.212"},
		{"an address in IPv6", trace.Event{Type: trace.NetConnect, Address: "::ffff:45.148.10.212"}, "ip 45.148.10.212"},
		{"a network", trace.Event{Type: trace.NetConnect, Address: "203.0.113.77"}, "cidr 203.0.113.0/24"},
		{"an answer", trace.Event{Type: trace.DNSQuery, Hostname: "x.org", Addresses: []string{"203.0.113.1"}}, "cidr 203.0.113.0/24"},
		{"IPv6", trace.Event{Type: trace.NetConnect, Address: "fd00:ec2::254"}, "ip fd00:ec2::254"},
		{"a path", trace.Event{Type: trace.FileWrite, Path: "/tmp/ld.py"}, "path /tmp/ld.py"},
		{"a path made by renaming", trace.Event{Type: trace.FileRename, Path: "/tmp/x", NewPath: "/tmp/ld.py"}, "path /tmp/ld.py"},
		{"a glob", trace.Event{Type: trace.FileWrite, Path: "/root/.config/sysmon/sysmon.py"}, "path ~/.config/sysmon/*"},
		{"a command", trace.Event{Type: trace.ProcessExec, Path: "/bin/claude", Args: []string{"claude", "--dangerously-skip-permissions", "-p"}}, "command --dangerously-skip-permissions"},
		{"a command of words", trace.Event{Type: trace.ProcessExec, Path: "/bin/curl", Args: []string{"curl", "-d", "@inventory.txt"}}, "command curl -d @inventory.txt"},
		{"a host in a command", trace.Event{Type: trace.ProcessExec, Path: "/bin/curl", Args: []string{"curl", "https://sfrclak.com:8000/6202033"}}, "domain sfrclak.com"},
		{"nothing", trace.Event{Type: trace.ProcessExec, Path: "/bin/curl", Args: []string{"curl", "https://example.com"}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, h := range list.Match(c.e) {
				got = append(got, h.Indicator.Kind+" "+h.Indicator.Value)
			}
			if strings.Join(got, ", ") != c.want {
				t.Errorf("%v instead of %q", got, c.want)
			}
		})
	}
	if got := list.Indicators()[0]; got.Note != "axios" || got.Line != 3 {
		t.Errorf("%+v", got)
	}
}

// What cannot be looked for is refused with its line.
func TestIOCRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":       "there are none",
		"# only": "there are none",
		"x.org\ne3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855": "line 2",
		"sha256:00":        "hashes cannot be looked for",
		"*.":               "neither a name nor an address",
		"localhost":        "neither a name nor an address",
		"cidr: 192.0.2.0":  "no network",
		"path: etc/passwd": "",
		"command: sh":      "less than 4",
	} {
		_, err := ParseIOC(strings.NewReader(text))
		if want == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParseIOC(f *testing.F) {
	f.Add("hxxp://a[.]b/c\n/x/*\n10.0.0.0/8")
	f.Fuzz(func(_ *testing.T, text string) {
		if list, err := ParseIOC(strings.NewReader(text)); err == nil {
			list.Match(trace.Event{Hostname: text, Path: text, Address: text, Args: []string{text}})
		}
	})
}

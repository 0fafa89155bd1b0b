package runner

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func archive(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	w := tar.NewWriter(zip)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size, h.Mode = 2, 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte("ok")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestUnpackStaysInside(t *testing.T) {
	reg, link := byte(tar.TypeReg), byte(tar.TypeSymlink)
	for name, c := range map[string]struct {
		headers []tar.Header
		ok      bool
	}{
		"Plain":           {[]tar.Header{{Name: "./a/b", Typeflag: reg}, {Name: "a/c", Typeflag: link, Linkname: "b"}}, true},
		"ParentName":      {[]tar.Header{{Name: "../evil", Typeflag: reg}}, false},
		"AbsoluteName":    {[]tar.Header{{Name: "/evil", Typeflag: reg}}, false},
		"LinkOut":         {[]tar.Header{{Name: "l", Typeflag: link, Linkname: "../evil"}}, false},
		"AbsoluteLink":    {[]tar.Header{{Name: "l", Typeflag: link, Linkname: "/etc"}}, false},
		"ThroughALink":    {[]tar.Header{{Name: "d/e", Typeflag: reg}, {Name: "l", Typeflag: link, Linkname: "d/../.."}, {Name: "l/evil", Typeflag: reg}}, false},
		"Device":          {[]tar.Header{{Name: "dev", Typeflag: tar.TypeBlock}}, false},
		"HardLinkOutside": {[]tar.Header{{Name: "h", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			dir := filepath.Join(base, "in")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			if _, err := unpack(archive(t, c.headers...), root); (err == nil) != c.ok {
				t.Errorf("got %v", err)
			}
			if _, err := os.Lstat(filepath.Join(base, "evil")); err == nil {
				t.Error("a file was written outside")
			}
		})
	}
}

func TestParsePairs(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"A=1\nB=x=y\n\nC=\n":                {"A": "1", "B": "x=y", "C": ""},
		"A<<EOF\none\ntwo=2\nEOF\nB=3":      {"A": "one\ntwo=2", "B": "3"},
		"A<<EOF\nEOF\n":                     {"A": ""},
		"A=<<x\n":                           {"A": "<<x"},
		"A=1\r\nB<<E\r\nx\r\nE\r\n":         {"A": "1", "B": "x"},
		"name with spaces = value with = 1": {"name with spaces ": " value with = 1"},
	} {
		got := map[string]string{}
		if err := parsePairs(text, func(k, v string) error { got[k] = v; return nil }); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q (-want +got)\n%s", text, d)
		}
	}
	for _, text := range []string{"novalue\n", "=x\n", "A<<EOF\nnever closed\n", "A<<\nx\n"} {
		if err := parsePairs(text, func(string, string) error { return nil }); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestHashFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"go.sum", "a/go.sum", "a/b/go.sum", "x.txt"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]string{}
	for _, patterns := range [][]string{{"go.sum"}, {"**/go.sum"}, {"*/go.sum"}, {"**/go.sum", "!a/**"}, {"nothing"}} {
		h, err := hashFiles(dir, patterns)
		if err != nil {
			t.Fatal(err)
		}
		seen[patterns[len(patterns)-1]] = h
	}
	if seen["nothing"] != "" || len(seen["go.sum"]) != 64 || seen["go.sum"] == seen["**/go.sum"] || seen["*/go.sum"] == seen["go.sum"] || seen["!a/**"] != seen["go.sum"] {
		t.Errorf("got %v", seen)
	}
}

// FuzzCommand proves that no output of a step panics the runner.
func FuzzCommand(f *testing.F) {
	for _, s := range []string{"::error file=a,line=1::x%0Ay", "::::", ":: ::", "::stop-commands::t", "::add-mask::", "A<<E\nE"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		parseCommand(s)
		_ = parsePairs(s, func(string, string) error { return nil })
	})
}

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func texts(ids []id) (out []string) {
	for _, i := range ids {
		out = append(out, i.String())
	}
	return out
}

func TestCitations(t *testing.T) {
	for in, want := range map[string]string{
		"S3-20":                        "S3-20",
		"// S3-20 S3-21":               "S3-20 S3-21",
		"(4-17), C8.":                  "4-17 C8",
		"see 4-4; and 4-48:":           "4-4 4-48",
		"S1-45…S1-48":                  "S1-45 S1-46 S1-47 S1-48",
		"S1-45...S1-47 4-6":            "S1-45 S1-46 S1-47 4-6",
		"C1…C3":                        "C1 C2 C3",
		"S1-5…S2-7":                    "S1-5 S2-7", // no range across sections: two citations
		"S1-5…":                        "S1-5",
		"2024-1 14-2 SC8 UTF-8 a4-1":   "",
		"4-1-2 C8a S3-20_x 4-1.5 x/C8": "",
		"the end of S3-20.":            "S3-20",
		"#4-12 v4-1 C-8 S5-1 S1":       "",
		"C8\nC9":                       "C8 C9",
	} {
		var got []string
		for _, c := range citations(in) {
			got = append(got, texts(c.ids)...)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func tree() fstest.MapFS {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	return fstest.MapFS{
		cataloguePath: file("# intro: not a section\n# S0: first\nS0-1 one\nS0-2 two words\nS0-3 three\nS0-4 four\n\n# 4: second\n4-1 a\n# C: third\nC1 b\n"),
		"x/x_test.go": file("package x\n\n// S0-1…S0-2\nfunc f() {\n\t_ = \"S0-3\" // 4-1\n\t/* C1\n\t   S0-9 */\n}\n"),
		// Not a test, a suite that tests call, a hidden directory.
		"x/x.go":                     file("package x\n// S0-3\n"),
		"x/xtest/suite.go":           file("package xtest\n// S0-1\n"),
		".git/y_test.go":             file("package y\n// S0-3\n"),
		"e2e/testdata/story.txt":     file("# S0-4: a story\nexec muster # C1\nexec a#S0-3\n-- in.txt --\n# S0-3\n"),
		"e2e/testdata/b.txtar":       file("# 4-1\n"),
		"docs/S0-3.txt":              file("# S0-3\n"),
		"web/node_modules/a.go":      file("// S0-3"),
		"web/node_modules/z_test.go": file("// S0-3"),
	}
}

func TestScan(t *testing.T) {
	list, err := readCatalogue(tree())
	if err != nil {
		t.Fatal(err)
	}
	proofs, problems, err := scan(tree(), list)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"S0-1": "[x/x_test.go:3 x/xtest/suite.go:2]",
		"S0-2": "[x/x_test.go:3]",
		"S0-4": "[e2e/testdata/story.txt:1]",
		"4-1":  "[e2e/testdata/b.txtar:1 x/x_test.go:5]",
		"C1":   "[e2e/testdata/story.txt:2 x/x_test.go:6]",
	}
	if len(proofs) != len(want) {
		t.Errorf("proofs %v", proofs)
	}
	for i, places := range proofs {
		if fmt.Sprint(places) != want[i.String()] {
			t.Errorf("%s at %v, want %s", i, places, want[i.String()])
		}
	}
	if len(problems) != 1 || problems[0] != "x/x_test.go:7: S0-9 does not exist" {
		t.Errorf("problems %q", problems)
	}
}

func TestCatalogueRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"NoTitle":  "S0-1\n",
		"NoID":     "hello world\n",
		"Twice":    "S0-1 a\nS0-1 b\n",
		"TooLong":  "S0-1 " + strings.Repeat("word ", 13) + "\n",
		"OddStart": "S0-1x a\n",
	} {
		if _, err := readCatalogue(fstest.MapFS{cataloguePath: {Data: []byte(text)}}); err == nil || !strings.Contains(err.Error(), cataloguePath) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := readCatalogue(fstest.MapFS{}); err == nil {
		t.Error("no file, no error")
	}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	for name, f := range tree() {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs bytes.Buffer
	call := func(args ...string) int {
		out.Reset()
		errs.Reset()
		return run(append([]string{"--root", dir}, args...), &out, &errs)
	}
	if code := call(); code != 1 || !strings.Contains(errs.String(), "x/x_test.go:7: S0-9 does not exist") {
		t.Errorf("unknown id: %d, %s", code, errs.String())
	}
	const want = `S0 first: 3 of 4 proven
  proven      S0-1 S0-2 S0-4
  not proven  S0-3   three
4 second: 1 of 1 proven
  proven      4-1
C third: 1 of 1 proven
  proven      C1
total: 5 of 6 proven
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	if err := os.WriteFile(filepath.Join(dir, "x/x_test.go"), []byte("package x\n// S0-1…S0-2 4-1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		out  string
	}{
		{nil, 0, "total: 5 of 6"},
		{[]string{"--strict"}, 1, "total: 5 of 6"},
		{[]string{"--strict", "--of", "S0-1…S0-2,4-1"}, 0, "total: 3 of 3"},
		{[]string{"--strict", "--of", "S0-1...S0-3"}, 1, "not proven  S0-3   three"},
		{[]string{"--of", "S0-1 S0-1", "-v"}, 0, "proven      S0-1   one: x/x_test.go:2 x/xtest/suite.go:2"},
		{[]string{"--of", "S0-1…S0-9"}, 2, ""},
		{[]string{"--of", "nonsense"}, 2, ""},
		{[]string{"extra"}, 2, ""},
		{[]string{"--bad"}, 2, ""},
	} {
		if code := call(c.args...); code != c.code || !strings.Contains(out.String(), c.out) {
			t.Errorf("%q: %d\n%s%s", c.args, code, out.String(), errs.String())
		}
	}
	if code := run([]string{"--root", t.TempDir()}, &out, &errs); code != 2 {
		t.Errorf("no catalogue: %d", code)
	}
}

func TestRanges(t *testing.T) {
	for in, want := range map[string]string{
		"S0-1": "S0-1", "S0-1 S0-2": "S0-1 S0-2", "S0-3,S0-1,S0-2": "S0-1…S0-3", "C1…C5 C7": "C1…C5 C7",
	} {
		var ids []id
		for _, c := range citations(in) {
			ids = append(ids, c.ids...)
		}
		if got := ranges(ids); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// The real list: all rows of the five designs, the accidents and the choices.
func TestRealCatalogue(t *testing.T) {
	list, err := readCatalogue(os.DirFS("../../.."))
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, i := range list.ids {
		count[i.section]++
		if i.number != count[i.section] {
			t.Errorf("%s is out of order", i)
		}
	}
	for section, want := range map[string]int{"S0": 26, "S1": 117, "S2": 23, "S3": 66, "S4": 80, "4": 55, "C": 34} {
		if count[section] != want || list.names[section] == "" {
			t.Errorf("section %s (%q) has %d, want %d", section, list.names[section], count[section], want)
		}
	}
	if !slices.Equal(list.sections, []string{"S0", "S1", "S2", "S3", "S4", "4", "C"}) {
		t.Errorf("sections %v", list.sections)
	}
}

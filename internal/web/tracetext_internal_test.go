package web

import (
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/muster-ci/muster/internal/trace/view"
)

func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"plain /usr/bin/env":        "plain /usr/bin/env",
		"größer 日本 ✓":               "größer 日本 ✓",
		"a\u202egpj.exe":            "a⟨U+202E⟩gpj.exe",
		"\x1b[31mred\x7f":           "⟨U+001B⟩[31mred⟨U+007F⟩",
		"two\nlines\tand\ra return": "two↵lines⇥and⟨U+000D⟩a return",
		"zero\u200bwidth\u00a0":     "zero⟨U+200B⟩width⟨U+00A0⟩",
		"soft\u00adhyphen":          "soft⟨U+00AD⟩hyphen",
		"filler\u3164":              "filler⟨U+3164⟩",
		"tag\U000e0041":             "tag⟨U+E0041⟩",
		"variant\ufe0f":             "variant⟨U+FE0F⟩",
		"\u2699\ufe0f build":        "\u2699\ufe0f build",
		"\u2699\ufe0f\ufe0f":        "\u2699\ufe0f⟨U+FE0F⟩",
	} {
		if got := visible(in, 1000); got != want {
			t.Errorf("visible(%q) is %q, want %q", in, got, want)
		}
	}
	if got := visible(strings.Repeat("ä", 50), 10); got != strings.Repeat("ä", 10)+"… (80 more bytes)" {
		t.Errorf("a long text is %q", got)
	}
}

func FuzzVisible(f *testing.F) {
	f.Add("a\u202eb", 5)
	f.Add("\xff\x00\u2028", 3)
	f.Fuzz(func(t *testing.T, s string, n int) {
		n = 2 + max(n, -n)%200
		got := visible(s, maxTitle)
		if !utf8.ValidString(got) {
			t.Errorf("visible(%q) is not text: %q", s, got)
		}
		for _, r := range got {
			if unicode.Is(unicode.C, r) || unicode.In(r, unicode.Zl, unicode.Zp) {
				t.Errorf("visible(%q) has %U", s, r)
			}
		}
		for _, c := range []clipped{clip(n, s), clipPath(max(n, 8), s)} {
			if utf8.RuneCountInString(c.Text) > max(n, 8) {
				t.Errorf("clip(%d, %q) has %d characters", n, s, utf8.RuneCountInString(c.Text))
			}
			if c.Title == "" && c.Text != got {
				t.Errorf("clip(%d, %q) is %q without saying that it was cut", n, s, c.Text)
			}
		}
	})
}

func TestClip(t *testing.T) {
	if got := clip(6, "abcdefgh"); got != (clipped{"abcde…", "abcdefgh"}) {
		t.Errorf("clip: %q", got)
	}
	if got := clipPath(12, "/home/runner/work/app/main.go"); got.Text != "/ho…/main.go" {
		t.Errorf("clipPath: %q", got.Text)
	}
}

func TestCommandLine(t *testing.T) {
	for want, args := range map[string][]string{
		"git log -1 --format=%H":    {"git", "log", "-1", "--format=%H"},
		`sh -c 'echo "hi"; rm -rf'`: {"sh", "-c", `echo "hi"; rm -rf`},
		`printf 'it'\''s' ''`:       {"printf", "it's", ""},
		"":                          nil,
	} {
		if got := commandLine(args); got != want {
			t.Errorf("commandLine(%q) is %q, want %q", args, got, want)
		}
	}
	many := make([]string, 10_000)
	for i := range many {
		many[i] = "argument"
	}
	if got := commandLine(many); len(got) > 2*maxTitle || !strings.Contains(got, "more arguments)") {
		t.Errorf("many arguments make a line of %d bytes: …%s", len(got), got[len(got)-40:])
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 812: "812 B", 1024: "1.0 KiB", 4300: "4.2 KiB", 31_400_000: "30 MiB", 1 << 20: "1.0 MiB", 1<<20 - 1: "1.0 MiB", 1 << 50: "1024 TiB", -5: "−5 B"} {
		if got := formatBytes(n); got != want {
			t.Errorf("formatBytes(%d) is %q, want %q", n, got, want)
		}
	}
}

// Every bar lies within the one above it, and brothers do not overlap.
func TestFlameNests(t *testing.T) {
	frames := []view.Frame{{Parent: -1, Name: "build", Count: 1}, {Parent: 0, Name: "make", Count: 1, SelfCPUUS: 10}, {Parent: 1, Name: "cc", Count: 40, SelfCPUUS: 700}, {Parent: 1, Name: "ld", Count: 2, SelfCPUUS: 100}, {Parent: -1, Name: "test", Count: 1, SelfCPUUS: 190}}
	d := newFlame(frames, true, func(i int) string { return fmt.Sprint(i) })
	f := d.draw(-1)
	if len(f.Bars) != 6 || f.Thin != 0 {
		t.Fatalf("%d bars, %d too thin", len(f.Bars), f.Thin)
	}
	rows := map[int][]flameBar{}
	for _, b := range f.Bars {
		if b.X < 0 || b.X+b.W > f.Width || b.Y+b.H > f.Height {
			t.Errorf("%q is outside of the drawing", b.Title)
		}
		for _, other := range rows[b.Y] {
			if b.X < other.X+other.W && other.X < b.X+b.W {
				t.Errorf("%q lies on %q", b.Title, other.Title)
			}
		}
		rows[b.Y] = append(rows[b.Y], b)
	}
	if got := f.Bars[0].W; got != flameWidth-1 {
		t.Errorf("the job is %d wide", got)
	}
	zoomed := d.draw(2)
	last := zoomed.Bars[len(zoomed.Bars)-1]
	if last.W != flameWidth-1 || last.Link != "2" || !strings.HasPrefix(last.Title, "cc ×40: <1ms, 70% of all") || len(zoomed.Bars) != 4 {
		t.Errorf("zoomed to cc: %+v of %d", last, len(zoomed.Bars))
	}
	if got := newFlame(nil, true, func(int) string { return "" }).draw(7); len(got.Bars) != 1 {
		t.Errorf("of nothing there are %d bars", len(got.Bars))
	}
	// Frames that lie about their parents are drawn somewhere, once.
	odd := newFlame([]view.Frame{{Parent: 1, Name: "a", SelfCPUUS: 1}, {Parent: 0, Name: "b", SelfCPUUS: 1}, {Parent: 2, Name: "c", SelfCPUUS: 1}}, true, func(int) string { return "" }).draw(-1)
	if len(odd.Bars) != 4 {
		t.Errorf("of three frames there are %d bars", len(odd.Bars))
	}
}

// Nodes of a column do not overlap, groups stand together, and lines join what they say.
func TestGraphLayout(t *testing.T) {
	g := graph{}
	for i := range 40 {
		g.Nodes = append(g.Nodes, graphNode{Key: fmt.Sprint(i), Column: i % 2, Group: map[bool]string{true: "a", false: "b"}[i%3 == 0]})
	}
	for i := range 30 {
		g.Lines = append(g.Lines, graphLine{From: 2 * (i % 20), To: 1 + 2*((i*7)%20), Count: int64(i)})
	}
	ends := map[string]int{}
	for _, l := range g.Lines {
		ends[g.Nodes[l.From].Key+">"+g.Nodes[l.To].Key]++
	}
	g.lay([]graphColumn{{0, 100, "from"}, {300, 100, "to"}})
	for _, l := range g.Lines {
		ends[g.Nodes[l.From].Key+">"+g.Nodes[l.To].Key]--
		if from := g.Nodes[l.From]; !strings.HasPrefix(l.Path, fmt.Sprintf("M%d %dC", from.X+from.W, from.Y+from.H/2)) {
			t.Errorf("the line from %s is %s", from.Key, l.Path)
		}
	}
	for k, n := range ends {
		if n != 0 {
			t.Errorf("the lines %s became others", k)
		}
	}
	for c := range 2 {
		bottom, groups, last := -1, 0, ""
		for _, n := range g.Nodes {
			if n.Column != c {
				continue
			}
			if n.Y < bottom || n.Y+n.H > g.Height || n.X+n.W > g.Width {
				t.Errorf("node %s at %d,%d of a drawing of %d×%d", n.Key, n.X, n.Y, g.Width, g.Height)
			}
			bottom = n.Y + n.H
			if n.Group != last {
				groups, last = groups+1, n.Group
			}
		}
		if groups != 2 {
			t.Errorf("column %d has its groups in %d pieces", c, groups)
		}
	}
}

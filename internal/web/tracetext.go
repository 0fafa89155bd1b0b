package web

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text out of a trace was chosen by whoever wrote the job, and may have been chosen to
// deceive whoever reads it: arguments, paths and names of hosts. Templates escape its
// markup; what is here takes care that nothing in it is unseen, reorders what stands
// around it, or pushes it off the page.

const (
	// maxShown is how many characters of a text from a trace a line shows, and maxTitle
	// how many are told when the pointer rests on it.
	maxShown = 160
	maxTitle = 4096
)

// clipped is a text as it is shown: Text without anything unseen and not too long; Title
// has more of it if Text was cut, else "".
type clipped struct{ Text, Title string }

// clip makes s fit into n characters.
func clip(n int, s string) clipped {
	seen := visible(s, maxTitle)
	if utf8.RuneCountInString(seen) <= n {
		return clipped{Text: seen}
	}
	rs := []rune(seen)
	return clipped{Text: string(rs[:n-1]) + "…", Title: seen}
}

// clipPath makes a path fit into n characters; its end says most.
func clipPath(n int, s string) clipped {
	seen := visible(s, maxTitle)
	rs := []rune(seen)
	if len(rs) <= n {
		return clipped{Text: seen}
	}
	head := n / 4
	return clipped{Text: string(rs[:head]) + "…" + string(rs[len(rs)-(n-head-1):]), Title: seen}
}

// visible is s with every character that is not seen, or that changes how others are
// seen, replaced by its name; at most limit characters of s are looked at.
func visible(s string, limit int) string {
	plain := len(s) <= limit
	for i := 0; plain && i < len(s); i++ {
		plain = s[i] >= 0x20 && s[i] < 0x7f
	}
	if plain {
		return s
	}
	var b strings.Builder
	n, before := 0, rune(0)
	for i, r := range s {
		if n++; n > limit {
			fmt.Fprintf(&b, "… (%s more bytes)", formatNumber(len(s)-i))
			break
		}
		switch {
		case r == '\n':
			b.WriteRune('↵')
		case r == '\t':
			b.WriteRune('⇥')
		case asSymbol(before, r): // "⚙️" is what people name their steps
			b.WriteRune(r)
		case r < 0x20, unseen(r):
			fmt.Fprintf(&b, "⟨U+%04X⟩", r)
		default:
			b.WriteRune(r)
		}
		before = r
	}
	return b.String()
}

// asSymbol reports whether r only says how the symbol before it is drawn: as a picture or
// as text.
func asSymbol(before, r rune) bool {
	return (r == 0xfe0e || r == 0xfe0f) && before > 0xff && unicode.In(before, unicode.So, unicode.Sm)
}

// fillers are letters by name that are drawn as nothing.
var fillers = map[rune]bool{0x115f: true, 0x1160: true, 0x17b4: true, 0x17b5: true, 0x2800: true, 0x3164: true, 0xffa0: true}

// unseen reports whether r takes no ink: controls, marks of direction, joiners, spaces
// other than the common one, variation selectors, and what belongs to nobody.
func unseen(r rune) bool {
	switch {
	case r == ' ' || r == utf8.RuneError:
		return false
	case fillers[r], r >= 0xfe00 && r <= 0xfe0f, r >= 0xe0100 && r <= 0xe01ef, r == 0x034f:
		return true
	}
	return !unicode.IsGraphic(r) || unicode.In(r, unicode.Cf, unicode.Zs, unicode.Zl, unicode.Zp, unicode.Co)
}

// commandLine is arguments as one line, quoted where a shell would need it, so that one
// argument with a space is not taken for two.
func commandLine(args []string) string {
	var b strings.Builder
	for i, a := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		if b.Len() > maxTitle {
			fmt.Fprintf(&b, "… (%s)", plural(len(args)-i, "more argument", "more arguments"))
			break
		}
		b.WriteString(shellWord(a))
	}
	return b.String()
}

// shellWord is s as a POSIX shell reads it back.
func shellWord(s string) string {
	special := func(r rune) bool { return !wordRune(r) && r <= 0x7f && !strings.ContainsRune("-./:=,+@%^", r) }
	if s != "" && strings.IndexFunc(s, special) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// formatBytes says n in its unit: 812 B, 4.2 KiB, 1.3 GiB.
func formatBytes(n int64) string {
	if n < 0 {
		return "−" + formatBytes(-n)
	}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, units := float64(n)/1024, []string{"KiB", "MiB", "GiB", "TiB"}
	i := 0
	for v >= 1023.5 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f %s", v, units[i])
	}
	return fmt.Sprintf("%.0f %s", v, units[i])
}

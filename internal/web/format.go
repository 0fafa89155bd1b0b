package web

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// funcs are what templates may call. They are pure; the present time comes from
// the page.
var funcs = template.FuncMap{
	"duration": formatDuration,
	"took":     formatTook,
	"money":    formatMoney,
	"num":      formatNumber[int],
	// plain takes the marks of Markdown off a text that documents share.
	"plain":    func(s string) string { return strings.ReplaceAll(s, "`", "") },
	"num64":    formatNumber[int64],
	"about":    formatAbout,
	"writings": writings,
	"clock":    func(t time.Time) string { return t.UTC().Format("15:04:05") },
	"stamp":    formatStamp,
	"iso":      func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
	"ago": func(now, t time.Time) moment {
		return moment{At: t, Text: formatCoarse(now.Sub(t)) + " ago", Mode: "ago"}
	},
	"since": func(now, t time.Time) moment {
		return moment{At: t, Text: formatDuration(max(0, now.Sub(t))), Mode: "since"}
	},
	"at":       func(t time.Time) moment { return moment{At: t, Text: formatStamp(t)} },
	"until":    func(now, t time.Time) string { return formatCoarse(t.Sub(now)) },
	"plural":   plural,
	"tone":     tone,
	"word":     word,
	"jobPath":  jobPath,
	"short":    short,
	"percent":  func(part, whole float64) string { return formatPercent(part, whole) },
	"safeLink": safeLink,
	"join":     strings.Join,
	"poolPath": func(name string) string { return "/pools/" + url.PathEscape(name) },
	"flowPath": func(run int64) string { return fmt.Sprintf("/runs/%d", run) },
	"decisionPath": func(d DecisionRecord) string {
		return fmt.Sprintf("/pools/%s/decisions/%d", url.PathEscape(d.Pool), d.ID)
	},
	"ratio":    func(r float64) string { return strconv.FormatFloat(100*r, 'f', 1, 64) + " %" },
	"runPath":  func(id muster.RunnerID) string { return "/runners/" + url.PathEscape(string(id)) },
	"guidPath": func(guid string) string { return "/deliveries/" + url.PathEscape(guid) },
	"static":   staticPath,
	"scope":    func(s muster.Scope) string { return s.String() },
	"float":    func(n int) float64 { return float64(n) },
	"deref":    func(n int64) float64 { return float64(n) },
	"list":     func(v ...any) []any { return v },
	"bytes":    formatBytes,
	"egress":   func(mode string) string { return cmp.Or(egressWords[mode], mode) },
	"int":      func(n int64) int { return int(n) },
	"us":       sayUS,
	"visible":  func(s string) string { return visible(s, maxTitle) },
	"clip":     clip,
	"clipPath": clipPath,
}

// moment is a time with the words that stand for it; Mode tells the script how
// to keep the words true: "ago", "since", or "" for not at all.
type moment struct {
	At   time.Time
	Text string
	Mode string
}

// formatDuration says d in at most two units: 420ms, 8.2s, 3m 12s, 2h 05m, 4d 3h.
// The script's duration() says the same from one second up.
func formatDuration(d time.Duration) string {
	switch {
	case d < 0:
		return "−" + formatDuration(-d)
	case d == 0:
		return "0s"
	case d < time.Millisecond:
		return "<1ms"
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return strconv.FormatFloat(math.Floor(d.Seconds()*10)/10, 'f', -1, 64) + "s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm %02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh %02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd %dh", int(d.Hours())/24, int(d.Hours())%24)
}

// formatTook says how long something took that is over, rounded and not cut as a clock that
// runs is: 420ms, 8.2s, 15.9s, 3m 12s. So differences and sums on a page agree, and with what
// the command line says.
func formatTook(d time.Duration) string {
	switch {
	case d < 0:
		return "−" + formatTook(-d)
	case d < time.Millisecond:
		return formatDuration(d)
	case d.Round(time.Millisecond) < time.Second:
		return fmt.Sprintf("%dms", d.Round(time.Millisecond).Milliseconds())
	case d.Round(100*time.Millisecond) < time.Minute:
		return strconv.FormatFloat(d.Round(100*time.Millisecond).Seconds(), 'f', -1, 64) + "s"
	}
	return formatDuration(d.Round(time.Second))
}

// formatCoarse says d in its largest unit, which is enough for what is long
// past: 50s, 3m, 2h, 4d. The script's coarse() says the same.
func formatCoarse(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}

// formatStamp is a time in UTC, to the second.
func formatStamp(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// formatAbout says a count that is exact up to 65,536 and an estimate above, which is
// shown with as many digits as it is good for.
func formatAbout(n int64) string {
	if n <= 65_536 {
		return formatNumber(n)
	}
	unit := int64(1000)
	for n >= 1000*unit {
		unit *= 10
	}
	return "≈ " + formatNumber((n+unit/2)/unit*unit)
}

// formatMoney says an amount in millionths of a US dollar. Amounts under ten
// cents keep the digits that make them more than nothing.
func formatMoney(micro int64) string {
	if micro < 0 {
		return "−" + formatMoney(-micro)
	}
	dollars := float64(micro) / 1e6
	switch {
	case micro == 0:
		return "$0"
	case micro < 100:
		return "<$0.0001"
	case micro < 100_000:
		return fmt.Sprintf("$%.4f", dollars)
	}
	cents := (micro + 5_000) / 10_000
	return fmt.Sprintf("$%s.%02d", formatNumber(cents/100), cents%100)
}

// formatNumber groups the digits of n by thousands.
func formatNumber[T int | int64](n T) string {
	s := strconv.FormatInt(int64(n), 10)
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "−", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// formatPercent is part of whole, "–" for a whole of nothing.
func formatPercent(part, whole float64) string {
	if whole == 0 {
		return "–"
	}
	p := 100 * part / whole
	if p > 0 && p < 1 {
		return "<1%"
	}
	return strconv.FormatFloat(math.Round(p), 'f', 0, 64) + "%"
}

// plural is "1 job", "2 jobs".
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return formatNumber(n) + " " + many
}

// short cuts an opaque id to its first characters.
func short(s string) string {
	if len(s) <= 8 {
		return s
	}
	return s[:8]
}

// tone is the semantic colour of a state, a conclusion, an action or a finding:
// ok, bad, warn, info, wait or mute. Colour never stands alone: the word is
// always beside it.
func tone(v any) string {
	switch fmt.Sprint(v) {
	case "success", "registered", "ok", "fine", "complete", "clean", "allowed":
		return "ok"
	case "failure", "timed_out", "startup_failure", "lost_runner", "leaked_instance", "stopped", "lost", "refused", "denied", "findings", "critical", "high":
		return "bad"
	case "queued", "waiting", "warned", "lowered", "suspended", "action_required", "provisioning", "draining", "ghost_registration", "truncated", "incomplete", "cut_off", "would_deny", "medium":
		return "wait"
	case "in_progress", "active", "scale_up", "recording", "low":
		return "info"
	}
	return "mute"
}

// word is the word for a state, a conclusion or an action.
func word(v any) string {
	switch s := fmt.Sprint(v); s {
	case "in_progress":
		return "running"
	case "active":
		return "running a job"
	case "registered":
		return "listening"
	case "success":
		return "succeeded"
	case "failure":
		return "failed"
	case "denied":
		return "refused"
	case "would_deny":
		return "would be refused"
	case string(muster.SenseScaleSet):
		return "scale set"
	default:
		return strings.ReplaceAll(s, "_", " ")
	}
}

// jobPath is the page of one attempt. GitHub gives a re-run new ids, so the
// attempt is only named when there is more than one.
func jobPath(k muster.JobKey) string {
	if k.Attempt <= 1 {
		return fmt.Sprintf("/jobs/%d", k.ID)
	}
	return fmt.Sprintf("/jobs/%d/%d", k.ID, k.Attempt)
}

// safeLink is u if it is an absolute http or https address, else "": addresses
// come out of webhook bodies.
func safeLink(u string) string {
	p, err := url.Parse(u)
	if err != nil || p.Host == "" || (p.Scheme != "https" && p.Scheme != "http") {
		return ""
	}
	return u
}

// percentile is the nearest-rank percentile p (0…100) of ds; 0 if there are none.
func percentile(ds []time.Duration, p float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	sorted := slices.SortedFunc(slices.Values(ds), cmp.Compare[time.Duration])
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}

// printable makes a log fit for a page: without escape sequences and control
// characters other than newline and tab, in valid UTF-8.
func printable(log []byte) string {
	var b strings.Builder
	b.Grow(len(log))
	rs := []rune(strings.ToValidUTF8(string(log), "\uFFFD"))
	for i := 0; i < len(rs); i++ {
		r := rs[i]
		switch {
		case r == 0x1b:
			i = skipEscape(rs, i)
		case r == '\n' || r == '\t':
			b.WriteRune(r)
		case r < 0x20 || (r >= 0x7f && r <= 0x9f) || bidi(r):
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// bidi reports whether r reorders the text around it, which could make a log
// line read as another.
func bidi(r rune) bool {
	return (r >= 0x202a && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069)
}

// skipEscape returns the index of the last rune of the escape sequence that
// starts at i: a control sequence up to its final letter, an operating-system
// command up to its terminator, else one more rune.
func skipEscape(rs []rune, i int) int {
	if i+1 >= len(rs) {
		return i
	}
	switch rs[i+1] {
	case '[':
		for j := i + 2; j < len(rs); j++ {
			if rs[j] >= 0x40 && rs[j] <= 0x7e {
				return j
			}
		}
		return len(rs)
	case ']':
		for j := i + 2; j < len(rs); j++ {
			if rs[j] == 0x07 || (rs[j] == '\\' && rs[j-1] == 0x1b) {
				return j
			}
			if rs[j] == '\n' {
				return j - 1
			}
		}
		return len(rs)
	}
	return i + 1
}

// tail is the last n lines of s, and how many lines came before them.
func tail(s string, n int) (last string, before int) {
	s = strings.TrimRight(s, "\n")
	lines := strings.Split(s, "\n")
	if len(lines) <= n {
		return s, 0
	}
	return strings.Join(lines[len(lines)-n:], "\n"), len(lines) - n
}

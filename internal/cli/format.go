package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/muster-ci/muster/internal/config"
)

// show prints a message of the API: as JSON if asked for, else by human.
func (a *app) show(m proto.Message, human func(io.Writer) error) error {
	if a.json {
		return a.showJSON(m, "  ")
	}
	var b bytes.Buffer
	if err := human(&b); err != nil {
		return err
	}
	_, err := a.Stdout.Write(b.Bytes())
	return err
}

// showJSON prints a message with the field names of the .proto files. An empty
// indent makes it one line.
func (a *app) showJSON(m proto.Message, indent string) error {
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return err
	}
	// protojson varies its spaces on purpose; programs and diffs want one form.
	var b bytes.Buffer
	if indent == "" {
		err = json.Compact(&b, raw)
	} else {
		err = json.Indent(&b, raw, "", indent)
	}
	if err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err = a.Stdout.Write(b.Bytes())
	return err
}

func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// style is a colour, by its number in ECMA-48 (SGR).
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

// colours reports whether styles are shown: on a terminal that has any, unless
// NO_COLOR is set (no-color.org).
func (a *app) colours() bool {
	return a.IsTerminal && a.Getenv("NO_COLOR") == "" && a.Getenv("TERM") != "dumb"
}

func (a *app) paint(s style, text string) string {
	if s == plain || text == "" || !a.colours() {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// stateStyle is the colour of a state or conclusion.
func stateStyle(s string) style {
	switch s {
	case "success", "active", "enabled", "ok":
		return green
	case "failure", "timed_out", "startup_failure", "deleted", "failed":
		return red
	case "queued", "waiting", "provisioning", "draining", "suspended", "disabled", "cancelled":
		return yellow
	case "in_progress", "registered":
		return cyan
	case "destroyed", "skipped", "neutral":
		return dim
	}
	return plain
}

// table lines up cells. Widths are those of the text without its colours.
type table struct {
	app  *app
	head []string
	rows [][]cell
}

type cell struct {
	text  string
	style style
}

func (a *app) table(head ...string) *table { return &table{app: a, head: head} }

// row adds a line: strings, cells, or anything that fmt prints. Nothing in it can steer a terminal.
func (t *table) row(cells ...any) {
	var r []cell
	for _, c := range cells {
		switch c := c.(type) {
		case cell:
			r = append(r, cell{printable(c.text), c.style})
		default:
			r = append(r, cell{text: printable(fmt.Sprint(c))})
		}
	}
	t.rows = append(t.rows, r)
}

// print writes the table, or none when it has no rows.
func (t *table) print(w io.Writer, none string) error {
	if len(t.rows) == 0 {
		_, err := fmt.Fprintln(w, none)
		return err
	}
	all := t.rows
	if len(t.head) > 0 {
		var head []cell
		for _, h := range t.head {
			head = append(head, cell{h, bold})
		}
		all = append([][]cell{head}, all...)
	}
	var widths []int
	for _, r := range all {
		for i, c := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	var b strings.Builder
	for _, r := range all {
		for i, c := range r {
			if c.text == "" {
				c.text = "-"
			}
			b.WriteString(t.app.paint(c.style, c.text))
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(c.text))+2))
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// facts prints names and values; empty values are left out.
func (a *app) facts(w io.Writer, pairs ...any) error {
	t := a.table()
	for i := 0; i+1 < len(pairs); i += 2 {
		value := pairs[i+1]
		if c, ok := value.(cell); ok && c.text == "" || value == "" {
			continue
		}
		t.row(cell{fmt.Sprint(pairs[i]), dim}, value)
	}
	return t.print(w, "")
}

func state(s string) cell { return cell{s, stateStyle(s)} }

// when is a time, relative and absolute: "3m ago (14:05:02)". "" if absent.
func (a *app) when(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	now := a.Now()
	d := now.Sub(t.AsTime())
	abs := a.clock(t)
	switch {
	case d < 0:
		return fmt.Sprintf("in %s (%s)", short((-d).Truncate(time.Second)), abs)
	case d < time.Second:
		return fmt.Sprintf("now (%s)", abs)
	}
	return fmt.Sprintf("%s ago (%s)", short(d.Truncate(time.Second)), abs)
}

// clock is the absolute time: without its date today, without its year this year.
func (a *app) clock(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	now := a.Now()
	at := t.AsTime().In(now.Location())
	switch {
	case at.Format(time.DateOnly) == now.Format(time.DateOnly):
		return at.Format("15:04:05")
	case at.Year() == now.Year():
		return at.Format("01-02 15:04:05")
	}
	return at.Format("2006-01-02 15:04:05")
}

// short is a duration to two units: "3d4h", "2m5s", "850ms".
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + short(-d)
	case d == 0:
		return "0s"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return strconv.FormatFloat(d.Truncate(100*time.Millisecond).Seconds(), 'f', -1, 64) + "s"
	}
	d = d.Truncate(time.Second)
	units := []struct {
		name string
		d    time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}
	for i, u := range units {
		if d < u.d {
			continue
		}
		out := fmt.Sprintf("%d%s", d/u.d, u.name)
		if rest := d % u.d; i+1 < len(units) && rest >= units[i+1].d {
			out += fmt.Sprintf("%d%s", rest/units[i+1].d, units[i+1].name)
		}
		return out
	}
	return "0s"
}

// span is a duration of the API, "" if absent.
func span(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	return short(d.AsDuration())
}

// money is an amount in millionths of a US dollar: cents, or as many digits as a
// small amount needs.
func money(micro int64) string {
	sign := ""
	if micro < 0 {
		sign, micro = "-", -micro
	}
	if micro == 0 || micro >= 10_000 {
		return fmt.Sprintf("%s$%d.%02d", sign, (micro+5_000)/1_000_000, (micro+5_000)%1_000_000/10_000)
	}
	return sign + "$" + strings.TrimRight(fmt.Sprintf("0.%06d", micro), "0")
}

// since reads a start: a time before now ("24h", "30d"), a date or a time.
func (a *app) since(flag, s string) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil
	}
	now := a.Now()
	if d, err := config.ParseDuration(s); err == nil && d >= 0 {
		return timestamppb.New(now.Add(-d)), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return timestamppb.New(t), nil
		}
	}
	return nil, usagef("--%s %q is not a time; write 24h, 30d, 2006-01-02 or 2006-01-02T15:04:05Z", flag, s)
}

// Command providertable makes the table of providers in docs/providers/README.md from
// what their tests print. It reads the output of `go test -json` of the packages of
// providers, and of the chaos of e2e, from its input, and replaces what stands between
// the two marks of the file; `make provider-table` runs the tests and it.
//
// A test prints a figure as one line (provider/providertest, Figure):
//
//	muster-provider-figure kind=process what=create-to-connect-p50 value="41 ms (n=20)"
//
// Lines of tests that did not pass are left out. Checks of the conformance suite are
// counted from the tests themselves.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// event is a line of `go test -json`.
type event struct {
	Action, Package, Test, Output string
}

// figure is a line of providertest.Figure: kind, what and value.
var figure = regexp.MustCompile(`muster-provider-figure kind=(\S+) what=(\S+) value="((?:[^"\\]|\\.)*)"`)

// check is the name of a subtest of providertest.Run, at any depth.
var check = regexp.MustCompile(`/(Create[A-Z]\w*|RestartForgetsNothing|Delete[A-Z]\w*|List[A-Z]\w*|EndedContext|Capacity|Invalid|HostileNames|NoSecrets|EndsByItself|MaxAge|Machine[A-Z]\w*)\z`)

const (
	begin = "<!-- the table begins: make provider-table -->"
	end   = "<!-- the table ends -->"
)

// row is what is known of one provider.
type row struct {
	passed, declared map[string]bool
	failed           []string
	values           map[string]string
	faults           []string
}

func main() {
	file := flag.String("file", "docs/providers/README.md", "the file with the table")
	on := flag.String("on", "", "what it was measured on, in a few words")
	flag.Parse()
	if err := run(os.Stdin, *file, *on, time.Now()); err != nil {
		fmt.Fprintln(os.Stderr, "providertable:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, file, on string, now time.Time) error {
	rows, err := collect(in)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return errors.New("there is nothing of a provider in the input; is it the output of go test -json?")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return fmt.Errorf("%s lacks the marks %q and %q", file, begin, end)
	}
	table := render(rows, on, now)
	fmt.Print(table)
	return os.WriteFile(file, []byte(before+begin+"\n\n"+table+"\n"+end+after), 0o644)
}

// collect reads test events. Kinds are the last element of provider/KIND, or what a
// figure names.
func collect(in io.Reader) (map[string]*row, error) {
	rows := map[string]*row{}
	of := func(kind string) *row {
		if rows[kind] == nil {
			rows[kind] = &row{passed: map[string]bool{}, declared: map[string]bool{}, values: map[string]string{}}
		}
		return rows[kind]
	}
	said := map[[2]string]string{} // the output of every test; a line may come in pieces
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue // a message of the build
		}
		key := [2]string{e.Package, e.Test}
		switch e.Action {
		case "output":
			said[key] += e.Output
		case "pass", "fail", "skip":
			if e.Test == "" {
				continue
			}
			if m := check.FindStringSubmatch(e.Test); m != nil && path.Base(path.Dir(e.Package)) == "provider" {
				r := of(path.Base(e.Package))
				switch {
				case e.Action == "pass" && strings.Contains(said[key], "not applicable to this platform"):
					r.declared[m[1]] = true
				case e.Action == "pass":
					r.passed[m[1]] = true
				case e.Action == "fail":
					r.failed = append(r.failed, m[1])
				}
			}
			if e.Action == "pass" {
				for _, m := range figure.FindAllStringSubmatch(said[key], -1) {
					kind, what, value := m[1], m[2], strings.ReplaceAll(m[3], `\"`, `"`)
					r := of(kind)
					switch {
					case what != "fault-survived":
						r.values[what] = value
					case !slices.Contains(r.faults, value):
						r.faults = append(r.faults, value)
					}
				}
			}
			delete(said, key)
		}
	}
	delete(rows, "fake")
	delete(rows, "fault")
	delete(rows, "providertest")
	return rows, lines.Err()
}

func render(rows map[string]*row, on string, now time.Time) string {
	var b strings.Builder
	if on != "" {
		on = ", " + on
	}
	fmt.Fprintf(&b, "Measured on %s%s. Times are noisy where machines are shared.\n\n", now.UTC().Format("2006-01-02"), on)
	b.WriteString("| provider | conformance | create → agent connected, p50 | memory per idle runner | faults survived | chaos |\n|---|---|---|---|---|---|\n")
	kinds := slices.Sorted(maps.Keys(rows))
	for _, kind := range kinds {
		r := rows[kind]
		conformance := fmt.Sprintf("%d of %d", len(r.passed), len(r.passed)+len(r.failed))
		if len(r.declared) > 0 {
			conformance += fmt.Sprintf(", %d not applicable", len(r.declared))
		}
		if len(r.failed) > 0 {
			conformance += " – FAILED: " + strings.Join(r.failed, ", ")
		}
		fmt.Fprintf(&b, "| [%s](%[1]s.md) | %s | %s | %s | %d | %s |\n", kind, conformance,
			cmp.Or(r.values["create-to-connect-p50"], "–"), cmp.Or(r.values["memory-per-idle-runner"], "–"), len(r.faults), cmp.Or(r.values["chaos"], "–"))
	}
	b.WriteString("\n")
	for _, kind := range kinds {
		if f := rows[kind].faults; len(f) > 0 {
			fmt.Fprintf(&b, "- **%s** survives: %s.\n", kind, strings.Join(f, "; "))
		}
	}
	return b.String()
}

package replays

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/muster-ci/muster/internal/trace/detect"
)

const pageFile = "../../../../docs/detections.md"

// page writes docs/detections.md, or fails if it is not what it would write. Which rules
// beside the named ones fire may depend on the order of two processes, so only the named ones
// are in it.
func page(t *testing.T, rules *detect.Rules, incidents, builds []result) {
	t.Helper()
	var b bytes.Buffer
	fmt.Fprint(&b, head)
	fmt.Fprint(&b, "\n## Published incidents, played again\n\nEach is a script of a few lines under `internal/trace/detect/replays/testdata/incidents`.\n\n| incident | what the script does | caught by |\n| --- | --- | --- |\n")
	for _, i := range incidents {
		fmt.Fprintf(&b, "| %s (`%s`) | %s | %s |\n", i.play.Facts["incident"], i.play.Name, i.play.Facts["what"], code(i.play.rules()))
	}
	live := proofs(t, rules, incidents)
	fmt.Fprintf(&b, "\n%d of the %d rules are caught so, by the recorder in the kernel; under each rule below stands by which play.\nThe others have the tests beside them only, and the reason.\n", len(live), len(rules.List()))
	fmt.Fprint(&b, "\n## Ordinary builds, which raise nothing\n\n| build | what it does | findings |\n| --- | --- | --- |\n")
	for _, i := range builds {
		fmt.Fprintf(&b, "| `%s` | %s | %d |\n", i.play.Name, i.play.Facts["what"], len(i.rules))
	}
	fmt.Fprint(&b, "\n## The rules\n")
	for _, r := range rules.List() {
		describe(&b, r)
		if plays := live[r.Name]; len(plays) > 0 {
			fmt.Fprintf(&b, "\n*Proven:* live, by %s\n", code(plays))
		} else {
			fmt.Fprintf(&b, "\n*Proven:* by its tests only: %s\n", unplayed[r.Name])
		}
	}
	if *update {
		if err := os.WriteFile(pageFile, b.Bytes(), 0o644); err != nil { //nolint:gosec // a page of the manual
			t.Fatal(err)
		}
		return
	}
	was, err := os.ReadFile(pageFile)
	if err != nil || !bytes.Equal(was, b.Bytes()) {
		t.Errorf("docs/detections.md is not what the rules and the plays say now (%v): go test ./internal/trace/detect/replays -update", err)
	}
}

// unplayed are the rules that no play can be made for, and why.
var unplayed = map[string]string{
	"recorder-ended":   "a play has its recorder in its own test; the agent's tests end one while a job runs",
	"trace-cut":        "a play ends with its trace; a story of e2e kills the agent of a job and looks for this finding",
	"trace-limited":    "a play has no limits; the agent's tests reach each of them",
	"recorder-flooded": "nothing on the machine that runs the tests was fast enough: 103,000 events a second lost none",
	"kernel-module":    "no module is loaded into the kernel of the machine that runs the tests; that attempts are recorded was tried with kernels that have modules ([traces.md](traces.md#which-machine-records-what))",
}

// proofs are the plays that catch each rule. Every rule has one, or a reason.
func proofs(t *testing.T, rules *detect.Rules, incidents []result) map[string][]string {
	t.Helper()
	by := map[string][]string{}
	for _, i := range incidents {
		for _, rule := range i.play.rules() {
			by[rule] = append(by[rule], i.play.Name)
		}
	}
	for _, r := range rules.List() {
		if (len(by[r.Name]) > 0) == (unplayed[r.Name] != "") {
			t.Errorf("rule %s wants either a play that names it or a reason why there is none, and has %v and %q", r.Name, by[r.Name], unplayed[r.Name])
		}
	}
	return by
}

// The example of the page is a folder that loads, and its tests pass.
func TestPageExample(t *testing.T) {
	_, after, _ := strings.Cut(head, "```yaml\n")
	text, _, _ := strings.Cut(after, "```")
	rules, err := detect.Load(fstest.MapFS{"own.yaml": {Data: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range rules.Check() {
		t.Error(err)
	}
}

func code(words []string) string { return "`" + strings.Join(words, "`, `") + "`" }

func describe(b *bytes.Buffer, r detect.Rule) {
	fmt.Fprintf(b, "\n### %s\n\n**%s** · %s\n\n%s\n\n*What to do:* %s\n", r.Name, r.Severity, looksAt(r), strings.TrimSpace(r.Explanation), strings.TrimSpace(r.Remedy))
	if len(r.Except) > 0 {
		fmt.Fprint(b, "\n*Not if:*\n\n")
		for _, x := range r.Except {
			fmt.Fprintf(b, "- `%s`: %s\n", oneLine(x.When), x.Because)
		}
	}
	fmt.Fprintf(b, "\n*Seen in:* %s\n", strings.Join(r.References, "; "))
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func looksAt(r detect.Rule) string {
	if len(r.Sequence) == 0 {
		s := fmt.Sprintf("%s if `%s`", code(words(r.On)), oneLine(r.When))
		if r.Group != nil {
			s += fmt.Sprintf(", for at least %d different `%s` of one `%s` within %s", r.Group.Over, r.Group.Distinct, r.Group.By, r.Within)
		}
		return s
	}
	var parts []string
	for _, s := range r.Sequence {
		parts = append(parts, fmt.Sprintf("%s if `%s`", code(words(s.On)), oneLine(s.When)))
	}
	join := "; then "
	if r.AnyOrder {
		join = "; and "
	}
	return strings.Join(parts, join) + ", within " + r.Within.String()
}

func words[T ~string](of []T) []string {
	var out []string
	for _, w := range of {
		out = append(out, string(w))
	}
	return out
}

const head = `# Detections

<!-- Made by go test ./internal/trace/detect/replays -update: change the rules or the plays, not this page. -->

When a job's trace is sealed, the control plane runs rules over its events. What they find is a finding: on the job's
page, in the check run, in metrics, and in the webhook. A rule looks at single events, at events that follow each other in
one tree of processes or for one file, or at many of a kind. Its conditions are [CEL](https://cel.dev) over the fields of
[an event](traces.md) and what is known around it: the process's ancestors, the step, where a file came from, and what
earlier runs of the same job did. ` + "`muster rules list`" + ` shows every rule; ` + "`muster rules test`" + ` runs the tests beside them.

Severities: ` + "`critical`" + ` and ` + "`high`" + ` mean that secrets have to be replaced unless the finding is explained; ` + "`medium`" + ` and
` + "`low`" + ` are for a look; ` + "`info`" + ` is news.

## Rules of your own

A folder of YAML files, ` + "`traces.rules`" + ` in the configuration, is read beside the shipped ones; ` + "`muster config check`" + ` and
` + "`muster rules test DIR`" + ` check it. A rule of the same name replaces a shipped one, a set of the same name is joined to it, an
override changes the severity, adds a reason not to fire, or turns a rule off:

` + "```yaml" + `
sets:
  registries:
    hosts: [npm.corp.example.com, "*.artifacts.corp.example.com"]
overrides:
  - rule: own-address-lookup
    disabled: true
  - rule: raw-socket
    severity: low
    except:
      - when: program == "our-prober"
        because: it measures the network, says team-net
rules:
  - name: vault-from-outside
    title: "{program} asked Vault, below {parent_program}"
    severity: high
    on: [net_connect]
    when: hostname == "vault.corp.example.com" && program != "vault"
    explanation: Only Vault's own client speaks to it in our builds.
    remedy: Ask the owners of the build.
    tests:
      - name: a script asks
        events:
          - {type: process_exec, pid: 7, path: /usr/bin/curl, args: [curl, "https://vault.corp.example.com"]}
          - {type: net_connect, pid: 7, address: 10.0.0.9, port: 443, hostname: vault.corp.example.com}
        fires: 1
      - name: the client asks
        events:
          - {type: process_exec, pid: 7, path: /usr/bin/vault, args: [vault, read]}
          - {type: net_connect, pid: 7, address: 10.0.0.9, port: 443, hostname: vault.corp.example.com}
        fires: 0
` + "```" + `

` + "`process.is(SET)`" + ` asks about the process's program or command line, ` + "`process.under(SET)`" + ` about its ancestors,
` + "`TEXT.isIn(SET)`" + ` about a path, host or address, ` + "`marks.has(MARK, PATH)`" + ` about what became of a file earlier in the job.

## What these rules cannot see

They see what the [recorder](traces.md) does. A job that is root can blind it; that it tried is a finding. Names inside
TLS and HTTP are not seen beyond the server's name. Hashes of files are not recorded. Findings come from rules with exceptions, all of
which are below: who knows them can try to look like one of them, which [the baseline of the job](traces-reading.md#what-a-job-usually-does) is there for. A name that
a caller gives to ` + "`cat`" + ` or ` + "`python3`" + `, and the name of a copy that the job made in /tmp, excuse nobody.

These ways around were tried with the recorder, and no rule but the baseline's sees them:

* **Files under another name.** What is in a folder that was moved first, or that is mounted in a second place. A service or a hook that is a
  symbolic link to a file elsewhere. Hard links are seen.
* **A program that belongs there and reads anything.** ` + "`git hash-object ~/.aws/credentials`" + `; a script in a file of the repository that opens what
  SDKs open too, and a compiled program that does, until it connects somewhere or opens four of them. A hand-made copy of ` + "`cp`" + ` in
  the workspace that overwrites an object; a compiler that is told to; git that checks out into a cache.
* **Scripts that are read and not run.** ` + "`. file`" + `, ` + "`bash < file`" + ` and ` + "`eval \"$(curl …)\"`" + ` of what came from the net: the shell that does it
  began long before. ` + "`curl … | bash`" + ` is seen.
* **Downloads that are worked on.** A program that is fetched into the workspace and run there, as builds do; one that is copied after it was
  fetched, or comes through a pipe; one that a script in a file, or a copy of curl, fetches.
* **Shells that look like none.** A script in a file that connects and runs single commands; a shell that was there before the connection; an
  ` + "`sh -i`" + ` on a pipe beside ` + "`openssl s_client`" + `.
* **Sockets by another name.** A symbolic link to the container engine's socket; a script in a file that speaks to it, as tests with containers do.
* **Numbers of processes in a container.** ` + "`process_vm_readv`" + ` and ` + "`ptrace`" + ` name their target by the number that it has in the container: that
  another process was read is found, and not always that it was the runner's.
* **Noise.** A job that makes more events than are kept, or faster than they can be taken, hides the rest. That it did is a finding; what it
  hid is not known.
`

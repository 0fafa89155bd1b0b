package web

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/view"
)

// networkTab is who talked to whom.
type networkTab struct {
	Categories []categoryLink
	Verdicts   []typeLink
	Category   view.Category
	Host       string
	Verdict    string
	Step       *timelineRow // the step whose connections alone are shown, nil of all
	Graph      *graph
	Rows       []connectionRow
	Cut        int64 // connections that are not shown
	Queries    []queryRow
	CutQueries int64
	Picked     *hostFacts
	Filtered   bool
}

// categoryLink is one of the four categories.
type categoryLink struct {
	view.CategoryTotal
	Class   string
	Hint    string
	Link    string
	Current bool
}

// connectionRow is a set of like connections.
type connectionRow struct {
	view.Connection
	Place   clipped
	Class   string
	Address clipped
	Who     clipped
	WhoLink string
	StepOf  clipped
	Link    string
}

// queryRow is a set of like questions to DNS.
type queryRow struct {
	view.Query
	Name    clipped
	Answer  clipped
	StepOf  clipped
	WhoLink string
	Oddness string // why it deserves a look, "" if nothing about it does
}

// hostFacts is everything about one destination.
type hostFacts struct {
	view.Host
	Name, Addresses, Programs clipped
	Class                     string
}

// categoryClasses and hints belong to the four categories.
var categoryClasses = map[view.Category]string{view.External: "n-external", view.GitHub: "n-github", view.Registries: "n-registry", view.Runner: "n-runner"}

var categoryHints = map[view.Category]string{
	view.External: "everything that is none of the other three", view.GitHub: "GitHub's own services", view.Registries: "npm, PyPI, Go, Debian and the like",
	view.Runner: "the machine itself, its resolver and the control plane",
}

const (
	// graphHosts and graphPrograms are how many of each the drawing names.
	graphHosts    = 60
	graphPrograms = 32
	graphSteps    = 24
	maxConns      = 300
	maxQueries    = 200
)

func (s *site) traceNetwork(_ *http.Request, p *tracePage) (any, error) {
	n := p.Views.Network
	t := networkTab{Category: view.Category(text(p.params, "category")), Host: text(p.params, "host"), Verdict: text(p.params, "verdict"), Cut: n.HiddenConnections, CutQueries: n.HiddenQueries}
	step, rows := "", timelineOfSteps(p)
	switch i, err := stepOf(p.params, rows); {
	case err != nil:
		return nil, err
	case i >= 0:
		t.Step, step = &rows[i], strconv.Itoa(rows[i].Number)
	}
	t.Filtered = t.Category != "" || t.Host != "" || t.Verdict != "" || t.Step != nil
	for _, c := range n.Categories {
		k := categoryLink{CategoryTotal: c, Class: categoryClasses[c.Category], Hint: categoryHints[c.Category], Current: c.Category == t.Category, Link: p.With("network", "category", c.Category, "verdict", t.Verdict, "step", step)}
		if k.Current {
			k.Link = p.With("network", "verdict", t.Verdict, "step", step)
		}
		t.Categories = append(t.Categories, k)
	}
	if p.Egress != "" {
		for _, k := range []struct{ verdict, title string }{{"", "All"}, {trace.VerdictDenied, "Refused"}, {trace.VerdictWouldDeny, "Would be refused"}, {trace.VerdictAllowed, "Allowed"}} {
			t.Verdicts = append(t.Verdicts, typeLink{k.title, p.With("network", "category", t.Category, "verdict", k.verdict, "step", step), k.verdict == t.Verdict})
		}
	}
	keep := func(host string, category view.Category, verdict string, in int) bool {
		return (t.Step == nil || t.Step.Number == in) && (t.Category == "" || category == t.Category) && (t.Host == "" || host == t.Host) && (t.Verdict == "" || verdict == t.Verdict)
	}
	var conns []view.Connection
	for _, c := range n.Connections {
		if keep(c.Host, c.Category, c.Verdict, c.Step) {
			conns = append(conns, c)
		}
	}
	t.Graph = p.networkGraph(conns)
	slices.SortStableFunc(conns, func(a, b view.Connection) int {
		return cmp.Or(cmp.Compare(verdictRank(b.Verdict), verdictRank(a.Verdict)), a.First.Compare(b.First))
	})
	for _, c := range conns[:min(maxConns, len(conns))] {
		t.Rows = append(t.Rows, p.connection(c))
	}
	t.Cut += int64(len(conns) - len(t.Rows))
	for _, q := range n.Queries {
		if !keep(q.Hostname, q.Category, q.Verdict, q.Step) {
			continue
		}
		if len(t.Queries) == maxQueries {
			t.CutQueries++
			continue
		}
		t.Queries = append(t.Queries, queryRow{Query: q, Name: clip(90, q.Hostname), Answer: clip(60, strings.Join(q.Addresses, ", ")), StepOf: p.Step(q.Step), WhoLink: p.OfPID(q.PID), Oddness: odd(q)})
	}
	if i := slices.IndexFunc(n.Hosts, func(h view.Host) bool { return h.Host == t.Host }); i >= 0 {
		h := n.Hosts[i]
		t.Picked = &hostFacts{Host: h, Name: clip(maxShown, h.Host), Addresses: clip(400, strings.Join(h.Addresses, ", ")), Programs: clip(400, strings.Join(h.Programs, ", ")), Class: categoryClasses[h.Category]}
	}
	return t, nil
}

// verdictRank puts what was refused first.
func verdictRank(v string) int {
	return slices.Index([]string{"", trace.VerdictAllowed, trace.VerdictWouldDeny, trace.VerdictDenied}, v)
}

// odd says why a question to DNS is worth a look.
func odd(q view.Query) string {
	longest := 0
	for label := range strings.SplitSeq(q.Hostname, ".") {
		longest = max(longest, len(label))
	}
	switch {
	case longest > 40:
		return "a long label, as tunnels have"
	case q.Type == "TXT" || q.Type == "NULL":
		return "an unusual type"
	}
	return ""
}

func (p *tracePage) connection(c view.Connection) connectionRow {
	r := connectionRow{Connection: c, Place: clip(90, placeOf(c.Host, c.Port, c.Protocol)), Class: categoryClasses[c.Category], Who: clip(28, cmp.Or(c.Program, "?")), WhoLink: p.processLink(c.Process), StepOf: p.Step(c.Step)}
	if addresses := strings.Join(c.Addresses, ", "); addresses != c.Host {
		r.Address = clip(60, addresses)
	}
	r.Link = p.With("network", "host", c.Host)
	return r
}

// graphBuilder gathers the nodes and lines of the drawing.
type graphBuilder struct {
	g     graph
	nodes map[string]int
	lines map[[2]int]int
}

// node is the place of a node, which is added if it is not there.
func (b *graphBuilder) node(column int, key string, n graphNode) int {
	k := strconv.Itoa(column) + "\x00" + key
	if i, ok := b.nodes[k]; ok {
		return i
	}
	n.Key, n.Column = key, column
	b.g.Nodes = append(b.g.Nodes, n)
	b.nodes[k] = len(b.g.Nodes) - 1
	return len(b.g.Nodes) - 1
}

func (b *graphBuilder) join(from, to int, count int64, class string) {
	k := [2]int{from, to}
	i, ok := b.lines[k]
	if !ok {
		i = len(b.g.Lines)
		b.lines[k] = i
		b.g.Lines = append(b.g.Lines, graphLine{From: from, To: to})
	}
	l := &b.g.Lines[i]
	l.Count += count
	if class == "e-denied" || class == "e-would" && l.Class != "e-denied" || l.Class == "" {
		l.Class = class
	}
}

// names are the greatest of what is counted, as many as are named in the drawing; what
// was refused is among them whatever it weighs.
func names(weights map[string]int64, refused map[string]bool, most int) map[string]bool {
	all := make([]string, 0, len(weights))
	for k := range weights {
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b string) int {
		return cmp.Or(cmp.Compare(btoi(refused[b]), btoi(refused[a])), cmp.Compare(weights[b], weights[a]), cmp.Compare(a, b))
	})
	out := map[string]bool{}
	for _, k := range all[:min(most, len(all))] {
		out[k] = true
	}
	return out
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// networkGraph draws steps, their programs, and the hosts that these reached. What there
// is too much of stands together in one node of its category.
func (p *tracePage) networkGraph(conns []view.Connection) *graph {
	if len(conns) == 0 {
		return nil
	}
	hosts, programs, refused := map[string]int64{}, map[string]int64{}, map[string]bool{}
	steps := map[int]bool{}
	for _, c := range conns {
		n := max(c.Count, 1)
		hosts[c.Host] += n
		programs[c.Program] += n
		steps[c.Step] = true
		if c.Verdict == trace.VerdictDenied || c.Verdict == trace.VerdictWouldDeny {
			refused[c.Host], refused["program "+c.Program] = true, true
		}
	}
	shownHosts := names(hosts, refused, graphHosts)
	refusedPrograms := map[string]bool{}
	for k := range programs {
		refusedPrograms[k] = refused["program "+k]
	}
	shownPrograms := names(programs, refusedPrograms, graphPrograms)
	b := &graphBuilder{nodes: map[string]int{}, lines: map[[2]int]int{}}
	withSteps := len(steps) <= graphSteps
	ordered := slices.Clone(conns)
	slices.SortStableFunc(ordered, func(a, b view.Connection) int {
		return cmp.Or(cmp.Compare(slices.Index(view.Categories, a.Category), slices.Index(view.Categories, b.Category)), cmp.Compare(a.Step, b.Step))
	})
	if withSteps {
		for _, n := range slices.Sorted(maps.Keys(steps)) {
			p.graphStep(b, n)
		}
	}
	for _, c := range ordered {
		p.graphConnection(b, c, shownHosts[c.Host], shownPrograms[c.Program], withSteps)
	}
	p.graphTitles(b, hosts)
	columns := []graphColumn{{0, 230, "Step"}, {330, 190, "Program"}, {660, 340, "Destination"}}
	if !withSteps {
		columns = []graphColumn{{0, 0, ""}, {0, 230, "Program"}, {560, 440, "Destination"}}
	}
	b.g.lay(columns)
	b.g.Label = fmt.Sprintf("Which step's programs reached which destinations: %s, %s, %s", plural(len(steps), "step", "steps"), plural(len(programs), "program", "programs"), plural(len(hosts), "destination", "destinations"))
	return &b.g
}

func (p *tracePage) graphConnection(b *graphBuilder, c view.Connection, namedHost, namedProgram, withSteps bool) {
	class := "e-fine"
	switch c.Verdict {
	case trace.VerdictDenied:
		class = "e-denied"
	case trace.VerdictWouldDeny:
		class = "e-would"
	}
	n := max(c.Count, 1)
	programKey, programNode := "other", graphNode{Last: true, Label: clipped{Text: "other programs"}, Class: "n-program n-more"}
	if namedProgram {
		programKey, programNode = "p "+c.Program, graphNode{Label: clip(25, cmp.Or(c.Program, "?")), Class: "n-program", Link: p.With("execution", "q", c.Program)}
	}
	hostKey, hostNode := "more "+string(c.Category), graphNode{Last: true, Group: string(c.Category), Class: categoryClasses[c.Category] + " n-more", Link: p.With("network", "category", c.Category)}
	if namedHost {
		hostKey, hostNode = "h "+c.Host, graphNode{Group: string(c.Category), Label: clipPath(46, c.Host), Class: categoryClasses[c.Category], Link: p.With("network", "host", c.Host)}
	}
	program, host := b.node(1, programKey, programNode), b.node(2, hostKey, hostNode)
	b.g.Nodes[host].Weight += n
	b.g.Nodes[program].Weight += n
	b.join(program, host, n, class)
	if withSteps {
		step := p.graphStep(b, c.Step)
		b.g.Nodes[step].Weight += n
		b.join(step, program, n, class)
	}
}

// graphStep is the place of a step.
func (p *tracePage) graphStep(b *graphBuilder, n int) int {
	label := p.Step(n)
	return b.node(0, strconv.Itoa(n), graphNode{Fixed: true, Label: clip(31, label.Text), Title: label.Text, Class: "n-step", Link: p.With("timeline", "step", n, "type", trace.NetConnect)})
}

// graphTitles names what stands for many, and says of each node and line what it is.
func (p *tracePage) graphTitles(b *graphBuilder, hosts map[string]int64) {
	more := map[string]int{}
	for _, h := range p.Views.Network.Hosts {
		_, here := hosts[h.Host]
		if _, named := b.nodes["2\x00h "+h.Host]; here && !named {
			more["more "+string(h.Category)]++
		}
	}
	for i := range b.g.Nodes {
		n := &b.g.Nodes[i]
		if strings.HasPrefix(n.Key, "more ") {
			n.Label = clipped{Text: fmt.Sprintf("%s in %s", plural(max(more[n.Key], 1), "other", "others"), n.Group)}
		}
		n.Title = cmp.Or(n.Title, n.Label.Title, n.Label.Text) + ": " + plural(int(n.Weight), "connection", "connections")
		if n.Group != "" {
			n.Title += ", " + n.Group
		}
	}
	for i := range b.g.Lines {
		l := &b.g.Lines[i]
		l.Title = fmt.Sprintf("%s → %s: %s", b.g.Nodes[l.From].Label.Text, b.g.Nodes[l.To].Label.Text, plural(int(l.Count), "connection", "connections"))
		switch l.Class {
		case "e-denied":
			l.Title += ", some refused"
		case "e-would":
			l.Title += ", some would be refused"
		}
	}
}

// offset is how long after the job's start something was.
func (p *tracePage) offset(at time.Time) string {
	from, _ := jobSpan(p.Views)
	if at.IsZero() || from.IsZero() {
		return "–"
	}
	return "+" + formatTook(max(0, at.Sub(from)))
}

// Offset is offset for templates.
func (p *tracePage) Offset(at time.Time) string { return p.offset(at) }

package view

import (
	"cmp"
	"slices"

	"github.com/muster-ci/muster/internal/trace"
)

// Limits of the graph: what one can still look at.
const (
	maxGraphPrograms = 40
	maxGraphHosts    = 120
)

// graphOf is who reached whom. Sockets of the file system are no hosts.
func graphOf(connections []Connection) Graph {
	type pair struct{ program, host string }
	edges := make(map[pair]*Edge)
	programs, hosts := make(map[string]*Node), make(map[string]*Node)
	refused := make(map[string]bool)
	for _, c := range connections {
		if c.Protocol == "unix" {
			continue
		}
		weigh(programs, "program", c.Program, "", c.Count)
		weigh(hosts, "host", c.Host, c.Category, c.Count)
		e := edges[pair{c.Program, c.Host}]
		if e == nil {
			e = &Edge{}
			edges[pair{c.Program, c.Host}] = e
		}
		e.Weight += c.Count
		if c.Verdict == trace.VerdictDenied {
			e.Refused += c.Count
			refused[c.Program], refused[c.Host] = true, true
		}
	}
	var g Graph
	at := g.place(programs, refused, maxGraphPrograms)
	to := g.place(hosts, refused, maxGraphHosts)
	for k, e := range edges {
		from, ok := at[k.program]
		host, listed := to[k.host]
		if !ok || !listed {
			g.HiddenEdges++
			continue
		}
		e.From, e.To = from, host
		g.Edges = append(g.Edges, *e)
	}
	slices.SortFunc(g.Edges, func(a, b Edge) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To)) })
	return g
}

func weigh(nodes map[string]*Node, kind, name string, c Category, n int64) {
	if nodes[name] == nil {
		nodes[name] = &Node{Kind: kind, Name: name, Category: c}
	}
	nodes[name].Weight += n
}

// place adds the heaviest nodes and returns where each stands.
func (g *Graph) place(nodes map[string]*Node, refused map[string]bool, limit int) map[string]int {
	list := make([]Node, 0, len(nodes))
	for _, n := range nodes {
		list = append(list, *n)
	}
	slices.SortFunc(list, func(a, b Node) int {
		if refused[a.Name] != refused[b.Name] {
			if refused[a.Name] {
				return -1
			}
			return 1
		}
		return cmp.Or(compare(b.Weight, a.Weight), cmp.Compare(a.Name, b.Name))
	})
	at := make(map[string]int)
	for _, n := range list[:min(limit, len(list))] {
		at[n.Name] = len(g.Nodes)
		g.Nodes = append(g.Nodes, n)
	}
	return at
}

//go:build linux && (amd64 || arm64)

package bpf

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/muster-ci/muster/internal/trace"
)

// BenchmarkEgress measures what the network's programs cost a job, and what they cost its
// neighbours, against nothing attached. Each turn is one round of all; medians are over
// rounds, and of ratios within a round. CPU time is the sender's, which on a wire between
// two namespaces is nearly all there is; on a busy machine it is what can be trusted.
func BenchmarkEgress(b *testing.B) {
	const bytes, connects = 1 << 30, 5000
	l := newLab(b)
	var allow []string
	for i := range 5000 {
		allow = append(allow, fmt.Sprintf("198.18.%d.%d", i/250, i%250), fmt.Sprintf("host-%d.example", i))
	}
	allow = append(allow, freeAt)
	turn := func(open bool, policy *trace.Egress) (pour, storm took) {
		job := l.start()
		defer job.end()
		if open {
			r := openRecorder(b, l)
			defer r.Close()
			if policy != nil {
				w := watch(b, r, job, *policy)
				defer w.end()
			}
		}
		return heard(b, job.do("pour", freeAt+":9", strconv.Itoa(bytes))), heard(b, job.do("storm", freeAt+":443", strconv.Itoa(connects)))
	}
	kinds := []struct {
		name   string
		open   bool
		policy *trace.Egress
	}{
		{"nothing attached", false, nil},
		{"a neighbour of a job", true, nil},
		{"recorded, no policy", true, &trace.Egress{}},
		{"enforced, 10,001 entries", true, &trace.Egress{Mode: trace.EgressEnforce, Allow: allow}},
	}
	pours, storms := make([][]took, len(kinds)), make([][]took, len(kinds))
	for b.Loop() {
		for i, k := range kinds {
			p, s := turn(k.open, k.policy)
			pours[i], storms[i] = append(pours[i], p), append(storms[i], s)
		}
	}
	wall, cpu := func(t took) float64 { return t.wall }, func(t took) float64 { return t.cpu }
	for i, k := range kinds {
		b.Logf("%-24s  1 GiB: %5.2f GiB/s, wall %s, CPU %.2f s, %s", k.name, 1/median(each(pours[i], wall)), ratio(pours[i], pours[0], wall), median(each(pours[i], cpu)), ratio(pours[i], pours[0], cpu))
		b.Logf("%-24s  5,000: %5.0f per s, wall %s, CPU %.1f µs each, %s", "", connects/median(each(storms[i], wall)), ratio(storms[i], storms[0], wall), median(each(storms[i], cpu))/connects*1e6, ratio(storms[i], storms[0], cpu))
	}
}

// took is how many seconds something took.
type took struct{ wall, cpu float64 }

func heard(b *testing.B, said string) took {
	b.Helper()
	var wall, cpu float64
	if _, err := fmt.Sscanf(said, "ok %g %g", &wall, &cpu); err != nil {
		b.Fatal(said)
	}
	return took{wall / 1e6, cpu / 1e6}
}

func each(v []took, of func(took) float64) []float64 {
	var out []float64
	for _, t := range v {
		out = append(out, of(t))
	}
	return out
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func ratio(v, base []took, of func(took) float64) string {
	var r []float64
	for i := range v {
		r = append(r, of(v[i])/of(base[i]))
	}
	return fmt.Sprintf("× %.3f [%.2f..%.2f]", median(r), slices.Min(r), slices.Max(r))
}

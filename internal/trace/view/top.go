package view

import (
	"cmp"
	"iter"
	"slices"
)

func compare(a, b int64) int { return cmp.Compare(a, b) }

// greatest are the n with the greatest values above 0, the greatest first, and of equals the
// first by name.
func greatest(tops iter.Seq[*Top], n int, by func(*Top) int64) []Top {
	var out []Top
	for t := range tops {
		if by(t) > 0 {
			out = append(out, *t)
		}
	}
	slices.SortFunc(out, func(a, b Top) int {
		return cmp.Or(compare(by(&b), by(&a)), cmp.Compare(a.Name, b.Name))
	})
	return out[:min(n, len(out))]
}

// appendNew appends what is not yet in a short list, up to a limit.
func appendNew[T comparable](list []T, one T, limit int) []T {
	if len(list) >= limit || slices.Contains(list, one) {
		return list
	}
	return append(list, one)
}

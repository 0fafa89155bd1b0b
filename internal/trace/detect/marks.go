package detect

import "hash/maphash"

// maxMarks is how many paths of a kind are remembered.
const maxMarks = 1 << 19

// markCopied is the mark of programs that somebody copied, of all the one that more than
// rules look at.
const markCopied = "copied"

// marks remembers paths by hash: eight bytes and an origin for each.
type marks struct {
	seed  maphash.Seed
	stays map[string]bool              // which belong to paths and not to files
	paths map[string]map[uint64]string // mark → path → host it came from
}

func newMarks(stays map[string]bool) marks {
	return marks{maphash.MakeSeed(), stays, map[string]map[uint64]string{}}
}

func (m *marks) set(mark, path, origin string) {
	if path == "" {
		return
	}
	of := m.paths[mark]
	if of == nil {
		of = map[uint64]string{}
		m.paths[mark] = of
	}
	if len(of) < maxMarks {
		of[maphash.String(m.seed, path)] = origin
	}
}

func (m *marks) has(mark, path string) bool {
	of := m.paths[mark]
	if len(of) == 0 {
		return false
	}
	_, ok := of[maphash.String(m.seed, path)]
	return ok
}

func (m *marks) origin(mark, path string) string {
	of := m.paths[mark]
	if len(of) == 0 {
		return ""
	}
	return of[maphash.String(m.seed, path)]
}

// rename carries the marks of a file to its new name.
func (m *marks) rename(from, to string) {
	a, b := maphash.String(m.seed, from), maphash.String(m.seed, to)
	for name, of := range m.paths {
		if m.stays[name] {
			continue
		}
		origin, ok := of[a]
		if !ok {
			delete(of, b) // what was there is another file now
			continue
		}
		delete(of, a)
		of[b] = origin
	}
}

// link gives the marks of a file to its further name.
func (m *marks) link(from, to string) {
	a, b := maphash.String(m.seed, from), maphash.String(m.seed, to)
	for name, of := range m.paths {
		if origin, ok := of[a]; ok && !m.stays[name] {
			of[b] = origin
		}
	}
}

func (m *marks) remove(path string) {
	h := maphash.String(m.seed, path)
	for name, of := range m.paths {
		if !m.stays[name] {
			delete(of, h)
		}
	}
}

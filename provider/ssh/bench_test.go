package ssh

import "testing"

func BenchmarkCall(b *testing.B) {
	s := newSite(b, waitForEver)
	p, err := New(s.config("bench"))
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	h := p.hosts[0]
	if v := h.look(b.Context(), ""); v.err != nil {
		b.Fatal(v.err)
	}
	for b.Loop() {
		if v := h.look(b.Context(), ""); v.err != nil {
			b.Fatal(v.err)
		}
	}
}

func BenchmarkNothing(b *testing.B) {
	s := newSite(b, waitForEver)
	p, err := New(s.config("bench"))
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	h := p.hosts[0]
	for b.Loop() {
		if _, err := h.exec(b.Context(), "true", nil); err != nil {
			b.Fatal(err)
		}
	}
}

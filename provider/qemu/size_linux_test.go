package qemu

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/muster-ci/muster"
)

// S4-51: the offering's processors, rounded up, and its memory are what the job sees.
func TestSizesReachTheGuest(t *testing.T) {
	l := requireLab(t)
	api := newPlane(t)
	c := l.config(filepath.Join(l.dir, "sizes"))
	c.Warm = false
	p := open(t, c)
	spec := specFor("r-sized-one", api.URL)
	spec.Offering = muster.Offering{CPUs: 1.5, MemoryMiB: 224}
	create(t, p, spec)
	s := api.await(t, "r-sized-one", "is not listening", listening)
	if got := s.words("cpus"); got != "2" {
		t.Errorf("the machine has %s processors, want 2", got)
	}
	_, rest, _ := strings.Cut(s.words("memory"), ":")
	kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
	// The kernel keeps some of it for itself.
	if mib := kib / 1024; err != nil || mib > 224 || mib < 150 {
		t.Errorf("the machine has %d MiB, want 224 without what its kernel keeps: %v", mib, err)
	}
}

package slurmtest

import (
	"strings"
	"testing"
)

// A cluster comes up with its nodes and takes a job.
func TestStart(t *testing.T) {
	c := Start(t, Options{})
	if out := c.Must(t, "sinfo", "-h", "-o", "%P %D"); !strings.Contains(out, "ci* 2") {
		t.Errorf("sinfo: %s", out)
	}
	c.Must(t, "sbatch", "--wrap=true", "--wait", "--output=/dev/null")
	if q := c.Queue(t); len(q) != 0 {
		t.Errorf("left %v", q)
	}
}

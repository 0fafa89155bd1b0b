//go:build linux && (amd64 || arm64)

package bpf

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

var pageSize = os.Getpagesize()

const clockBoot = unix.CLOCK_BOOTTIME

// clock turns the kernel's time since boot into the wall clock's. The zero value is not
// set. It is the reader's own.
type clock struct {
	offset int64 // wall minus boot, ns
	set    bool
}

// settle follows the wall clock when it was put right by more than a millisecond;
// smaller steps would only make times jump.
func (c *clock) settle() {
	best, gap := int64(0), int64(1<<62)
	for range 3 {
		a, wall, b := nanoseconds(unix.CLOCK_BOOTTIME), nanoseconds(unix.CLOCK_REALTIME), nanoseconds(unix.CLOCK_BOOTTIME)
		if b-a < gap {
			best, gap = wall-(a+b)/2, b-a
		}
	}
	if off := best - c.offset; !c.set || off > int64(time.Millisecond) || off < -int64(time.Millisecond) {
		c.offset, c.set = best, true
	}
}

func (c *clock) at(boot uint64) time.Time {
	if !c.set {
		c.settle()
	}
	return time.Unix(0, int64(boot)+c.offset).UTC()
}

func nanoseconds(id int32) int64 {
	var t unix.Timespec
	if unix.ClockGettime(id, &t) != nil {
		return 0
	}
	return t.Nano()
}

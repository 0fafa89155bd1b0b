// Package recorder sees to it that the jobs of one machine share one recorder of traces. One
// for each would verify the same programs in the kernel again for every job, and run all of
// them at every call of the machine.
//
// The recorder is a process of its own, `muster-agent record`. It outlives the control plane,
// as agents do, and ends by itself when nothing was recorded for a while. This package starts
// it and names its socket; it never records, and never ends one. Providers whose instances share
// the kernel of the control plane's machine call it: provider/process and provider/container.
package recorder

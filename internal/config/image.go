package config

import "time"

// ImageOrder is what `muster image build` was told.
type ImageOrder struct {
	// Images is the directory of images, Name the new one's.
	Images, Name string
	// Kernel is a kernel package or the directory that it was unpacked to; "" fetches Debian's.
	Kernel string
	// Root is a directory or an archive with the root file system, Debian a release
	// that is installed instead, with Packages; neither makes a small one of BusyBox.
	Root, Debian string
	Packages     []string
	// Runner is GitHub's runner, unpacked or as an archive; Agent the muster-agent program.
	Runner, Agent string
	// DiskMiB is the size of the disk; 0 keeps the root file system in memory.
	DiskMiB int64
	// Version of this program.
	Version string
}

// ImageRecord is how an image stands.
type ImageRecord struct {
	Name     string    `json:"name"`
	State    string    `json:"state"` // queued, building, ready, failed
	Digest   string    `json:"digest,omitempty"`
	Kernel   string    `json:"kernel,omitempty"`
	Bytes    int64     `json:"bytes,omitempty"`
	QueuedAt time.Time `json:"queued_at"`
	EndedAt  time.Time `json:"ended_at,omitzero"`
	Error    string    `json:"error,omitempty"`
}

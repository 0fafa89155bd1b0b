package qemu

import "time"

// ImageState is how far an image has come (S4-50).
type ImageState string

// The states of an image.
const (
	ImageQueued   ImageState = "queued"   // another image is being built
	ImageBuilding ImageState = "building" // now
	ImageReady    ImageState = "ready"    // machines can be made of it
	ImageFailed   ImageState = "failed"   // Error says why
)

// Image is the record of an image, image.json in its directory. An image never
// changes: what is to be different gets another name, and a pool's canary tries it.
type Image struct {
	Name      string     `json:"name"`
	State     ImageState `json:"state"`
	Error     string     `json:"error,omitempty"`
	QueuedAt  time.Time  `json:"queued_at"`
	StartedAt time.Time  `json:"started_at,omitzero"`
	EndedAt   time.Time  `json:"ended_at,omitzero"`
	// Digest is of all parts together: two images with the same one are the same.
	Digest string               `json:"digest,omitempty"`
	Parts  map[string]ImagePart `json:"parts,omitempty"`
	// Kernel, Agent and Runner are the versions of what is in it, where they are known.
	Kernel string `json:"kernel,omitempty"`
	Agent  string `json:"agent,omitempty"`
	Runner string `json:"runner,omitempty"`

	dir string
}

// ImagePart is one file of an image.
type ImagePart struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// ImageOrder says how to make an image.
type ImageOrder struct {
	// Images is the directory of images, Name the new one's.
	Images string
	Name   string
	// Kernel is a Debian kernel package (.deb), or a directory that one was unpacked
	// to; "" fetches the one that linux-image-cloud-amd64 depends on with apt-get.
	Kernel string
	// Root is the root file system: a directory, or an archive that tar reads, an
	// exported container for example; "" makes a small one of BusyBox.
	Root string
	// Debian, instead of Root, is a release that mmdebstrap installs, with Packages.
	Debian   string
	Packages []string
	// Runner is GitHub's unpacked runner, or its archive.
	Runner string
	// Agent is the muster-agent program, linked statically.
	Agent string
	// DiskMiB is the size of the disk; 0 keeps the root file system in memory, which is
	// for small ones.
	DiskMiB int64
	// Version of the agent, for the record.
	Version string
}

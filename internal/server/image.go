package server

import (
	"context"
	"io"

	"github.com/muster-ci/muster/internal/config"
	"github.com/muster-ci/muster/provider/qemu"
)

// BuildImage makes an image of virtual machines (S4-50).
func BuildImage(ctx context.Context, o config.ImageOrder, progress io.Writer) (config.ImageRecord, error) {
	img, err := qemu.BuildImage(ctx, qemu.ImageOrder{
		Images: o.Images, Name: o.Name, Kernel: o.Kernel, Root: o.Root, Debian: o.Debian, Packages: o.Packages,
		Runner: o.Runner, Agent: o.Agent, DiskMiB: o.DiskMiB, Version: o.Version,
	}, progress)
	return imageRecord(img), err
}

// ListImages lists the images in a directory.
func ListImages(dir string) ([]config.ImageRecord, error) {
	images, err := qemu.Images(dir)
	out := make([]config.ImageRecord, 0, len(images))
	for _, img := range images {
		out = append(out, imageRecord(img))
	}
	return out, err
}

// VerifyImage compares an image's files with its record.
func VerifyImage(ctx context.Context, dir, name string) (config.ImageRecord, error) {
	img, err := qemu.VerifyImage(ctx, dir, name)
	return imageRecord(img), err
}

func imageRecord(img qemu.Image) config.ImageRecord {
	r := config.ImageRecord{Name: img.Name, State: string(img.State), Digest: img.Digest, Kernel: img.Kernel, QueuedAt: img.QueuedAt, EndedAt: img.EndedAt, Error: img.Error}
	for _, part := range img.Parts {
		r.Bytes += part.Size
	}
	return r
}

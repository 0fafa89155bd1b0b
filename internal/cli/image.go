package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-ci/muster/internal/config"
)

// ImagePrograms make and look at images of virtual machines.
type ImagePrograms struct {
	Build  func(ctx context.Context, order config.ImageOrder, progress io.Writer) (config.ImageRecord, error)
	List   func(dir string) ([]config.ImageRecord, error)
	Verify func(ctx context.Context, dir, name string) (config.ImageRecord, error)
}

func (a *app) imageCommand() *cobra.Command {
	return group("image", "Images for virtual machines (provider qemu)", a.imageBuild(), a.imageList(), a.imageVerify())
}

// imagesFlag adds --dir and returns it, absolute, after parsing.
func imagesFlag(c *cobra.Command) func() (string, error) {
	dir := c.Flags().String("dir", filepath.Join("data", "images"), "directory of images; a provider's setting images, by default images in the data directory")
	return func() (string, error) { return filepath.Abs(*dir) }
}

func (a *app) imageBuild() *cobra.Command {
	var o config.ImageOrder
	c := &cobra.Command{
		Use: "build NAME", Short: "Make an image with the agent and GitHub's runner", Args: cobra.ExactArgs(1),
		Long: `Make an image with the agent and GitHub's runner.

The root file system is a directory or an archive (an exported container, for
example), or a Debian release that mmdebstrap installs, or, without either, a
small one of BusyBox. The kernel is Debian's for virtual machines, fetched with
apt-get and not installed, unless --kernel names a package.

An image never changes: what is to be different gets another name. Let a pool's
canary try it.`,
		Example: `  muster image build debian-12 --runner actions-runner --debian bookworm --disk 8192
  docker export ci-tools | muster image build tools-7 --runner actions-runner.tar.gz --root /dev/stdin --disk 16384`,
	}
	dir := imagesFlag(c)
	c.Flags().StringVar(&o.Runner, "runner", "", "GitHub's runner: its unpacked directory or its archive (required)")
	c.Flags().StringVar(&o.Root, "root", "", "root file system: a directory or an archive")
	c.Flags().StringVar(&o.Debian, "debian", "", "install this Debian release as the root file system")
	c.Flags().StringSliceVar(&o.Packages, "package", nil, "further Debian packages")
	c.Flags().StringVar(&o.Kernel, "kernel", "", "kernel package (.deb), or a directory that one was unpacked to")
	c.Flags().StringVar(&o.Agent, "agent", "", "the muster-agent program (default: the one beside this program)")
	c.Flags().Int64Var(&o.DiskMiB, "disk", 0, "size of the disk in MiB; 0 keeps the root file system in memory")
	quiet := c.Flags().BoolP("quiet", "q", false, "do not show what the tools say")
	return a.local(c, func(cmd *cobra.Command, args []string) (err error) {
		o.Name, o.Version = args[0], a.Version
		if o.Images, err = dir(); err != nil {
			return err
		}
		if o.Agent == "" {
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			o.Agent = filepath.Join(filepath.Dir(exe), "muster-agent")
		}
		progress := a.Stderr
		if *quiet {
			progress = io.Discard
		}
		img, err := a.programs.Image.Build(cmd.Context(), o, progress)
		if err != nil {
			return fmt.Errorf("image %s: %w", o.Name, err)
		}
		_, err = fmt.Fprintf(a.Stdout, "image %s is %s: %s, kernel %s, %d MiB\n", img.Name, img.State, img.Digest, img.Kernel, img.Bytes>>20)
		return err
	})
}

func (a *app) imageList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "Show the images: queued, building, ready or failed"}
	dir := imagesFlag(c)
	asJSON := c.Flags().Bool("json", false, "print the records as JSON")
	return a.local(c, func(*cobra.Command, []string) error {
		path, err := dir()
		if err != nil {
			return err
		}
		images, err := a.programs.Image.List(path)
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(map[string]any{"images": images})
		}
		if len(images) == 0 {
			_, err := fmt.Fprintf(a.Stdout, "No images in %s. Make one with `muster image build`.\n", path)
			return err
		}
		w := tabwriter.NewWriter(a.Stdout, 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "NAME\tSTATE\tDIGEST\tKERNEL\tMIB\tAGE\tREMARK")
		for _, img := range images {
			digest := strings.TrimPrefix(img.Digest, "sha256:")
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", img.Name, img.State, digest[:min(len(digest), 12)], img.Kernel, img.Bytes>>20, a.Now().Sub(img.QueuedAt).Round(time.Second), oneLine(img.Error))
		}
		return w.Flush()
	})
}

func (a *app) imageVerify() *cobra.Command {
	c := &cobra.Command{
		Use: "verify NAME", Short: "Compute an image's checksums again", Args: cobra.ExactArgs(1),
		Long: "Compute an image's checksums again and compare them with its record. Exit status 1 if anything differs.",
	}
	dir := imagesFlag(c)
	return a.local(c, func(cmd *cobra.Command, args []string) error {
		path, err := dir()
		if err != nil {
			return err
		}
		img, err := a.programs.Image.Verify(cmd.Context(), path, args[0])
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.Stdout, "image %s is what its record says: %s\n", img.Name, img.Digest)
		return err
	})
}

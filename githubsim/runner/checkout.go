package runner

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/muster-ci/muster/githubsim/workflow/expr"
	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// Limits of a repository that is checked out.
const (
	maxRepositoryBytes = 1 << 30
	maxRepositoryFiles = 200_000
)

// checkout does what actions/checkout does for the job's own repository: it
// empties the place and fills it with the files of the job's commit. There is no
// .git folder. Inputs that ask for something else are named in the log.
func (j *job) checkout(ctx context.Context, s *message.Step, env map[string]string) string {
	with, err := j.evaluate(s.With, env)
	if err != nil {
		return j.fail("with: %v", err)
	}
	own := expr.Text(j.msg.Contexts.GitHub["repository"])
	j.line("##[group]Run %s", s.Uses)
	j.line("with:")
	j.line("  repository: %s", own)
	for k, v := range with {
		j.line("  %s: %s", k, v)
	}
	j.line("##[endgroup]")
	if other := with["repository"]; other != "" && !strings.EqualFold(other, own) {
		return j.fail("actions/checkout of another repository (%s) is not supported by the simulated runner", other)
	}
	for _, name := range []string{"ref", "submodules", "lfs", "sparse-checkout", "ssh-key"} {
		if v := with[name]; v != "" && v != "false" {
			j.line("##[warning]actions/checkout: input %s is not supported by the simulated runner, the job's own commit is checked out", name)
		}
	}
	if j.msg.Checkout == nil {
		return j.fail("the server offers no content of %s", own)
	}
	dir := filepath.Join(j.workspace, with["path"])
	if rel, err := filepath.Rel(j.workspace, dir); err != nil || !filepath.IsLocal(rel) {
		return j.fail("Repository path '%s' is not under '%s'", dir, j.workspace)
	}
	j.line("Syncing repository: %s", own)
	if with["clean"] != "false" {
		if err := empty(dir); err != nil {
			return j.fail("cannot empty %s: %v", dir, err)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-j.cancelled:
			cancel()
		case <-over:
		}
	}()
	n, err := j.fetch(ctx, dir)
	if err != nil {
		if j.reason() != notCancelled {
			j.line("##[error]The operation was canceled.")
			return message.Cancelled
		}
		return j.fail("checkout: %v", err)
	}
	j.line("Checked out %d files of %s", n, expr.Text(j.msg.Contexts.GitHub["sha"]))
	return message.Success
}

func (j *job) postCheckout(index int) {
	j.begin(index)
	j.line("Post job cleanup.")
	j.end(index, message.Success, telemetry{Action: "actions/checkout", Type: "node20", Stage: "Post"})
}

func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// fetch downloads the repository and unpacks it below dir.
func (j *job) fetch(ctx context.Context, dir string) (files int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.msg.Checkout.URL, nil)
	if err != nil {
		return 0, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+j.token)
	req.Header.Set("User-Agent", "GitHubActionsRunner-linux-x64/"+Version)
	resp, err := j.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("answer %d for the repository's content", resp.StatusCode)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	return unpack(resp.Body, root)
}

// unpack writes a tar.gz below root. The root refuses every name and every
// symbolic link that leads out of it.
func unpack(r io.Reader, root *os.Root) (files int, err error) {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return 0, fmt.Errorf("read archive: %w", err)
	}
	defer zip.Close()
	archive := tar.NewReader(zip)
	left := int64(maxRepositoryBytes)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return files, fmt.Errorf("read archive: %w", err)
		}
		name := path.Clean(h.Name)
		if !filepath.IsLocal(name) {
			return files, fmt.Errorf("archive holds the unsafe name %q", h.Name)
		}
		if files++; files > maxRepositoryFiles {
			return files, fmt.Errorf("archive holds more than %d files", maxRepositoryFiles)
		}
		if h.Typeflag == tar.TypeDir {
			if err := root.MkdirAll(name, 0o755); err != nil {
				return files, err
			}
			continue
		}
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return files, err
		}
		switch h.Typeflag {
		case tar.TypeReg:
			if left -= h.Size; left < 0 {
				return files, fmt.Errorf("archive holds more than %d bytes", int64(maxRepositoryBytes))
			}
			if err := writeFile(root, name, os.FileMode(h.Mode)&0o755|0o600, archive); err != nil {
				return files, err
			}
		case tar.TypeSymlink:
			if !filepath.IsLocal(path.Join(path.Dir(name), h.Linkname)) || path.IsAbs(h.Linkname) {
				return files, fmt.Errorf("archive holds the unsafe link %q", h.Name)
			}
			if err := root.Symlink(h.Linkname, name); err != nil {
				return files, err
			}
		default:
			return files, fmt.Errorf("archive holds %q of unsupported type %q", h.Name, h.Typeflag)
		}
	}
}

func writeFile(root *os.Root, name string, mode os.FileMode, from io.Reader) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

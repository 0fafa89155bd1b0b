package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	// The kinds of buckets that a URL may name.
	_ "gocloud.dev/blob/azureblob"
	_ "gocloud.dev/blob/fileblob"
	_ "gocloud.dev/blob/gcsblob"
	_ "gocloud.dev/blob/memblob"
	_ "gocloud.dev/blob/s3blob"

	"github.com/muster-ci/muster"
)

// Archive is a bucket of traces. It is safe for concurrent use, also by several
// processes that have the same bucket. Errors carry a muster.Code: invalid for names that
// cannot be, not_found, conflict, and unavailable for whatever the bucket's service says.
type Archive struct {
	bucket *blob.Bucket
	// folder writes to a file bucket, nil for others; under is the part of it that is ours.
	folder *folder
	under  string
}

// schemes are the buckets that Open knows, with what their URLs look like.
var schemes = map[string]string{
	"file": "file:///var/lib/muster/traces", "s3": "s3://BUCKET?region=REGION", "gs": "gs://BUCKET",
	"azblob": "azblob://CONTAINER", "mem": "mem://",
}

// CheckURL reports what is wrong with the URL of a bucket, without opening it. The error
// has CodeInvalid, and shows no more of the URL than its scheme.
func CheckURL(text string) error {
	_, err := parse(text)
	return err
}

func parse(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" {
		return nil, muster.Errorf(muster.CodeInvalid, "the bucket is not a URL; a folder is %s", schemes["file"])
	}
	example, ok := schemes[u.Scheme]
	switch {
	case !ok:
		return nil, muster.Errorf(muster.CodeInvalid, "there are no buckets of the kind %q; use file, s3, gs, azblob or mem", u.Scheme)
	case u.User != nil:
		return nil, muster.Errorf(muster.CodeInvalid, "the bucket's URL has a password in it; the service's own environment variables and files name credentials")
	case u.Scheme == "file" && (u.Host != "" || !strings.HasPrefix(u.Path, "/")):
		return nil, muster.Errorf(muster.CodeInvalid, "a folder is named in full, with three slashes: %s", example)
	case u.Scheme == "file" && !goodPrefix(u.Query().Get("prefix")):
		return nil, muster.Errorf(muster.CodeInvalid, "the prefix of a folder is a path below it, such as prefix=traces/")
	case u.Scheme != "file" && u.Scheme != "mem" && u.Host == "":
		return nil, muster.Errorf(muster.CodeInvalid, "the bucket has no name; write %s", example)
	}
	return u, nil
}

// goodPrefix reports whether a part of a folder is where gocloud.dev looks for it too.
func goodPrefix(p string) bool {
	return p == "" || fs.ValidPath(strings.TrimSuffix(p, "/")) && !strings.ContainsFunc(p, unicode.IsControl)
}

// Open opens the bucket at a URL: file:///DIR, s3://NAME, gs://NAME, azblob://NAME, or
// mem:// for one that is gone with the process. Parameters are those of gocloud.dev; a
// folder is made if it does not exist, for its owner alone, and files in it appear whole
// or not at all. What was written is still there after a crash of the machine: a folder's
// files are brought to its disk first, and the services promise it. prefix=TEXT/ keeps the
// archive in a part of a bucket.
func Open(ctx context.Context, text string) (*Archive, error) {
	u, err := parse(text)
	if err != nil {
		return nil, err
	}
	a := &Archive{}
	var mode fs.FileMode
	if u.Scheme == "file" {
		q := u.Query()
		for key, value := range map[string]string{"create_dir": "true", "no_tmp_dir": "true", "metadata": "skip", "dir_file_mode": "0700"} {
			if !q.Has(key) {
				q.Set(key, value)
			}
		}
		u.RawQuery = q.Encode()
		if mode, err = dirMode(q.Get("dir_file_mode")); err != nil {
			return nil, err
		}
		a.under = q.Get("prefix")
	}
	if a.bucket, err = blob.OpenBucket(ctx, u.String()); err != nil {
		return nil, fmt.Errorf("open the %s bucket of traces: %w", u.Scheme, err)
	}
	if u.Scheme == "file" {
		a.folder = newFolder(filepath.FromSlash(u.Path), mode, (*os.File).Sync)
	}
	return a, nil
}

// Check reports whether the bucket can be reached.
func (a *Archive) Check(ctx context.Context) error {
	ok, err := a.bucket.IsAccessible(ctx)
	if err != nil {
		return failed("reach the bucket of traces", err)
	}
	if !ok {
		return muster.Errorf(muster.CodeUnavailable, "the bucket of traces does not exist or may not be used")
	}
	return nil
}

// Close lets go of the bucket. Nothing may be read from it afterwards.
func (a *Archive) Close() error { return a.bucket.Close() }

// workspaceName is what a part of a key may be made of: no slash, and no name that begins
// with a dot.
var workspaceName = regexp.MustCompile(`\A[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}\z`)

// prefix is the beginning of all keys of a trace, with the final slash.
func prefix(ws string, id muster.TraceID) (string, error) {
	if !workspaceName.MatchString(ws) {
		return "", muster.Errorf(muster.CodeInvalid, "%q is no workspace's name", ws)
	}
	if !id.Runner.Valid() || id.Number < 1 {
		return "", muster.Errorf(muster.CodeInvalid, "%q is no trace's id", id)
	}
	return ws + "/" + string(id.Runner) + "/" + strconv.Itoa(id.Number) + "/", nil
}

var objectName = regexp.MustCompile(`\A[a-z0-9][a-z0-9._-]{0,63}\z`)

// object is the key of something derived.
func object(ws string, id muster.TraceID, name string) (string, error) {
	p, err := prefix(ws, id)
	if err == nil && !objectName.MatchString(name) {
		err = muster.Errorf(muster.CodeInvalid, "%q is no name of an object", name)
	}
	return p + name, err
}

// Put keeps something derived from a trace under a name, in the place of what was there.
// Readers see the old object or the new one. Nothing is written if from fails.
func (a *Archive) Put(ctx context.Context, ws string, id muster.TraceID, name string, from io.Reader) error {
	key, err := object(ws, id, name)
	if err != nil {
		return err
	}
	return failed("write "+name, a.put(ctx, key, from, false))
}

// Get opens something derived. CodeNotFound if there is none of that name.
func (a *Archive) Get(ctx context.Context, ws string, id muster.TraceID, name string) (io.ReadCloser, error) {
	key, err := object(ws, id, name)
	if err != nil {
		return nil, err
	}
	r, err := a.bucket.NewReader(ctx, key, nil)
	if err != nil {
		return nil, failed("read "+name, err)
	}
	return r, nil
}

// Delete deletes a trace with all that was derived from it. Deleting what is not there is
// no error. One that fails may be repeated.
func (a *Archive) Delete(ctx context.Context, ws string, id muster.TraceID) error {
	p, err := prefix(ws, id)
	if err != nil {
		return err
	}
	// Segments go last and the last of them first: what is left of a deletion that broke
	// off is still the beginning of a trace.
	var keys []string
	for o, err := range a.list(ctx, p) {
		if err != nil {
			return err
		}
		keys = append(keys, o.Key)
	}
	slices.SortFunc(keys, func(x, y string) int { return -strings.Compare(x, y) })
	for _, segments := range []bool{false, true} {
		for _, key := range keys {
			if strings.HasPrefix(key, p+segmentsDir) != segments {
				continue
			}
			if err := a.bucket.Delete(ctx, key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
				return failed("delete "+key, err)
			}
		}
	}
	a.removeEmpty(p)
	return nil
}

// removeEmpty removes the directories that a trace leaves behind in a folder.
func (a *Archive) removeEmpty(p string) {
	if a.folder == nil {
		return
	}
	_ = os.Remove(a.folder.path(a.under + p + segmentsDir)) // there may be none, or another runner's
	for dir := strings.TrimSuffix(p, "/"); dir != "."; dir = path.Dir(dir) {
		if os.Remove(a.folder.path(a.under+dir)) != nil {
			return
		}
	}
}

// Traces lists the traces of a workspace that have any object, in order of their runners'
// ids; whoever deletes what the books do not know starts here.
func (a *Archive) Traces(ctx context.Context, ws string) iter.Seq2[muster.TraceID, error] {
	return func(yield func(muster.TraceID, error) bool) {
		if !workspaceName.MatchString(ws) {
			yield(muster.TraceID{}, muster.Errorf(muster.CodeInvalid, "%q is no workspace's name", ws))
			return
		}
		for runner, err := range a.folders(ctx, ws+"/") {
			if err != nil {
				yield(muster.TraceID{}, err)
				return
			}
			for number, err := range a.folders(ctx, ws+"/"+runner+"/") {
				if err != nil {
					yield(muster.TraceID{}, err)
					return
				}
				n, err := strconv.Atoi(number)
				id := muster.TraceID{Runner: muster.RunnerID(runner), Number: n}
				if _, bad := prefix(ws, id); err != nil || bad != nil {
					continue // somebody else's
				}
				if !yield(id, nil) {
					return
				}
			}
		}
	}
}

// Written is when the newest object of a trace was written; CodeNotFound if it has none.
func (a *Archive) Written(ctx context.Context, ws string, id muster.TraceID) (time.Time, error) {
	p, err := prefix(ws, id)
	if err != nil {
		return time.Time{}, err
	}
	var newest time.Time
	for o, err := range a.list(ctx, p) {
		if err != nil {
			return time.Time{}, err
		}
		if o.ModTime.After(newest) {
			newest = o.ModTime
		}
	}
	if newest.IsZero() {
		return newest, muster.Errorf(muster.CodeNotFound, "the archive has nothing of trace %s", id)
	}
	return newest, nil
}

// folders yields the names right below a prefix that have more below them.
func (a *Archive) folders(ctx context.Context, under string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		it := a.bucket.List(&blob.ListOptions{Prefix: under, Delimiter: "/"})
		for {
			o, err := it.Next(ctx)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield("", failed("list "+under, err))
				return
			}
			if o.IsDir && !yield(strings.TrimSuffix(strings.TrimPrefix(o.Key, under), "/"), nil) {
				return
			}
		}
	}
}

// list yields all objects below a prefix, in order of their keys. Half-written files of a
// process that died are none: they lie beside, under names that no object has.
func (a *Archive) list(ctx context.Context, under string) iter.Seq2[*blob.ListObject, error] {
	return func(yield func(*blob.ListObject, error) bool) {
		it := a.bucket.List(&blob.ListOptions{Prefix: under})
		for {
			o, err := it.Next(ctx)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, failed("list "+under, err))
				return
			}
			if !yield(o, nil) {
				return
			}
		}
	}
}

// retryAfter is how long to leave a bucket alone that did not answer.
const retryAfter = 5 * time.Second

// failed puts an error of the bucket into a class. nil stays nil.
func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", what, err)
	}
	if gcerrors.Code(err) == gcerrors.NotFound {
		return &muster.Error{Code: muster.CodeNotFound, Message: "the archive does not have it: " + what, Err: err}
	}
	return &muster.Error{Code: muster.CodeUnavailable, Message: "the archive of traces does not take orders: " + what, RetryAfter: retryAfter, Err: err}
}

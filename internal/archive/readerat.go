package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"gocloud.dev/blob"

	"github.com/muster-ci/muster"
)

// ReaderAt opens something derived for reading in any order, and returns its size too. It
// may be used by several goroutines until the Closer is closed; ctx is that of all its
// reads. CodeNotFound if there is none of that name.
func (a *Archive) ReaderAt(ctx context.Context, ws string, id muster.TraceID, name string) (io.ReaderAt, int64, io.Closer, error) {
	key, err := object(ws, id, name)
	if err != nil {
		return nil, 0, nil, err
	}
	if a.folder != nil {
		return a.fileAt(ctx, key, name)
	}
	attrs, err := a.bucket.Attributes(ctx, key)
	if err != nil {
		return nil, 0, nil, failed("look at "+name, err)
	}
	b := &blocks{bucket: a.bucket, ctx: ctx, key: key, size: attrs.Size, kept: map[int64]*block{}}
	return b, b.size, b, nil
}

// fileAt reads the file itself.
func (a *Archive) fileAt(ctx context.Context, key, name string) (io.ReaderAt, int64, io.Closer, error) {
	var f *os.File
	r, err := a.bucket.NewReader(ctx, key, &blob.ReaderOptions{BeforeRead: func(as func(any) bool) error {
		if !as(&f) {
			return errors.New("the bucket is no folder")
		}
		return nil
	}})
	if err != nil {
		return nil, 0, nil, failed("read "+name, err)
	}
	return f, r.Size(), r, nil // closing r closes f
}

const (
	// blockSize is how much is fetched at once. Reads of an index are mostly smaller and
	// close together.
	blockSize = 1 << 20
	// keptBlocks is how many blocks an open object keeps.
	keptBlocks = 16
)

// blocks reads an object far away in whole blocks and keeps the last ones.
type blocks struct {
	bucket *blob.Bucket
	ctx    context.Context //nolint:containedctx // io.ReaderAt takes none; it is that of the call that opened it
	key    string
	size   int64

	mu    sync.Mutex
	kept  map[int64]*block
	clock int64
}

type block struct {
	once sync.Once
	data []byte
	err  error
	used int64
}

// ReadAt implements io.ReaderAt.
func (b *blocks) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	for n < len(p) {
		if off >= b.size {
			return n, io.EOF
		}
		data, err := b.block(off / blockSize)
		if err != nil {
			return n, err
		}
		at := off % blockSize
		if at >= int64(len(data)) {
			return n, io.ErrUnexpectedEOF // it became shorter since it was opened
		}
		m := copy(p[n:], data[at:])
		n, off = n+m, off+int64(m)
	}
	return n, nil
}

func (b *blocks) block(i int64) ([]byte, error) {
	b.mu.Lock()
	k, ok := b.kept[i]
	if !ok {
		k = &block{}
		b.kept[i] = k
		b.forget()
	}
	b.clock++
	k.used = b.clock
	b.mu.Unlock()
	k.once.Do(func() { k.data, k.err = b.fetch(i) })
	if k.err != nil {
		b.mu.Lock()
		if b.kept[i] == k {
			delete(b.kept, i) // the next read may fare better
		}
		b.mu.Unlock()
	}
	return k.data, k.err
}

// forget drops the block that was not used for longest, if there are too many.
func (b *blocks) forget() {
	if len(b.kept) <= keptBlocks {
		return
	}
	oldest, at := int64(-1), b.clock+1
	for i, k := range b.kept {
		if k.used > 0 && k.used < at {
			oldest, at = i, k.used
		}
	}
	delete(b.kept, oldest)
}

func (b *blocks) fetch(i int64) (data []byte, err error) {
	off := i * blockSize
	r, err := b.bucket.NewRangeReader(b.ctx, b.key, off, min(blockSize, b.size-off), nil)
	if err != nil {
		return nil, failed("read a part of an object", err)
	}
	defer func() {
		if e := r.Close(); err == nil {
			err = failed("read a part of an object", e)
		}
	}()
	data, err = io.ReadAll(r)
	return data, failed("read a part of an object", err)
}

// Close implements io.Closer.
func (b *blocks) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept = map[int64]*block{}
	return nil
}

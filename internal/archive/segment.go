package archive

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strconv"
	"strings"
	"sync"

	"gocloud.dev/gcerrors"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
)

const (
	segmentsDir = "segments/"
	segmentEnd  = ".zst"
)

// segmentKey is where a segment lies. Eight digits keep the order of keys the order of
// segments.
func segmentKey(ws string, id muster.TraceID, seq int) (string, error) {
	p, err := prefix(ws, id)
	if err == nil && (seq < 1 || seq > 99_999_999) {
		err = muster.Errorf(muster.CodeInvalid, "no segment has the number %d", seq)
	}
	return fmt.Sprintf("%s%s%08d%s", p, segmentsDir, seq, segmentEnd), err
}

// The skippable frame of Zstandard: a magic number, the length of what follows, both
// 32 bits little endian, and what decoders pass over.
const (
	skippable   = 0x184D2A50
	frameHeader = 8
)

// pack is a segment as it lies in the bucket.
func pack(s trace.Segment) ([]byte, error) {
	head := s
	head.Data = nil
	text, err := json.Marshal(head)
	if err != nil {
		return nil, fmt.Errorf("encode the head of segment %d: %w", s.Seq, err)
	}
	b := make([]byte, 0, frameHeader+len(text)+len(s.Data))
	b = binary.LittleEndian.AppendUint32(b, skippable)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(text)))
	b = append(b, text...)
	return append(b, s.Data...), nil
}

// unpack is the inverse of pack. The error matches trace.ErrBroken.
func unpack(b []byte) (s trace.Segment, err error) {
	if len(b) < frameHeader || binary.LittleEndian.Uint32(b) != skippable {
		return s, fmt.Errorf("%w: a segment has no head", trace.ErrBroken)
	}
	n := int64(binary.LittleEndian.Uint32(b[4:]))
	rest := b[frameHeader:]
	if n > int64(len(rest)) {
		return s, fmt.Errorf("%w: a segment is cut off in its head", trace.ErrBroken)
	}
	if err := json.Unmarshal(rest[:n], &s); err != nil {
		return s, fmt.Errorf("%w: the head of a segment cannot be read: %w", trace.ErrBroken, err)
	}
	s.Data = rest[n:]
	return s, nil
}

// PutSegment keeps a segment; when it returns nil, it outlives a crash of the machine. The
// same segment may be put again; CodeConflict if there is another of its number. The chain
// is whoever calls this to follow.
func (a *Archive) PutSegment(ctx context.Context, ws string, id muster.TraceID, s trace.Segment) error {
	key, err := segmentKey(ws, id, s.Seq)
	if err != nil {
		return err
	}
	packed, err := pack(s)
	if err != nil {
		return err
	}
	err = a.put(ctx, key, bytes.NewReader(packed), true)
	if gcerrors.Code(err) != gcerrors.FailedPrecondition && !errors.Is(err, fs.ErrExist) {
		return failed(fmt.Sprintf("write segment %d", s.Seq), err)
	}
	old, err := a.bucket.ReadAll(ctx, key)
	if err != nil {
		return failed(fmt.Sprintf("read segment %d", s.Seq), err)
	}
	if !bytes.Equal(old, packed) {
		return muster.Errorf(muster.CodeConflict, "trace %s has another segment %d", id, s.Seq)
	}
	if a.folder != nil {
		return failed(fmt.Sprintf("write segment %d", s.Seq), a.folder.settle(a.under+key))
	}
	return nil
}

// Segment reads one segment. It is not checked against the chain, for that needs all that
// came before it. CodeNotFound if it is not there; an object that is none matches
// trace.ErrBroken.
func (a *Archive) Segment(ctx context.Context, ws string, id muster.TraceID, seq int) (trace.Segment, error) {
	key, err := segmentKey(ws, id, seq)
	if err != nil {
		return trace.Segment{}, err
	}
	b, err := a.bucket.ReadAll(ctx, key)
	if err != nil {
		return trace.Segment{}, failed(fmt.Sprintf("read segment %d", seq), err)
	}
	return unpack(b)
}

// Has returns the numbers of the segments that are there, in order, and their bytes
// altogether.
func (a *Archive) Has(ctx context.Context, ws string, id muster.TraceID) (seqs []int, size int64, err error) {
	p, err := prefix(ws, id)
	if err != nil {
		return nil, 0, err
	}
	for o, err := range a.list(ctx, p+segmentsDir) {
		if err != nil {
			return nil, 0, err
		}
		name, ok := strings.CutSuffix(strings.TrimPrefix(o.Key, p+segmentsDir), segmentEnd)
		seq, err := strconv.Atoi(name)
		if !ok || err != nil {
			continue // half of a file
		}
		seqs, size = append(seqs, seq), size+o.Size
	}
	return seqs, size, nil
}

// readAhead is how many segments are fetched while one is looked at: a bucket far away
// answers in tens of milliseconds.
const readAhead = 8

// Segments reads the segments that are there, in order. The first that the chain does not
// lead to ends it with an error that matches trace.ErrBroken; what came before it is good.
// A trace without segments yields nothing.
func (a *Archive) Segments(ctx context.Context, ws string, id muster.TraceID) iter.Seq2[trace.Segment, error] {
	return func(yield func(trace.Segment, error) bool) {
		seqs, _, err := a.Has(ctx, ws, id)
		if err != nil {
			yield(trace.Segment{}, err)
			return
		}
		var chain trace.Chain
		for f := range a.fetch(ctx, ws, id, seqs) {
			s, err := f.segment, f.err
			if err == nil && s.Seq != f.seq {
				err = fmt.Errorf("%w: segment %d lies in the place of segment %d", trace.ErrBroken, s.Seq, f.seq)
			}
			if err == nil {
				err = chain.Add(s.Seq, s.Link, s.Data)
			}
			if err != nil {
				yield(trace.Segment{}, fmt.Errorf("trace %s: %w", id, err))
				return
			}
			if !yield(s, nil) {
				return
			}
		}
	}
}

type fetched struct {
	seq     int
	segment trace.Segment
	err     error
}

// fetch yields segments in the order of seqs, reading ahead. Nothing of it runs any more
// once it returns.
func (a *Archive) fetch(ctx context.Context, ws string, id muster.TraceID, seqs []int) iter.Seq[fetched] {
	return func(yield func(fetched) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		results := make([]chan fetched, 0, readAhead)
		for next := 0; ; {
			for ; next < len(seqs) && len(results) < readAhead; next++ {
				seq, c := seqs[next], make(chan fetched, 1)
				results = append(results, c)
				wg.Go(func() {
					s, err := a.Segment(ctx, ws, id, seq)
					c <- fetched{seq, s, err}
				})
			}
			if len(results) == 0 {
				return
			}
			f := <-results[0]
			results = results[1:]
			if !yield(f) {
				return
			}
		}
	}
}

// Events reads the events of a trace, of all segments that are there, in order. An error
// comes once and last; it matches trace.ErrBroken if the trace was changed, and what was
// yielded before it is good.
func (a *Archive) Events(ctx context.Context, ws string, id muster.TraceID) iter.Seq2[trace.Event, error] {
	return func(yield func(trace.Event, error) bool) {
		for s, err := range a.Segments(ctx, ws, id) {
			var text []byte
			if err == nil {
				text, err = open(s)
			}
			if err != nil {
				yield(trace.Event{}, err)
				return
			}
			for e, err := range trace.Events(bytes.NewReader(text)) {
				if err != nil {
					err = fmt.Errorf("segment %d: %w", s.Seq, err)
				}
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
}

// Raw writes the JSON Lines of a trace as the agent made them. The error matches
// trace.ErrBroken if the trace was changed; what was written before it is good.
func (a *Archive) Raw(ctx context.Context, ws string, id muster.TraceID, w io.Writer) error {
	for s, err := range a.Segments(ctx, ws, id) {
		if err != nil {
			return err
		}
		text, err := open(s)
		if err != nil {
			return err
		}
		if _, err := w.Write(text); err != nil {
			return fmt.Errorf("write the lines of trace %s: %w", id, err)
		}
	}
	return nil
}

// open is the text of a segment.
func open(s trace.Segment) ([]byte, error) {
	text, err := trace.Unpack(s.Data)
	if err != nil {
		return nil, fmt.Errorf("segment %d: %w", s.Seq, err)
	}
	return text, nil
}

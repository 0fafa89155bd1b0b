package trace

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/klauspost/compress/zstd"
)

// AppendEvent appends the event's line, with its newline.
func AppendEvent(b []byte, e Event) ([]byte, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return b, fmt.Errorf("encode %s: %w", e.Type, err)
	}
	return append(append(b, text...), '\n'), nil
}

// maxLine is the longest line that is read, in bytes: arguments are at most 4 KiB and
// paths too, and JSON may need six bytes for one.
const maxLine = 1 << 20

// Events reads JSON Lines. It yields an error once, and last.
func Events(r io.Reader) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		lines := bufio.NewScanner(r)
		lines.Buffer(make([]byte, 64<<10), maxLine)
		for n := 1; lines.Scan(); n++ {
			if len(bytes.TrimSpace(lines.Bytes())) == 0 {
				continue
			}
			var e Event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				yield(Event{}, fmt.Errorf("line %d of the trace: %w", n, err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(Event{}, fmt.Errorf("read trace: %w", err))
		}
	}
}

// maxSegment is the most that a segment may hold once it is unpacked: a hostile one
// must not fill the memory of whoever reads it.
const maxSegment = 64 << 20

// ErrTooLarge is a segment that unpacks to more than any agent makes.
var ErrTooLarge = errors.New("the segment is larger than any that an agent makes")

// Unpack returns the lines of a segment.
func Unpack(data []byte) ([]byte, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxSegment))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	text, err := d.DecodeAll(data, nil)
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return nil, ErrTooLarge
	}
	if err != nil {
		return nil, fmt.Errorf("unpack segment: %w", err)
	}
	return text, nil
}

// Packer packs lines into segments. The zero value is not usable; it is not safe for
// concurrent use.
type Packer struct{ enc *zstd.Encoder }

// NewPacker returns a packer.
func NewPacker() (*Packer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, err
	}
	return &Packer{enc}, nil
}

// Pack returns one zstd frame with the lines.
func (p *Packer) Pack(lines []byte) []byte { return p.enc.EncodeAll(lines, nil) }

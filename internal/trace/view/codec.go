package view

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// ErrVersion is a text of Views that another version of Muster made: make them again
// from the events.
var ErrVersion = errors.New("the views were made by another version")

// encoders are used again: a new one takes 1.3 MiB, however little it writes.
var encoders sync.Pool // of *zstd.Encoder

// Encode writes views as JSON in one zstd frame.
func Encode(w io.Writer, v *Views) error {
	z, ok := encoders.Get().(*zstd.Encoder)
	if !ok {
		var err error
		if z, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1)); err != nil {
			return err
		}
	}
	z.Reset(w)
	defer func() {
		z.Reset(nil) // or else w would be kept
		encoders.Put(z)
	}()
	if err := json.NewEncoder(z).Encode(v); err != nil {
		_ = z.Close() // the first error is the one to tell
		return fmt.Errorf("encode views: %w", err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("pack views: %w", err)
	}
	return nil
}

// maxText is the most JSON that is read, in bytes: several times what Build makes.
const maxText = 256 << 20

// Decode reads what Encode wrote. The error matches ErrVersion if Version differs.
func Decode(r io.Reader) (*Views, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxText))
	if err != nil {
		return nil, fmt.Errorf("unpack views: %w", err)
	}
	defer z.Close()
	v := new(Views)
	if err := json.NewDecoder(io.LimitReader(z, maxText)).Decode(v); err != nil {
		return nil, fmt.Errorf("decode views: %w", err)
	}
	if v.Version != Version {
		return nil, fmt.Errorf("%w: %d, and this is %d", ErrVersion, v.Version, Version)
	}
	return v, nil
}

package store

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// packers are kept because making one costs more than packing a small snapshot.
var packers = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is a valid one
	return w
}}

// pack is a document, compressed: a snapshot of fifty thousand jobs is megabytes
// of text that repeats itself.
func pack(v any) ([]byte, error) {
	var out bytes.Buffer
	w := packers.Get().(*gzip.Writer)
	defer packers.Put(w)
	w.Reset(&out)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress %T: %w", v, err)
	}
	return out.Bytes(), nil
}

// unpack is the inverse of pack.
func unpack[T any](packed []byte) (v T, err error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return v, fmt.Errorf("decompress %T: %w", v, err)
	}
	text, err := io.ReadAll(r)
	if err == nil {
		err = r.Close()
	}
	if err != nil {
		return v, fmt.Errorf("decompress %T: %w", v, err)
	}
	return decode[T](string(text))
}

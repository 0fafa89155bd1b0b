package trace

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Segment is a part of a trace on its way and in the archive. Seq counts from 1.
type Segment struct {
	Seq    int       `json:"seq"`
	Events int       `json:"events"`
	First  time.Time `json:"first"` // timestamps of its first and last event
	Last   time.Time `json:"last"`
	// Link is the hash that this segment adds to the chain.
	Link Link   `json:"link"`
	Data []byte `json:"data"` // one zstd frame of JSON Lines
}

// Link is a hash in the chain, 64 hexadecimal digits; "" stands before the first segment.
type Link string

// Next returns the link of a segment after l: SHA-256 over the bytes of l, the number
// of the segment as 8 bytes big endian, and the SHA-256 of its data.
func (l Link) Next(seq int, data []byte) Link {
	h := sha256.New()
	prev, _ := hex.DecodeString(string(l)) // Valid is whoever reads it from outside's to ask
	h.Write(prev)
	_ = binary.Write(h, binary.BigEndian, uint64(seq)) // a hash takes everything
	sum := sha256.Sum256(data)
	h.Write(sum[:])
	return Link(hex.EncodeToString(h.Sum(nil)))
}

// Valid reports whether l is a link: 64 hexadecimal digits in lower case, or "".
func (l Link) Valid() bool {
	if l == "" {
		return true
	}
	b, err := hex.DecodeString(string(l))
	return err == nil && len(b) == sha256.Size && hex.EncodeToString(b) == string(l)
}

// Seal ends a trace: nothing is added after it.
type Seal struct {
	Segments int   `json:"segments"`
	Events   int64 `json:"events"`
	// Head is the link of the last segment, "" of a trace without any.
	Head Link `json:"head"`
	// Lost is how many events were dropped, by reason; empty if none were.
	Lost map[string]int64 `json:"lost,omitempty"`
	// Missing, when not empty, is why nothing was recorded.
	Missing   string    `json:"missing,omitempty"`
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at"`
}

// ErrBroken is a chain that does not hold: a segment was changed, left out or put
// somewhere else.
var ErrBroken = errors.New("the trace was changed")

// Chain follows the links of a trace. The zero value stands before the first segment.
type Chain struct {
	Seq  int
	Head Link
}

// Add takes the next segment. The error matches ErrBroken.
func (c *Chain) Add(seq int, link Link, data []byte) error {
	if seq != c.Seq+1 {
		return fmt.Errorf("%w: segment %d follows segment %d", ErrBroken, seq, c.Seq)
	}
	if got := c.Head.Next(seq, data); got != link {
		return fmt.Errorf("%w: segment %d has the hash %s instead of %s", ErrBroken, seq, got, link)
	}
	c.Seq, c.Head = seq, link
	return nil
}

// Closed reports whether a seal fits what was added. The error matches ErrBroken.
func (c *Chain) Closed(s Seal) error {
	if c.Seq != s.Segments || c.Head != s.Head {
		return fmt.Errorf("%w: it was sealed with %d segments and the hash %s, and there are %d with %s", ErrBroken, s.Segments, s.Head, c.Seq, c.Head)
	}
	return nil
}

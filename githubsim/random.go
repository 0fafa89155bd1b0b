package githubsim

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// chance is a set of independent random streams, one per purpose, so that drawing
// for one purpose does not change what another draws. It is guarded by Server.mu.
type chance struct {
	seed    uint64
	streams map[string]*rand.Rand
}

func newChance(seed uint64) *chance {
	return &chance{seed: seed, streams: map[string]*rand.Rand{}}
}

func (c *chance) stream(purpose string) *rand.Rand {
	r, ok := c.streams[purpose]
	if !ok {
		h := fnv.New64a()
		h.Write([]byte(purpose))
		r = rand.New(rand.NewPCG(c.seed, h.Sum64()))
		c.streams[purpose] = r
	}
	return r
}

// hit reports whether a fault of the given rate strikes now. A rate of 0 draws
// nothing, so that switching one fault on does not move the others.
func (c *chance) hit(purpose string, rate float64) bool {
	return rate > 0 && c.stream(purpose).Float64() < rate
}

// upTo returns a duration in [0, d).
func (c *chance) upTo(purpose string, d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(c.stream(purpose).Int64N(int64(d)))
}

func (c *chance) text(purpose string, n int, alphabet string) string {
	r := c.stream(purpose)
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(b)
}

const (
	alphaNumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	base32Upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	hexDigits    = "0123456789abcdef"
)

// guid returns a UUID of version 1, the shape of X-GitHub-Delivery.
func (c *chance) guid(now time.Time) string {
	r := c.stream("guid")
	ticks := uint64(now.UnixNano()/100) + 0x01B21DD213814000
	var b [16]byte
	binary.BigEndian.PutUint32(b[0:], uint32(ticks)^r.Uint32()&0xffff)
	binary.BigEndian.PutUint16(b[4:], uint16(ticks>>32))
	binary.BigEndian.PutUint16(b[6:], uint16(ticks>>48)&0x0fff|0x1000)
	binary.BigEndian.PutUint64(b[8:], r.Uint64()&0x3fffffffffffffff|0x8000000000000000)
	return formatUUID(b)
}

// uuid returns a random UUID of version 4.
func (c *chance) uuid(purpose string) string {
	r := c.stream(purpose)
	var b [16]byte
	binary.BigEndian.PutUint64(b[0:], r.Uint64())
	binary.BigEndian.PutUint64(b[8:], r.Uint64())
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return formatUUID(b)
}

func formatUUID(b [16]byte) string {
	h := hex.EncodeToString(b[:])
	return fmt.Sprintf("%s-%s-%s-%s-%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:])
}

// counter hands out ids that grow by uneven steps, as GitHub's do.
type counter struct {
	next int64
	step int64
}

func (s *Server) id(c *counter) int64 {
	c.next += 1 + s.chance.stream("ids").Int64N(c.step)
	return c.next
}

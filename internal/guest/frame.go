package guest

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// A frame is a flag byte, the escaped body, the escaped checksum and a flag byte.
// Whoever begins to read in the middle, because the other end was just replaced,
// loses at most the frame that was under way: a flag never occurs inside a frame,
// and what lies between two flags is a frame only if the checksum says so.
const (
	flagByte   = 0x7e
	escapeByte = 0x7d
	escapeFlip = 0x20
)

type kind byte

const (
	hello  kind = iota + 1 // host: a session begins; guest: it is heard
	open                   // guest: a stream, its address is the body
	opened                 // host: the stream is connected
	data                   // bytes of a stream
	credit                 // so many bytes more may be sent on a stream
	end                    // no more data will follow on a stream
	reset                  // the stream is over, the body says why
)

// maxBody is the most that one frame carries.
const maxBody = 16 << 10

// frame belongs to one session, so that what an earlier one left in a buffer is told
// from what is meant now.
type frame struct {
	kind    kind
	session uint32
	stream  uint32
	body    []byte
}

const frameHead = 9

func (f frame) append(out []byte) []byte {
	head := make([]byte, frameHead, frameHead+len(f.body)+4)
	head[0] = byte(f.kind)
	binary.BigEndian.PutUint32(head[1:], f.session)
	binary.BigEndian.PutUint32(head[5:], f.stream)
	raw := append(head, f.body...)
	raw = binary.BigEndian.AppendUint32(raw, crc32.ChecksumIEEE(raw))
	out = append(out, flagByte)
	for len(raw) > 0 {
		i := 0
		for i < len(raw) && raw[i] != flagByte && raw[i] != escapeByte {
			i++
		}
		out = append(out, raw[:i]...)
		if raw = raw[i:]; len(raw) > 0 {
			out = append(out, escapeByte, raw[0]^escapeFlip)
			raw = raw[1:]
		}
	}
	return append(out, flagByte)
}

// parseFrame reads what was between two flags; ok is false for anything but a whole
// frame.
func parseFrame(text []byte) (f frame, ok bool) {
	raw := make([]byte, 0, len(text))
	for len(text) > 0 {
		i := bytes.IndexByte(text, escapeByte)
		if i < 0 {
			raw = append(raw, text...)
			break
		}
		if i+1 >= len(text) {
			return f, false
		}
		raw = append(append(raw, text[:i]...), text[i+1]^escapeFlip)
		text = text[i+2:]
	}
	n := len(raw) - 4
	if n < frameHead || crc32.ChecksumIEEE(raw[:n]) != binary.BigEndian.Uint32(raw[n:]) {
		return f, false
	}
	f = frame{kind: kind(raw[0]), session: binary.BigEndian.Uint32(raw[1:]), stream: binary.BigEndian.Uint32(raw[5:]), body: raw[frameHead:n]}
	return f, len(f.body) <= maxBody
}

// readFrames calls handle with every frame of r until r ends.
func readFrames(r io.Reader, handle func(frame)) error {
	const longest = 2*(frameHead+maxBody+4) + 1
	var held []byte
	skip := false // what is being read is longer than any frame
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		for in := buf[:n]; len(in) > 0; {
			i := bytes.IndexByte(in, flagByte)
			if i < 0 {
				if skip = skip || len(held)+len(in) > longest; skip {
					held = held[:0]
				} else {
					held = append(held, in...)
				}
				break
			}
			if !skip {
				held = append(held, in[:i]...)
				if f, ok := parseFrame(held); ok {
					handle(f)
				}
			}
			held, skip, in = held[:0], false, in[i+1:]
		}
		if err != nil {
			return err
		}
	}
}

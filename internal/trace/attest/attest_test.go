package attest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/muster-ci/muster/internal/trace"
)

func key(t *testing.T, of byte) ed25519.PrivateKey {
	t.Helper()
	k, err := Key(bytes.Repeat([]byte{of}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sealedTrace makes a trace of n segments of three events each.
func sealedTrace(t *testing.T, n int) ([]trace.Segment, trace.Seal) {
	t.Helper()
	packer, err := trace.NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	var segments []trace.Segment
	seal := trace.Seal{StartedAt: at, EndedAt: at.Add(time.Minute)}
	for i := range n {
		var lines []byte
		for j := range 3 {
			if lines, err = trace.AppendEvent(lines, trace.Event{Type: trace.FileOpen, Timestamp: at, Seq: uint64(3*i + j + 1), Path: "/x"}); err != nil {
				t.Fatal(err)
			}
		}
		s := trace.Segment{Seq: i + 1, Events: 3, Data: packer.Pack(lines)}
		s.Link = seal.Head.Next(s.Seq, s.Data)
		seal.Head, seal.Segments, seal.Events = s.Link, s.Seq, seal.Events+3
		segments = append(segments, s)
	}
	return segments, seal
}

func each(segments []trace.Segment) iter.Seq2[trace.Segment, error] {
	return func(yield func(trace.Segment, error) bool) {
		for _, s := range segments {
			if !yield(s, nil) {
				return
			}
		}
	}
}

func signed(t *testing.T, seal trace.Seal, k ed25519.PrivateKey) []byte {
	t.Helper()
	text, err := Statement(Facts{
		Trace: "r-1", State: "complete", Seal: seal, Recorder: trace.Recorder{Agent: "1.2.3", Kernel: "6.1"},
		Job:     trace.Job{Repository: "octo/app", RunID: 7, Attempt: 1, Key: "build"},
		Network: []Contact{{Host: "proxy.golang.org", Count: 2}}, Programs: []Program{{Path: "/usr/bin/go", Count: 1}},
		Findings: []Finding{{Rule: "new-host", Severity: "medium", Count: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	e, err := Sign(t.Context(), text, k)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// What was signed is verified with the key and the segments alone, also out of a bundle.
func TestVerify(t *testing.T) {
	segments, seal := sealedTrace(t, 3)
	k := key(t, 1)
	envelope := signed(t, seal, k)
	var bundle bytes.Buffer
	if err := WriteBundle(&bundle, envelope, each(segments)); err != nil {
		t.Fatal(err)
	}
	envelope, from, err := ReadBundle(&bundle)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Verify(t.Context(), envelope, k.Public().(ed25519.PublicKey), from)
	if err != nil {
		t.Fatal(err)
	}
	want := "verified: trace r-1 of https://github.com/octo/app/actions/runs/7/attempts/1#build: 9 events in 3 segments, not changed since it was sealed with " + string(seal.Head)
	if !strings.HasPrefix(v.String(), want) {
		t.Errorf("the verdict is %q", v)
	}
	if v.Job.Repository != "octo/app" || v.State != "complete" || len(v.Findings) != 1 || len(v.Network) != 1 || v.Seal.Events != 9 {
		t.Errorf("%+v", v)
	}
}

// Whatever is done to the trace or to what was signed is told.
func TestTampering(t *testing.T) {
	segments, seal := sealedTrace(t, 3)
	k := key(t, 1)
	envelope := signed(t, seal, k)
	other, otherSeal := sealedTrace(t, 2)
	for what, c := range map[string]struct {
		envelope []byte
		key      ed25519.PrivateKey
		segments []trace.Segment
		want     error
	}{
		"a byte of a segment":     {envelope, k, flipped(segments, 1), trace.ErrBroken},
		"a segment left out":      {envelope, k, slices.Concat(segments[:1], segments[2:]), trace.ErrBroken},
		"the last segment gone":   {envelope, k, segments[:2], trace.ErrBroken},
		"all segments gone":       {envelope, k, nil, trace.ErrBroken},
		"segments swapped":        {envelope, k, []trace.Segment{segments[1], segments[0], segments[2]}, trace.ErrBroken},
		"a segment twice":         {envelope, k, []trace.Segment{segments[0], segments[0], segments[1], segments[2]}, trace.ErrBroken},
		"another trace":           {envelope, k, other, trace.ErrBroken},
		"a chain made again":      {envelope, k, rechained(flipped(segments, 2)), trace.ErrBroken},
		"another key":             {envelope, key(t, 2), segments, ErrSignature},
		"signed by somebody else": {signed(t, seal, key(t, 2)), k, segments, ErrSignature},
		"a statement changed":     {changed(t, envelope, `"count":1`, `"count":0`), k, segments, ErrSignature},
		"another type of payload": {retyped(t, envelope), k, segments, ErrSignature},
		"no signature":            {unsigned(t, envelope), k, segments, ErrSignature},
		"the seal of another":     {changed(t, signed(t, otherSeal, k), string(otherSeal.Head), string(seal.Head)), k, segments, ErrSignature},
		"another statement":       {provenance(t, k), k, segments, ErrOther},
	} {
		t.Run(what, func(t *testing.T) {
			v, err := Verify(t.Context(), c.envelope, c.key.Public().(ed25519.PublicKey), each(c.segments))
			if !errors.Is(err, c.want) {
				t.Errorf("%v, and the verdict %q", err, v)
			}
		})
	}
}

// Every single bit of the envelope matters, or changes nothing of what is read.
func TestEveryByteOfTheEnvelope(t *testing.T) {
	segments, seal := sealedTrace(t, 1)
	k := key(t, 1)
	envelope := signed(t, seal, k)
	want, err := Verify(t.Context(), envelope, k.Public().(ed25519.PublicKey), each(segments))
	if err != nil {
		t.Fatal(err)
	}
	for i := range envelope {
		bad := bytes.Clone(envelope)
		bad[i] ^= 1
		v, err := Verify(t.Context(), bad, k.Public().(ed25519.PublicKey), each(segments))
		if err == nil && fmt.Sprint(v) != fmt.Sprint(want) {
			t.Errorf("byte %d was changed, and the verdict is %q", i, v)
		}
	}
}

func flipped(segments []trace.Segment, at int) []trace.Segment {
	out := slices.Clone(segments)
	out[at].Data = bytes.Clone(out[at].Data)
	out[at].Data[len(out[at].Data)/2] ^= 1
	return out
}

// rechained is what a forger does who knows how the chain is made.
func rechained(segments []trace.Segment) []trace.Segment {
	var head trace.Link
	for i := range segments {
		segments[i].Link = head.Next(segments[i].Seq, segments[i].Data)
		head = segments[i].Link
	}
	return segments
}

func edit(t *testing.T, envelope []byte, f func(*dsse.Envelope)) []byte {
	t.Helper()
	var e dsse.Envelope
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	f(&e)
	out, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func changed(t *testing.T, envelope []byte, from, to string) []byte {
	t.Helper()
	return edit(t, envelope, func(e *dsse.Envelope) {
		body, err := base64.StdEncoding.DecodeString(e.Payload)
		if err != nil || !bytes.Contains(body, []byte(from)) {
			t.Fatalf("%s is not in %s", from, body)
		}
		e.Payload = base64.StdEncoding.EncodeToString(bytes.ReplaceAll(body, []byte(from), []byte(to)))
	})
}

func retyped(t *testing.T, envelope []byte) []byte {
	t.Helper()
	return edit(t, envelope, func(e *dsse.Envelope) { e.PayloadType = "application/json" })
}

func unsigned(t *testing.T, envelope []byte) []byte {
	t.Helper()
	return edit(t, envelope, func(e *dsse.Envelope) { e.Signatures = nil })
}

func provenance(t *testing.T, k ed25519.PrivateKey) []byte {
	t.Helper()
	e, err := Sign(t.Context(), []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"x","digest":{"sha256":"00"}}],"predicateType":"https://slsa.dev/provenance/v1","predicate":{}}`), k)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// A trace of which nothing was recorded is not attested.
func TestNothingToAttest(t *testing.T) {
	if _, err := Statement(Facts{Trace: "r-1", Seal: trace.Seal{Missing: "no BTF"}}); !errors.Is(err, ErrNothing) {
		t.Error(err)
	}
}

// The statement is the same text each time, or signatures could not be compared.
func TestStatementIsStable(t *testing.T) {
	_, seal := sealedTrace(t, 1)
	f := Facts{Trace: "r-1", Seal: seal, Recorder: trace.Recorder{Missing: map[string]string{"a": "1", "b": "2", "c": "3"}}}
	first, err := Statement(f)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		again, err := Statement(f)
		if err != nil || !bytes.Equal(first, again) {
			t.Fatalf("%v\n%s\n%s", err, first, again)
		}
	}
}

func TestPublicKeySurvives(t *testing.T) {
	pub := key(t, 3).Public().(ed25519.PublicKey)
	text, err := EncodePublic(pub)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParsePublic(text)
	if err != nil || !got.Equal(pub) {
		t.Errorf("%v", err)
	}
	if _, err := ParsePublic([]byte("x")); err == nil {
		t.Error("rubbish is a key")
	}
	if _, err := Key([]byte("short")); err == nil {
		t.Error("a short secret is a key")
	}
}

package attest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"

	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/muster-ci/muster/internal/trace"
)

var (
	// ErrSignature is an envelope that this key did not sign, or that was changed since.
	ErrSignature = errors.New("the signature is not this key's, or what it signed was changed")
	// ErrNoBundle is a file that is something else.
	ErrNoBundle = errors.New("it is no bundle")
	// ErrOther is a signed statement about something that is no trace.
	ErrOther = errors.New("the statement is not about a trace")
)

// Verdict is what a good attestation says.
type Verdict struct {
	KeyID    string
	Trace    string
	State    string
	Event    string // the job's page
	Job      trace.Job
	Seal     trace.Seal
	Findings []Finding
	Network  []Contact
}

// String is the verdict in words.
func (v Verdict) String() string {
	s := fmt.Sprintf("verified: trace %s of %s: %d events in %d segments, not changed since it was sealed with %s (key %s)",
		v.Trace, v.Event, v.Seal.Events, v.Seal.Segments, v.Seal.Head, v.KeyID)
	if n := v.lost(); n > 0 {
		s += fmt.Sprintf("; incomplete: the recorder dropped %d events", n)
	}
	return s
}

func (v Verdict) lost() (n int64) {
	for _, lost := range v.Seal.Lost {
		n += lost
	}
	return n
}

// Verify checks an envelope with nothing but a public key and the trace's segments in
// order: the signature, that the chain over the segments ends in the attested hash, and that
// segments and events are as many as were sealed. Its errors match ErrSignature, ErrOther
// or trace.ErrBroken, or are those of segments.
func Verify(ctx context.Context, envelope []byte, pub ed25519.PublicKey, segments iter.Seq2[trace.Segment, error]) (Verdict, error) {
	v, digest, err := open(ctx, envelope, pub)
	if err != nil {
		return Verdict{}, err
	}
	if digest != string(v.Seal.Head) {
		return Verdict{}, fmt.Errorf("%w: the statement is about %s, and its seal is %s", trace.ErrBroken, digest, v.Seal.Head)
	}
	if err := follow(v.Seal, segments); err != nil {
		return Verdict{}, err
	}
	return v, nil
}

// follow computes the chain again.
func follow(seal trace.Seal, segments iter.Seq2[trace.Segment, error]) error {
	var chain trace.Chain
	var events int64
	for s, err := range segments {
		if err != nil {
			return fmt.Errorf("read the segments: %w", err)
		}
		if err := chain.Add(s.Seq, s.Link, s.Data); err != nil {
			return err
		}
		text, err := trace.Unpack(s.Data)
		if err != nil {
			return fmt.Errorf("%w: segment %d: %w", trace.ErrBroken, s.Seq, err)
		}
		events += int64(bytes.Count(text, []byte("\n")))
	}
	if err := chain.Closed(seal); err != nil {
		return err
	}
	if events != seal.Events {
		return fmt.Errorf("%w: it was sealed with %d events, and there are %d", trace.ErrBroken, seal.Events, events)
	}
	return nil
}

// open checks the signature and reads the statement.
func open(ctx context.Context, envelope []byte, pub ed25519.PublicKey) (Verdict, string, error) {
	var e dsse.Envelope
	if err := json.Unmarshal(envelope, &e); err != nil {
		return Verdict{}, "", fmt.Errorf("read the attestation: %w", err)
	}
	if len(pub) != ed25519.PublicKeySize {
		return Verdict{}, "", fmt.Errorf("check the attestation: a public key has %d bytes, not %d", ed25519.PublicKeySize, len(pub))
	}
	check, err := dsse.NewEnvelopeVerifier(verifier{pub})
	if err != nil {
		return Verdict{}, "", fmt.Errorf("check the attestation: %w", err)
	}
	_, payload, err := check.VerifyAndDecode(ctx, &e)
	if err != nil {
		return Verdict{}, "", fmt.Errorf("%w (key %s): %w", ErrSignature, KeyID(pub), err)
	}
	var s intoto.Statement
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(payload, &s); err != nil {
		return Verdict{}, "", fmt.Errorf("read the statement: %w", err)
	}
	if e.PayloadType != PayloadType || s.GetType() != intoto.StatementTypeUri || s.GetPredicateType() != PredicateType || len(s.GetSubject()) != 1 {
		return Verdict{}, "", fmt.Errorf("%w: it has the type %s", ErrOther, s.GetPredicateType())
	}
	text, err := protojson.Marshal(s.GetPredicate())
	if err != nil {
		return Verdict{}, "", fmt.Errorf("read the statement: %w", err)
	}
	var p predicate
	if err := json.Unmarshal(text, &p); err != nil {
		return Verdict{}, "", fmt.Errorf("read the statement: %w", err)
	}
	return Verdict{
		KeyID: KeyID(pub), Trace: p.Trace.ID, State: p.Trace.State, Event: p.MonitoredProcess.Event, Job: p.Job,
		Seal: p.Trace.Seal, Findings: p.Findings, Network: p.MonitorLog.Network,
	}, s.GetSubject()[0].GetDigest()["sha256"], nil
}

// WriteBundle writes all that Verify needs but the key, as JSON Lines: the envelope, then
// the segments in order.
func WriteBundle(w io.Writer, envelope []byte, segments iter.Seq2[trace.Segment, error]) error {
	out := json.NewEncoder(w)
	if err := out.Encode(json.RawMessage(envelope)); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	for s, err := range segments {
		if err != nil {
			return fmt.Errorf("write bundle: %w", err)
		}
		if err := out.Encode(s); err != nil {
			return fmt.Errorf("write bundle: %w", err)
		}
	}
	return nil
}

// maxLine is the longest line of a bundle: no agent makes segments of a tenth of it.
const maxLine = 16 << 20

// ReadBundle reads what WriteBundle wrote. The segments can be gone through once.
func ReadBundle(r io.Reader) (envelope []byte, segments iter.Seq2[trace.Segment, error], err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	if !lines.Scan() {
		if err := lines.Err(); err != nil && !errors.Is(err, bufio.ErrTooLong) {
			return nil, nil, fmt.Errorf("read bundle: %w", err)
		}
		return nil, nil, ErrNoBundle
	}
	envelope = bytes.Clone(lines.Bytes())
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(envelope, &parts); err != nil || parts["payload"] == nil || parts["signatures"] == nil {
		return nil, nil, ErrNoBundle
	}
	n := 1
	return envelope, func(yield func(trace.Segment, error) bool) {
		for lines.Scan() {
			n++
			var s trace.Segment
			if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
				yield(trace.Segment{}, fmt.Errorf("%w: line %d of the bundle is damaged, or the file breaks off there: %w", trace.ErrBroken, n, err))
				return
			}
			if !yield(s, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(trace.Segment{}, fmt.Errorf("read bundle: %w", err))
		}
	}, nil
}

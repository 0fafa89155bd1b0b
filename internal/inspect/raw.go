package inspect

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/attest"
)

// Raw writes the events of a trace as its agent made them (S0-24): JSON Lines, or, packed,
// the same as a stream of zstd frames. Of one that is still recorded it writes what is
// there. ready is called before the first byte, once nothing speaks against it any more.
// The error matches trace.ErrBroken if the trace was changed; what came before is good.
func (i *Inspector) Raw(ctx context.Context, ws string, id muster.TraceID, packed bool, w io.Writer, ready func(muster.Trace)) error {
	t, err := i.readable(ctx, ws, id)
	if err != nil {
		return err
	}
	begun := false
	begin := func() {
		if !begun {
			begun = true
			ready(t)
		}
	}
	for s, err := range i.segments(ctx, t) {
		data := s.Data
		if err == nil && !packed {
			data, err = trace.Unpack(data)
		}
		if err != nil {
			return told(t, err)
		}
		begin()
		if _, err := w.Write(data); err != nil {
			return fmt.Errorf("write %s: %w", Name(t), err)
		}
	}
	begin()
	return nil
}

// Bundle writes all that is needed to check a trace without a control plane: its
// attestation and its segments in order, each as it was sealed, in the form that
// attest.ReadBundle reads. Errors are those of Attestation. ready is as in Raw.
func (i *Inspector) Bundle(ctx context.Context, ws string, id muster.TraceID, w io.Writer, ready func(muster.Trace)) error {
	t, envelope, err := i.Attestation(ctx, ws, id)
	if err != nil {
		return err
	}
	if t.Damage != (muster.TraceDamage{}) { // it may have been put back
		for _, err := range i.segments(ctx, t) {
			if err != nil {
				return told(t, err)
			}
		}
	}
	ready(t)
	if err := attest.WriteBundle(w, envelope, i.segments(ctx, t)); err != nil {
		return told(t, err)
	}
	return nil
}

// unsealed says why a trace has no seal.
func unsealed(t muster.Trace) string {
	switch {
	case t.State == muster.TraceRecording:
		return "its job still runs"
	case t.Reason != "":
		return t.Reason
	}
	return "its agent never sealed it"
}

// maxObject is the most that is read of a seal, a statement or a baseline, in bytes.
const maxObject = 16 << 20

// object is all of something small beside the segments.
func (i *Inspector) object(ctx context.Context, ws string, id muster.TraceID, name string) ([]byte, error) {
	r, err := i.Archive.Get(ctx, ws, id, name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxObject+1))
	if err != nil {
		return nil, fmt.Errorf("read %s of trace %s: %w", name, id, err)
	}
	if len(data) > maxObject {
		return nil, fmt.Errorf("%s of trace %s is larger than any that is made", name, id)
	}
	return data, nil
}

// seal is the seal that a trace has; false if it has none.
func (i *Inspector) seal(ctx context.Context, ws string, id muster.TraceID) (s trace.Seal, ok bool, err error) {
	text, err := i.object(ctx, ws, id, sealName)
	if muster.CodeOf(err) == muster.CodeNotFound {
		return s, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return s, false, fmt.Errorf("read the seal of trace %s: %w", id, err)
	}
	return s, true, nil
}

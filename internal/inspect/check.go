package inspect

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/attest"
)

// ProblemKind is what is wrong with a stored trace.
type ProblemKind string

// The kinds of problems.
const (
	// ProblemDamaged: a segment is missing or was changed; the trace's state says so.
	ProblemDamaged ProblemKind = "damaged"
	// ProblemSeal: the seal is missing, or not of what the books know.
	ProblemSeal ProblemKind = "seal"
	// ProblemAttestation: the signed statement is not of this trace, or not signed with a key of ours.
	ProblemAttestation ProblemKind = "attestation"
	// ProblemExtra: there are segments beyond the seal. Nobody reads them.
	ProblemExtra ProblemKind = "extra"
	// ProblemOrphan: the archive has objects of a trace that the books do not know, or know to be deleted.
	ProblemOrphan ProblemKind = "orphan"
	// ProblemUnread: it could not be checked now.
	ProblemUnread ProblemKind = "unread"
)

// Problem is what is wrong with one trace.
type Problem struct {
	// Trace is as the books have it after the check; of an orphan there is only its id.
	Trace muster.Trace
	Kind  ProblemKind
	Text  string
}

// Tally is what a check of many traces has looked at so far.
type Tally struct {
	// Traces were read to their end or the first segment that does not hold; Whole of them
	// are as they were stored, Mended were damaged before.
	Traces, Whole, Mended int
	// Unsigned are complete and have no attestation, which is no problem by itself.
	Unsigned int
	// Problems are how many there are of each kind.
	Problems map[ProblemKind]int
	// Skipped have nothing to check, by why: "recording", "deleted", "lost" or "not_recorded".
	Skipped map[string]int
	// Bytes are those of the segments that were read.
	Bytes int64
	Took  time.Duration
}

// checkPage is how many traces are asked for at a time, and so how many are held.
const checkPage = 200

// CheckTraces reads all stored traces that a filter selects (its Limit does not count), one
// page after the other: their chains, seals and attestations. Without a filter it also looks
// for objects in the archive that belong to no trace. It yields every problem, and in between, with none, how far it is. What
// it finds damaged the books have as damaged afterwards, and what is whole again as whole.
// The error is one of the check as a whole.
func (i *Inspector) CheckTraces(ctx context.Context, ws string, where Where, yield func(*Problem, Tally) bool) (Tally, error) {
	began := i.Now()
	tally := Tally{Problems: map[ProblemKind]int{}, Skipped: map[string]int{}}
	tell := func(p *Problem) bool {
		if p != nil {
			tally.Problems[p.Kind]++
		}
		tally.Took = i.Now().Sub(began)
		return yield(p, tally)
	}
	if where.Trace != (muster.TraceID{}) {
		t, err := i.Books.Trace(ctx, ws, where.Trace)
		if err != nil {
			return tally, err
		}
		_, err = i.checkAll(ctx, []muster.Trace{t}, &tally, tell)
		return tally, err
	}
	f := where.TraceFilter
	f.Limit = checkPage
	var after muster.TraceID
	for {
		page, err := i.Books.TracesAfter(ctx, ws, f, after)
		if err != nil {
			return tally, err
		}
		if on, err := i.checkAll(ctx, page, &tally, tell); !on || err != nil {
			return tally, err
		}
		if len(page) < checkPage {
			break
		}
		after = page[len(page)-1].ID
	}
	if where.everything() {
		return tally, i.orphans(ctx, ws, tell)
	}
	return tally, nil
}

// everything reports whether nothing is left out.
func (w Where) everything() bool {
	return w.Trace == muster.TraceID{} && w.Job == muster.JobKey{} && w.Runner == "" && w.RunID == 0 && w.Pool == "" && w.Repository == "" && w.Key == "" && w.Baseline == "" &&
		len(w.States) == 0 && w.Since.IsZero() && w.Until.IsZero()
}

// checkedTrace is what came of one.
type checkedTrace struct {
	problems []Problem
	skipped  string
	mended   bool
	unsigned bool
	bytes    int64
}

// checkAll checks a page; false if nobody wants more.
func (i *Inspector) checkAll(ctx context.Context, page []muster.Trace, tally *Tally, tell func(*Problem) bool) (bool, error) {
	for c := range inOrder(ctx, cmp.Or(i.Workers, runtime.GOMAXPROCS(0)), page, i.checkTrace) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		switch {
		case c.skipped != "":
			tally.Skipped[c.skipped]++
		default:
			tally.Traces++
			tally.Bytes += c.bytes
		}
		if c.skipped == "" && len(c.problems) == 0 {
			tally.Whole++
		}
		if c.mended {
			tally.Mended++
		}
		if c.unsigned {
			tally.Unsigned++
		}
		for n := range c.problems {
			if !tell(&c.problems[n]) {
				return false, nil
			}
		}
		if len(c.problems) == 0 && !tell(nil) {
			return false, nil
		}
	}
	return true, ctx.Err()
}

// checkTrace reads one trace.
func (i *Inspector) checkTrace(ctx context.Context, t muster.Trace) (c checkedTrace) {
	if c.skipped = unchecked(t, i.Now()); c.skipped != "" {
		return c
	}
	stored := t.Mended() // as it was when it was stored
	problem := func(kind ProblemKind, text string, args ...any) {
		c.problems = append(c.problems, Problem{Trace: t, Kind: kind, Text: fmt.Sprintf(text, args...)})
	}
	// A problem of the archive, or of what it has.
	failure := func(kind ProblemKind, err error) {
		if code := muster.CodeOf(err); code == muster.CodeInternal && ctx.Err() == nil {
			problem(kind, "%s", err)
		} else {
			problem(ProblemUnread, "%s", muster.MessageOf(err))
		}
	}
	envelope, err := i.object(ctx, t.Workspace, t.ID, attestationName)
	switch {
	case muster.CodeOf(err) == muster.CodeNotFound:
		c.unsigned = stored.State == muster.TraceComplete
	case err != nil:
		failure(ProblemUnread, err)
		return c
	}
	followed, err := i.checkSegments(ctx, t, envelope, &c.bytes)
	switch code := muster.CodeOf(err); {
	case err == nil:
		c.mended = t.Damage != muster.TraceDamage{}
	case code == muster.CodeGone:
		return checkedTrace{skipped: "deleted"}
	case code == muster.CodeConflict:
		if now, err := i.Books.Trace(ctx, t.Workspace, t.ID); err == nil {
			t = now
		}
		problem(ProblemDamaged, "%s", t.Reason)
	case !followed:
		failure(ProblemAttestation, err)
	default:
		failure(ProblemUnread, err)
		return c
	}
	if c.mended && (t.AnalysedAt.IsZero() || t.AnalysisError != "") {
		if _, err := i.Analyse(ctx, t.Workspace, t.ID); err != nil {
			failure(ProblemUnread, err)
		}
	}
	if c.mended {
		t = stored
	}
	if stored.SealedAt.IsZero() {
		return c
	}
	seal, sealed, err := i.seal(ctx, t.Workspace, t.ID)
	switch {
	case err != nil:
		failure(ProblemSeal, err)
	case !sealed:
		problem(ProblemSeal, "the seal is missing in the archive")
	case stored.State == muster.TraceComplete && (seal.Segments != t.Segments || seal.Events != t.Events || string(seal.Head) != t.Head):
		problem(ProblemSeal, "the seal is of %d segments and %d events with the hash %s, and %d and %d with %s were stored", seal.Segments, seal.Events, seal.Head, t.Segments, t.Events, t.Head)
	}
	if stored.State != muster.TraceComplete {
		return c
	}
	seqs, _, err := i.Archive.Has(ctx, t.Workspace, t.ID)
	if err != nil {
		failure(ProblemUnread, err)
	} else if n := len(seqs); n > 0 && seqs[n-1] > t.Segments {
		problem(ProblemExtra, "segment %d lies beyond the last of %d that were sealed", seqs[n-1], t.Segments)
	}
	return c
}

// unchecked is why a trace has nothing to check, "" if it has.
func unchecked(t muster.Trace, now time.Time) string {
	switch {
	case !t.DeletedAt.IsZero(), !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt):
		return "deleted" // or about to be
	case t.State == muster.TraceRecording, t.State == muster.TraceAbsent:
		return string(t.State)
	case t.Segments == 0, t.State == muster.TraceLost && t.Damage == muster.TraceDamage{}:
		return string(muster.TraceLost)
	}
	return ""
}

// checkSegments reads all of a trace, and checks it against its attestation if it has one.
// followed says that its chain was followed to the end or to what it failed of, so that an
// error is not the attestation's.
func (i *Inspector) checkSegments(ctx context.Context, t muster.Trace, envelope []byte, size *int64) (followed bool, err error) {
	var failed error
	segments := func(yield func(s trace.Segment, err error) bool) {
		for s, err := range i.segments(ctx, t) {
			failed = err
			*size += int64(len(s.Data))
			if !yield(s, err) {
				return
			}
		}
		followed = failed == nil
	}
	var wrong error
	if envelope != nil && len(i.Keys) > 0 {
		for _, k := range i.Keys {
			var v attest.Verdict
			v, wrong = attest.Verify(ctx, bytes.Clone(envelope), k.Public().(ed25519.PublicKey), segments)
			if wrong == nil && v.Trace != t.ID.String() {
				wrong = fmt.Errorf("it is that of trace %s", v.Trace)
			}
			if !errors.Is(wrong, attest.ErrSignature) {
				break
			}
		}
	}
	if !followed && failed == nil { // nobody has read it to its end
		*size = 0
		for _, err := range segments { // which counts
			if err != nil {
				break // failed has it
			}
		}
	}
	if failed != nil {
		return true, failed
	}
	if wrong != nil {
		return false, fmt.Errorf("the attestation does not hold: %w", wrong)
	}
	return true, nil
}

// orphanGrace is how new an object may be that belongs to no trace: one that was deleted a
// moment ago, or a store that is being restored.
const orphanGrace = time.Hour

// orphans looks for what the archive has and the books do not.
func (i *Inspector) orphans(ctx context.Context, ws string, tell func(*Problem) bool) error {
	for id, err := range i.Archive.Traces(ctx, ws) {
		if err != nil {
			return err
		}
		t, err := i.Books.Trace(ctx, ws, id)
		if err != nil && muster.CodeOf(err) != muster.CodeNotFound {
			return err
		}
		if err == nil && t.DeletedAt.IsZero() {
			continue
		}
		at, err := i.Archive.Written(ctx, ws, id)
		if muster.CodeOf(err) == muster.CodeNotFound || err == nil && i.Now().Sub(at) < orphanGrace {
			continue
		}
		if err != nil {
			return err
		}
		why := "the store does not know it"
		if t.ID != (muster.TraceID{}) {
			why = "the store has it as deleted on " + t.DeletedAt.UTC().Format(time.DateOnly)
		}
		p := &Problem{Trace: muster.Trace{ID: id, Workspace: ws}, Kind: ProblemOrphan, Text: fmt.Sprintf("the archive has objects of it, the last of %s, and %s; they are deleted when they are a week old", at.UTC().Format(time.DateOnly), why)}
		if !tell(p) {
			return nil
		}
	}
	return ctx.Err()
}

package lifecycle

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/wire"
)

// TraceStore is what this package needs of the database for traces.
type TraceStore interface {
	// AddTrace writes a trace if its number is free, and returns the one that is there then.
	AddTrace(ctx context.Context, t muster.Trace, now time.Time) (there muster.Trace, fresh bool, err error)
	UpdateTrace(ctx context.Context, workspace string, id muster.TraceID, now time.Time, change func(*muster.Trace) error) (muster.Trace, error)
	Trace(ctx context.Context, workspace string, id muster.TraceID) (muster.Trace, error)
	TracesOfRunner(ctx context.Context, workspace string, id muster.RunnerID) ([]muster.Trace, error)
	TracesOfJob(ctx context.Context, workspace string, k muster.JobKey) ([]muster.Trace, error)
	DetectionsOf(ctx context.Context, workspace string, id muster.TraceID) ([]muster.Detection, error)
	// OpenTraces are those that are recorded and were silent since a time, UnanalysedTraces
	// those that ended in [from, to) and have events; both of all workspaces.
	OpenTraces(ctx context.Context, silentSince time.Time, limit int) ([]muster.Trace, error)
	UnanalysedTraces(ctx context.Context, from, to time.Time, limit int) ([]muster.Trace, error)
}

// Archive keeps the segments of traces. Errors carry a muster.Code: conflict for another
// segment of the same number, unavailable for what may pass.
type Archive interface {
	PutSegment(ctx context.Context, workspace string, id muster.TraceID, s trace.Segment) error
	// Has returns the numbers of the segments that are there, in order, and their size.
	Has(ctx context.Context, workspace string, id muster.TraceID) (seqs []int, size int64, err error)
	Segment(ctx context.Context, workspace string, id muster.TraceID, seq int) (trace.Segment, error)
	// Segments yields what is there as far as the chain holds; an error comes last and
	// matches trace.ErrBroken if the trace was changed.
	Segments(ctx context.Context, workspace string, id muster.TraceID) iter.Seq2[trace.Segment, error]
	Put(ctx context.Context, workspace string, id muster.TraceID, name string, from io.Reader) error
}

// Analyst makes views and findings of a trace that has ended, and writes them, and that it
// did, to the books. It may be asked again. An error of CodeUnavailable or CodeInternal may
// pass; any other does not.
type Analyst interface {
	Analyse(ctx context.Context, workspace string, id muster.TraceID) error
}

// Tracing is how traces are kept. Without an Archive none are recorded.
type Tracing struct {
	Archive Archive
	// Analyst may be nil: then traces are kept and nobody looks into them.
	Analyst Analyst
	// Retention is how long a workspace keeps the events of a trace; nil means 30 days.
	Retention func(workspace string) time.Duration
	// Hooks are told of traces and findings.
	Hooks []Hook
}

// DefaultTraceRetention is how long events are kept where nothing else is set.
const DefaultTraceRetention = 30 * 24 * time.Hour

func (t Tracing) keptUntil(workspace string, now time.Time) time.Time {
	if t.Retention == nil {
		return now.Add(DefaultTraceRetention)
	}
	return now.Add(t.Retention(workspace))
}

const (
	// archiveWithin is how long the archive may take over one segment, so that agents are
	// answered before they give the call up.
	archiveWithin = 20 * time.Second
	// sealMargin is how much sooner than the control plane's deadline the agent's is: its
	// last word has to arrive.
	sealMargin = 10 * time.Second
	// maxTraces bounds how many traces a runner may make.
	maxTraces = 100_000
	// slack is by how much an agent may go beyond its bounds: what says that a bound was
	// reached, and steps, are recorded in any case.
	slack = 100_000
	// SealName is under which the archive keeps a trace's seal, as JSON.
	SealName = "seal.json"
)

// traceSettings is what an agent is asked to record of the jobs of a pool, nil for nothing.
func (c *Client) traceSettings(ctx context.Context, gh GitHub, p muster.Pool) *wire.TraceSettings {
	if c.Tracing.Archive == nil || p.Trace.Off {
		return nil
	}
	events, size := p.Trace.Bounds()
	within := max(c.Times.SealedAfter/2, c.Times.SealedAfter-sealMargin)
	s := &wire.TraceSettings{MaxEvents: events, MaxBytes: size, SealSeconds: max(1, int(within/time.Second))}
	if p.Egress.Mode == "" {
		return s
	}
	s.Egress = trace.Egress{Mode: trace.EgressMode(p.Egress.Mode), Allow: p.Egress.Allow, NoGitHub: p.Egress.NoGitHub}
	if p.Egress.NoGitHub {
		return s
	}
	needs, err := gh.Needs(ctx, p.Scope)
	if err != nil {
		c.log.Warn("what GitHub's services need is not known now; runners get what was known last", "pool", p.Name, "error", err)
	}
	s.Egress.GitHub = trace.Reachable(needs)
	return s
}

// TraceSegment takes a piece of the record of a job.
func (c *Client) TraceSegment(ctx context.Context, sessionToken string, in wire.TraceSegment) (_ wire.Answer, err error) {
	defer func() { c.Observer.TraceSegment(len(in.Segment.Data), in.Segment.Events, err) }()
	r, err := c.traced(ctx, sessionToken, in.Trace)
	if err != nil {
		return wire.Answer{}, err
	}
	s := in.Segment
	text, err := segmentText(s)
	if err != nil {
		return wire.Answer{}, err
	}
	row, err := c.openTrace(ctx, r, in.Trace, in.Job, s.First)
	if err != nil {
		return wire.Answer{}, err
	}
	if row.State != muster.TraceRecording {
		return wire.Answer{}, muster.Errorf(muster.CodeGone, "trace %s is %s and takes nothing more", row.ID, row.State)
	}
	if s.Seq <= row.Segments {
		return wire.Answer{}, c.sameSegment(ctx, row, s)
	}
	if err := follows(row, s); err != nil {
		return wire.Answer{}, err
	}
	if c.tooLong(ctx, r, row) {
		return wire.Answer{}, muster.Errorf(muster.CodeGone, "trace %s is longer than its pool allows", row.ID)
	}
	putCtx, cancel := context.WithTimeout(ctx, archiveWithin)
	defer cancel()
	if err := c.Tracing.Archive.PutSegment(putCtx, r.Workspace, row.ID, s); err != nil {
		return wire.Answer{}, c.refused(ctx, row, err)
	}
	_, err = c.Store.UpdateTrace(ctx, r.Workspace, row.ID, c.Now(), func(t *muster.Trace) error {
		if t.State != muster.TraceRecording {
			return muster.Errorf(muster.CodeGone, "trace %s is %s and takes nothing more", t.ID, t.State)
		}
		knowJob(t, in.Job)
		if t.Segments != s.Seq-1 {
			return nil // the same segment came by another way
		}
		t.Segments, t.Head, t.Reason = s.Seq, string(s.Link), ""
		t.Events += int64(s.Events)
		t.Bytes += int64(len(s.Data))
		if s.Seq == 1 {
			knowRecorder(t, text)
		}
		return nil
	})
	return wire.Answer{}, err
}

// TraceSeal ends the record of a job. What is there then is complete or truncated, and is
// analysed.
func (c *Client) TraceSeal(ctx context.Context, sessionToken string, in wire.TraceSeal) (wire.Answer, error) {
	r, err := c.traced(ctx, sessionToken, in.Trace)
	if err != nil {
		return wire.Answer{}, err
	}
	seal := in.Seal
	if seal.Segments < 0 || seal.Events < 0 || !seal.Head.Valid() {
		return wire.Answer{}, muster.Errorf(muster.CodeInvalid, "the seal has numbers or a hash that cannot be")
	}
	row, err := c.openTrace(ctx, r, in.Trace, in.Job, seal.StartedAt)
	if err != nil {
		return wire.Answer{}, err
	}
	if row.State == muster.TraceRecording {
		if row, err = c.seal(ctx, row, in); err != nil {
			return wire.Answer{}, err
		}
		c.Observer.TraceEnded(row)
		c.log.Info("trace sealed", "trace", row.ID.String(), "pool", row.Pool, "state", string(row.State), "reason", row.Reason, "segments", row.Segments, "events", row.Events, "bytes", row.Bytes, "trace_id", r.TraceID)
	} else if row.SealedAt.IsZero() {
		return wire.Answer{}, muster.Errorf(muster.CodeGone, "trace %s was given up: %s", row.ID, row.Reason)
	}
	// The agent says that it has finished only after this: a workflow that could not be
	// started now is started by its next try.
	return wire.Answer{}, c.traceLife(ctx, row)
}

// seal writes what became of a trace when its agent ended it.
func (c *Client) seal(ctx context.Context, row muster.Trace, in wire.TraceSeal) (muster.Trace, error) {
	putCtx, cancel := context.WithTimeout(ctx, archiveWithin)
	defer cancel()
	there, err := c.recount(putCtx, row)
	if err != nil {
		return row, c.refused(ctx, row, err)
	}
	text, err := json.Marshal(in.Seal)
	if err != nil {
		return row, fmt.Errorf("encode the seal of trace %s: %w", row.ID, err)
	}
	if there.chain.Seq > 0 {
		if err := c.Tracing.Archive.Put(putCtx, row.Workspace, row.ID, SealName, bytes.NewReader(text)); err != nil {
			return row, c.refused(ctx, row, err)
		}
	}
	now := c.Now()
	return c.Store.UpdateTrace(ctx, row.Workspace, row.ID, now, func(t *muster.Trace) error {
		if t.State != muster.TraceRecording {
			return nil // another control plane was quicker
		}
		knowJob(t, in.Job)
		there.fill(t)
		t.State, t.Reason = sealed(there, in.Seal)
		t.SealedAt, t.EndedAt, t.ExpiresAt = now, endOf(t.StartedAt, in.Seal, now), c.Tracing.keptUntil(t.Workspace, now)
		t.Lost = clipCounts(in.Seal.Lost)
		if len(in.Recorder.Missing) > 0 {
			t.Missing = clipTexts(in.Recorder.Missing)
		}
		t.Egress = cmp.Or(t.Egress, egressMode(in.Recorder.Egress))
		return nil
	})
}

// endOf is when a trace ended that began at a time: its seal may come much later, after
// an outage. Only how long it took is the machine's word, whose clock may be wrong.
func endOf(began time.Time, s trace.Seal, now time.Time) time.Time {
	took := s.EndedAt.Sub(s.StartedAt)
	if s.StartedAt.IsZero() || took < 0 {
		return now
	}
	if end := began.Add(took); end.Before(now) {
		return end
	}
	return now
}

// sealed is what a trace is when its seal has come: what is there must be all that the
// seal tells of.
func sealed(there present, s trace.Seal) (muster.TraceState, string) {
	switch err := there.chain.Closed(s); {
	case there.broken != nil:
		return muster.TraceTruncated, clip(there.broken.Error())
	case err != nil && there.chain.Seq == 0:
		return muster.TraceLost, fmt.Sprintf("its agent sealed %d segments, and none of them arrived", s.Segments)
	case err != nil:
		return muster.TraceTruncated, fmt.Sprintf("its agent sealed %d segments with the hash %s, and %d are there with %s", s.Segments, s.Head, there.chain.Seq, there.chain.Head)
	case s.Segments == 0:
		return muster.TraceAbsent, clip(cmp.Or(s.Missing, "the agent did not say why"))
	case s.Events != there.events:
		return muster.TraceTruncated, fmt.Sprintf("its agent sealed %d events, and %d are there", s.Events, there.events)
	}
	return muster.TraceComplete, ""
}

// present is what the archive has of a trace.
type present struct {
	chain  trace.Chain
	events int64
	bytes  int64
	// broken is why the chain does not lead to more.
	broken error
}

func (p present) fill(t *muster.Trace) {
	t.Segments, t.Head, t.Events, t.Bytes = p.chain.Seq, string(p.chain.Head), p.events, p.bytes
}

// recount is what there is of a trace. The books followed the chain as it came, so that
// nothing is read if the archive has as many segments as they know of. They may know of less:
// the process may have died between the archive and them; and of more, if the archive forgot.
// Then the whole of it is read again.
func (c *Client) recount(ctx context.Context, row muster.Trace) (p present, err error) {
	if c.Tracing.Archive == nil {
		return p, muster.Errorf(muster.CodeUnavailable, "no archive of traces is configured any more")
	}
	seqs, _, err := c.Tracing.Archive.Has(ctx, row.Workspace, row.ID)
	if err != nil {
		return p, fmt.Errorf("list trace %s: %w", row.ID, err)
	}
	if n := len(seqs); n == row.Segments && (n == 0 || seqs[n-1] == n) {
		return present{chain: trace.Chain{Seq: n, Head: trace.Link(row.Head)}, events: row.Events, bytes: row.Bytes}, nil
	}
	for s, err := range c.Tracing.Archive.Segments(ctx, row.Workspace, row.ID) {
		if errors.Is(err, trace.ErrBroken) {
			p.broken = err
			return p, nil
		}
		if err == nil {
			err = p.chain.Add(s.Seq, s.Link, s.Data)
		}
		if err != nil {
			return p, fmt.Errorf("read trace %s: %w", row.ID, err)
		}
		p.events += int64(s.Events)
		p.bytes += int64(len(s.Data))
	}
	return p, nil
}

// traced is the runner that an agent's session is of, which may make the trace of a number.
func (c *Client) traced(ctx context.Context, sessionToken string, number int) (muster.Runner, error) {
	r, err := c.Store.RunnerBySession(ctx, c.Tokens.HashSession(sessionToken))
	if err != nil {
		return r, sessionError(err)
	}
	switch {
	case c.Tracing.Archive == nil || r.Purpose == muster.PurposeCheck:
		return r, muster.Errorf(muster.CodeGone, "no traces are kept")
	case number < 1 || number > maxTraces:
		return r, muster.Errorf(muster.CodeInvalid, "no trace has the number %d", number)
	}
	return r, nil
}

// openTrace is the row of a trace, which begins with the first word of it.
func (c *Client) openTrace(ctx context.Context, r muster.Runner, number int, j trace.Job, began time.Time) (muster.Trace, error) {
	id := muster.TraceID{Runner: r.ID, Number: number}
	row, err := c.Store.Trace(ctx, r.Workspace, id)
	if muster.CodeOf(err) != muster.CodeNotFound {
		return row, err
	}
	now := c.Now()
	row = muster.Trace{ID: id, Workspace: r.Workspace, Pool: r.Pool, State: muster.TraceRecording, StartedAt: plausible(began, now)}
	knowJob(&row, j)
	if number > 1 {
		if err := c.closeTraces(ctx, r, number, "the next job began before it was sealed"); err != nil {
			return row, err
		}
	}
	row, _, err = c.Store.AddTrace(ctx, row, now)
	return row, err
}

// plausible is a machine's time unless its clock cannot be right.
func plausible(at, now time.Time) time.Time {
	if d := now.Sub(at); d < -time.Minute || d > time.Hour {
		return now
	}
	return at
}

// segmentText checks what can be checked of a segment by itself, and returns its lines.
func segmentText(s trace.Segment) ([]byte, error) {
	switch {
	case s.Seq < 1 || s.Events < 0:
		return nil, muster.Errorf(muster.CodeInvalid, "segments count from 1")
	case len(s.Data) == 0 || len(s.Data) > wire.MaxTraceSegment:
		return nil, muster.Errorf(muster.CodeInvalid, "the segment has %d bytes; 1 to %d are taken", len(s.Data), wire.MaxTraceSegment)
	case s.Link == "" || !s.Link.Valid():
		return nil, muster.Errorf(muster.CodeInvalid, "the segment's link is no hash")
	}
	text, err := trace.Unpack(s.Data)
	if err != nil {
		return nil, &muster.Error{Code: muster.CodeInvalid, Message: "the segment cannot be unpacked", Err: err}
	}
	if n := bytes.Count(text, []byte("\n")); n != s.Events || len(text) > 0 && text[len(text)-1] != '\n' {
		return nil, muster.Errorf(muster.CodeInvalid, "the segment says that it has %d events, and has %d lines", s.Events, n)
	}
	return text, nil
}

// sameSegment answers a segment that came before.
func (c *Client) sameSegment(ctx context.Context, row muster.Trace, s trace.Segment) error {
	if s.Seq == row.Segments && string(s.Link) == row.Head {
		return nil // the answer was lost; the link holds all that was before it and the data
	}
	old, err := c.Tracing.Archive.Segment(ctx, row.Workspace, row.ID, s.Seq)
	if err != nil {
		return err
	}
	if old.Link != s.Link || !bytes.Equal(old.Data, s.Data) {
		return muster.Errorf(muster.CodeConflict, "trace %s has another segment %d; %d is wanted", row.ID, s.Seq, row.Segments+1)
	}
	return nil
}

// follows reports whether a segment is the next of a trace.
func follows(row muster.Trace, s trace.Segment) error {
	chain := trace.Chain{Seq: row.Segments, Head: trace.Link(row.Head)}
	if s.Seq != row.Segments+1 {
		return muster.Errorf(muster.CodeConflict, "segment %d of trace %s is not the next; %d is wanted", s.Seq, row.ID, row.Segments+1)
	}
	if err := chain.Add(s.Seq, s.Link, s.Data); err != nil {
		return &muster.Error{Code: muster.CodeInvalid, Message: fmt.Sprintf("segment %d of trace %s does not fit to the one before it", s.Seq, row.ID), Err: err}
	}
	return nil
}

// tooLong reports whether a trace has more than its pool's bounds and some: an agent in the
// hands of a job must not fill the archive.
func (c *Client) tooLong(ctx context.Context, r muster.Runner, row muster.Trace) bool {
	p, err := c.Store.Pool(ctx, r.Workspace, r.Pool)
	if err != nil {
		p = muster.Pool{} // its pool is gone: the default bounds hold
	}
	events, size := p.Trace.Bounds()
	return events > 0 && row.Events > events+events/4+slack || size > 0 && row.Bytes > size
}

// refused keeps with a trace that the archive would not take it, for whoever asks later why
// it is lost. The agent keeps what it has and asks again.
func (c *Client) refused(ctx context.Context, row muster.Trace, cause error) error {
	if row.Reason == "" {
		why := "the archive did not take it: " + clip(muster.MessageOf(cause))
		if _, err := c.Store.UpdateTrace(ctx, row.Workspace, row.ID, c.Now(), func(t *muster.Trace) error {
			if t.State == muster.TraceRecording {
				t.Reason = why
			}
			return nil
		}); err != nil {
			c.log.Warn("note that the archive refused a trace", "trace", row.ID.String(), "error", err)
		}
	}
	if errors.Is(cause, context.DeadlineExceeded) {
		return &muster.Error{Code: muster.CodeUnavailable, Message: "the archive of traces is slow", RetryAfter: time.Second, Err: cause}
	}
	return cause
}

// closeTraces ends what a runner left unfinished of its traces below a number: nothing more
// of them will come. What is there is truncated, or the trace is lost.
func (c *Client) closeTraces(ctx context.Context, r muster.Runner, below int, why string) error {
	rows, err := c.Store.TracesOfRunner(ctx, r.Workspace, r.ID)
	if err != nil {
		return err
	}
	if len(rows) == 0 && below == math.MaxInt && r.Traced && ranJob(r) {
		row := muster.Trace{ID: muster.TraceID{Runner: r.ID, Number: 1}, Workspace: r.Workspace, Pool: r.Pool, State: muster.TraceRecording, StartedAt: latest(r.StartedAt, r.ActiveAt)}
		if row, _, err = c.Store.AddTrace(ctx, row, c.Now()); err != nil {
			return err
		}
		rows = append(rows, row)
	}
	for _, row := range rows {
		if row.State != muster.TraceRecording || row.ID.Number >= below {
			continue
		}
		if err := c.giveUp(ctx, row, why); err != nil {
			return fmt.Errorf("close trace %s: %w", row.ID, err)
		}
	}
	return nil
}

// giveUp ends a trace that nobody sealed.
func (c *Client) giveUp(ctx context.Context, row muster.Trace, why string) error {
	readCtx, cancel := context.WithTimeout(ctx, archiveWithin)
	defer cancel()
	there, failure := c.recount(readCtx, row)
	now := c.Now()
	row, err := c.Store.UpdateTrace(ctx, row.Workspace, row.ID, now, func(t *muster.Trace) error {
		if t.State != muster.TraceRecording {
			return nil
		}
		if failure == nil {
			there.fill(t)
		}
		t.State = muster.TraceTruncated
		if t.Segments == 0 {
			t.State = muster.TraceLost
		}
		reason := "it was not sealed: " + why
		if t.Reason != "" {
			reason += "; " + t.Reason
		}
		if there.broken != nil {
			reason += "; " + there.broken.Error()
		}
		t.Reason, t.EndedAt, t.ExpiresAt = clip(reason), now, c.Tracing.keptUntil(t.Workspace, now)
		return nil
	})
	if err != nil {
		return err
	}
	c.Observer.TraceEnded(row)
	c.log.Warn("trace not sealed", "trace", row.ID.String(), "pool", row.Pool, "state", string(row.State), "reason", row.Reason)
	return c.traceLife(ctx, row)
}

// The texts that agents send are cut: they stand in rows that every list reads.
const (
	maxText    = 400
	maxEntries = 40
)

func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxText {
		return s
	}
	cut := maxText
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

func clipTexts(m map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		if len(out) < maxEntries {
			out[clip(k)] = clip(v)
		}
	}
	return out
}

func clipCounts(m map[string]int64) map[string]int64 {
	var out map[string]int64
	for k, v := range m {
		if v > 0 && len(out) < maxEntries {
			if out == nil {
				out = map[string]int64{}
			}
			out[clip(k)] = v
		}
	}
	return out
}

// knowJob fills in what the runner says of its job. What it said first stays: a job must not
// rename its record once it runs.
func knowJob(t *muster.Trace, j trace.Job) {
	t.JobName, t.Repository = cmp.Or(t.JobName, clip(j.Name)), cmp.Or(t.Repository, clip(j.Repository))
	t.RunID, t.Attempt = cmp.Or(t.RunID, max(0, j.RunID)), cmp.Or(t.Attempt, max(0, j.Attempt))
	t.Key, t.Workflow = cmp.Or(t.Key, clip(j.Key)), cmp.Or(t.Workflow, clip(j.Workflow))
	t.WorkflowRef, t.Ref, t.SHA = cmp.Or(t.WorkflowRef, clip(j.WorkflowRef)), cmp.Or(t.Ref, clip(j.Ref)), cmp.Or(t.SHA, clip(j.SHA))
	t.Event, t.Actor, t.Directory = cmp.Or(t.Event, clip(j.Event)), cmp.Or(t.Actor, clip(j.Actor)), cmp.Or(t.Directory, clip(j.Workspace))
}

// knowRecorder fills in what the first event says of the recorder.
func knowRecorder(t *muster.Trace, text []byte) {
	for e, err := range trace.Events(bytes.NewReader(text)) {
		if err == nil && e.Type == trace.TraceStart && e.Recorder != nil {
			t.Missing = clipTexts(e.Recorder.Missing)
			t.Egress = egressMode(e.Recorder.Egress)
		}
		return
	}
}

// egressMode is a mode that an agent says is in force, "" if there is none of that name.
func egressMode(s string) string {
	switch m := trace.EgressMode(s); m {
	case trace.EgressAudit, trace.EgressLearn, trace.EgressEnforce:
		return string(m)
	}
	return ""
}

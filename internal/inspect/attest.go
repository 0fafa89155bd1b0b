package inspect

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/url"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/attest"
)

// maxAttested is how many hosts, programs and files a statement sums up: it is a summary,
// and the hash stands for all of the trace.
const maxAttested = 1000

// attest signs a statement about a trace that is whole, and keeps it beside the trace.
func (i *Inspector) attest(ctx context.Context, t muster.Trace, out outcome) error {
	if len(i.Keys) == 0 || t.State != muster.TraceComplete || out.broken != nil {
		return nil
	}
	seal, sealed, err := i.seal(ctx, t.Workspace, t.ID)
	if err != nil || !sealed {
		return err
	}
	server, err := i.server(ctx, t)
	if err != nil {
		return err
	}
	statement, err := attest.Statement(facts(t, seal, server, out))
	if errors.Is(err, attest.ErrNothing) {
		return nil
	}
	if err != nil {
		return err
	}
	envelope, err := attest.Sign(ctx, statement, i.Keys[0])
	if err != nil {
		return err
	}
	return i.Archive.Put(ctx, t.Workspace, t.ID, attestationName, bytes.NewReader(envelope))
}

// server is the address of the GitHub that a trace's job is of, "" if that is not known.
func (i *Inspector) server(ctx context.Context, t muster.Trace) (string, error) {
	if t.Job == (muster.JobKey{}) {
		return "", nil
	}
	j, err := i.Books.Job(ctx, t.Workspace, t.Job)
	if err != nil && muster.CodeOf(err) != muster.CodeNotFound {
		return "", err
	}
	u, err := url.Parse(j.URL)
	if err != nil || u.Host == "" {
		return "", nil
	}
	return u.Scheme + "://" + u.Host, nil
}

func facts(t muster.Trace, seal trace.Seal, server string, out outcome) attest.Facts {
	v := out.views
	f := attest.Facts{Trace: t.ID.String(), Runner: string(t.ID.Runner), Job: jobOf(t), Server: server, JobID: t.Job.ID, State: string(t.State), Seal: seal}
	if v.Overview.Recorder != nil {
		f.Recorder = *v.Overview.Recorder
	}
	for _, h := range v.Network.Hosts[:min(len(v.Network.Hosts), maxAttested)] {
		c := attest.Contact{Host: h.Host, Count: int(h.Connections)}
		switch {
		case h.Refused > 0:
			c.Verdict = trace.VerdictDenied
		case h.WouldDeny > 0:
			c.Verdict = trace.VerdictWouldDeny
		}
		f.Network = append(f.Network, c)
	}
	for _, p := range v.Programs[:min(len(v.Programs), maxAttested)] {
		f.Programs = append(f.Programs, attest.Program{Path: p.Path, Count: int(p.Count)})
	}
	seen := map[string]bool{}
	for _, s := range v.FileTops.Sensitive {
		if !seen[s.Path] && len(f.Files) < maxAttested {
			seen[s.Path] = true
			f.Files = append(f.Files, s.Path)
		}
	}
	at := map[string]int{}
	for _, d := range out.report.Detections {
		n, known := at[d.Rule]
		if !known {
			n = len(f.Findings)
			at[d.Rule] = n
			f.Findings = append(f.Findings, attest.Finding{Rule: d.Rule, Severity: string(d.Severity)})
		}
		f.Findings[n].Count++
	}
	return f
}

// Attestation is the signed statement about a trace, a DSSE envelope in JSON. CodeNotFound
// says why there is none.
func (i *Inspector) Attestation(ctx context.Context, ws string, id muster.TraceID) (muster.Trace, []byte, error) {
	t, err := i.readable(ctx, ws, id)
	if err != nil {
		return t, nil, err
	}
	envelope, err := i.object(ctx, ws, id, attestationName)
	if muster.CodeOf(err) != muster.CodeNotFound {
		return t, envelope, err
	}
	why := "it was made when the control plane had no key to sign with"
	switch {
	case t.State != muster.TraceComplete:
		why = fmt.Sprintf("it is %s, because %s", t.State, unsealed(t))
	case t.AnalysedAt.IsZero() && t.AnalysisError == "":
		return t, nil, muster.Errorf(muster.CodeNotFound, "there is no attestation of %s yet: it is made some seconds after the end of the job", Name(t))
	case t.AnalysisError != "":
		why = t.AnalysisError
	}
	return t, nil, muster.Errorf(muster.CodeNotFound, "there is no attestation of %s: %s", Name(t), why)
}

// Check is what came of reading a trace again.
type Check struct {
	Trace muster.Trace
	// Problem is what does not hold, "" if all of it does.
	Problem string
	Verdict attest.Verdict
}

// Verify reads all of a trace again and checks its chain, its seal and its signature. An
// error is one of the check; what does not hold is in Check.
func (i *Inspector) Verify(ctx context.Context, ws string, id muster.TraceID) (Check, error) {
	t, envelope, err := i.Attestation(ctx, ws, id)
	if err != nil {
		return Check{Trace: t}, err
	}
	c := Check{Trace: t}
	for _, k := range i.Keys {
		c.Verdict, err = attest.Verify(ctx, envelope, k.Public().(ed25519.PublicKey), i.segments(ctx, t))
		if !errors.Is(err, attest.ErrSignature) {
			break
		}
	}
	if now, err := i.Books.Trace(ctx, ws, id); err == nil {
		c.Trace = now // what was read may have changed it
	}
	switch {
	case len(i.Keys) == 0:
		c.Problem = "the control plane has no key to check it with"
	case muster.CodeOf(err) == muster.CodeConflict:
		c.Problem = muster.MessageOf(err)
	case errors.Is(err, attest.ErrSignature), errors.Is(err, attest.ErrOther), errors.Is(err, trace.ErrBroken):
		c.Problem = err.Error()
	case err != nil:
		return c, err
	case c.Verdict.Trace != t.ID.String():
		c.Problem = fmt.Sprintf("the attestation is that of trace %s", c.Verdict.Trace)
	}
	return c, nil
}

// PublicKeys are the keys that attestations are checked with, in PEM, the one that signs
// first; nothing if none are signed.
func (i *Inspector) PublicKeys() ([]byte, error) {
	var all []byte
	for _, k := range i.Keys {
		text, err := attest.EncodePublic(k.Public().(ed25519.PublicKey))
		if err != nil {
			return nil, err
		}
		all = append(all, text...)
	}
	return all, nil
}

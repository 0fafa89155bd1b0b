package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	"github.com/muster-ci/muster"
)

// The downloads beside the calls.
const (
	rawPath    = "/v1/traces/{runner}/{number}/raw"
	bundlePath = "/v1/traces/{runner}/{number}/bundle"
	keysPath   = "/v1/traces/keys"
)

// registerDownloads adds the routes of what is too large for a call.
func (a *API) registerDownloads(mux *http.ServeMux) {
	mux.Handle("GET "+rawPath, a.download(rawPath, a.rawTrace))
	mux.Handle("GET "+bundlePath, a.download(bundlePath, a.traceBundle))
	mux.Handle("GET "+keysPath, a.download(keysPath, a.traceKeys))
}

// download serves one GET by the rules of the funnel: guarded, authenticated, authorized,
// counted, with errors from the same table in Connect's JSON. begun tells that the answer
// has begun: an error after it cuts the connection, so that nobody takes half for all.
func (a *API) download(name string, serve func(ctx context.Context, w http.ResponseWriter, r *http.Request, begun func()) error) http.Handler {
	return a.guard(name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, done := a.enter(r.Context(), name)
		h := w.Header()
		h.Set(TraceHeader, muster.TraceOf(ctx))
		h.Set("Cache-Control", "no-store")
		begun := false
		err := func() (err error) {
			defer func() {
				if p := recover(); p != nil {
					err = panicked{p, debug.Stack()}
				}
			}()
			if ctx, err = a.admit(ctx, name, r.Header); err != nil {
				return err
			}
			return serve(ctx, w, r, func() { begun = true })
		}()
		err = done(err)
		if err == nil {
			return
		}
		if begun {
			a.Logger.WarnContext(ctx, "download cut off", "procedure", name, "trace_id", muster.TraceOf(ctx), "error", err)
			panic(http.ErrAbortHandler)
		}
		for _, name := range []string{"Content-Type", "Content-Encoding", "Content-Disposition"} {
			h.Del(name)
		}
		if e, ok := errors.AsType[*connect.Error](err); ok {
			_ = connect.NewErrorWriter().Write(w, r, e) // the reader went away: nobody to tell
		}
	}))
}

// asked is the trace that a download's path names.
func asked(r *http.Request) muster.TraceID {
	n, err := strconv.Atoi(r.PathValue("number"))
	if err != nil {
		n = 0 // no trace has it
	}
	return muster.TraceID{Runner: muster.RunnerID(r.PathValue("runner")), Number: n}
}

func (a *API) rawTrace(ctx context.Context, w http.ResponseWriter, r *http.Request, begun func()) error {
	port, err := a.kept()
	if err != nil {
		return err
	}
	packed := accepts(r, "zstd")
	return port.RawTrace(ctx, workspaceOf(ctx), asked(r), packed, w, func(t muster.Trace) {
		h := w.Header()
		h.Set("Content-Type", "application/jsonl; charset=utf-8")
		h.Add("Vary", "Accept-Encoding")
		if packed {
			h.Set("Content-Encoding", "zstd")
		}
		h.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", t.ID.String()+".jsonl"))
		begun()
	})
}

func (a *API) traceBundle(ctx context.Context, w http.ResponseWriter, r *http.Request, begun func()) error {
	port, err := a.kept()
	if err != nil {
		return err
	}
	return port.TraceBundle(ctx, workspaceOf(ctx), asked(r), w, func(t muster.Trace) {
		h := w.Header()
		h.Set("Content-Type", "application/jsonl; charset=utf-8")
		h.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", t.ID.String()+".bundle.jsonl"))
		begun()
	})
}

func (a *API) traceKeys(_ context.Context, w http.ResponseWriter, _ *http.Request, begun func()) error {
	port, err := a.kept()
	if err != nil {
		return err
	}
	keys, err := port.TraceKeys()
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return muster.Errorf(muster.CodeNotFound, "this control plane signs no attestations")
	}
	w.Header().Set("Content-Type", "application/x-pem-file")
	begun()
	_, err = w.Write(keys)
	return err
}

// accepts reports whether a request names an encoding as one that it takes.
func accepts(r *http.Request, encoding string) bool {
	for _, offered := range strings.Split(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, weight, _ := strings.Cut(offered, ";")
		if !strings.EqualFold(strings.TrimSpace(name), encoding) {
			continue
		}
		q, err := strconv.ParseFloat(strings.TrimPrefix(strings.TrimSpace(weight), "q="), 64)
		return err != nil || q > 0 // without a weight it is 1
	}
	return false
}

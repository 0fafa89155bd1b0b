package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
)

// maxBody is the most that is read of any request's body, in bytes.
const maxBody = 1 << 20

// defaultRetry is what an agent is told to wait when the cause knows no time.
const defaultRetry = 5 * time.Second

// statuses is how each class of errors is answered to an agent (4-10).
var statuses = map[muster.Code]int{
	muster.CodeInternal:        http.StatusInternalServerError,
	muster.CodeInvalid:         http.StatusBadRequest,
	muster.CodeUnauthenticated: http.StatusUnauthorized,
	muster.CodeForbidden:       http.StatusForbidden,
	muster.CodeNotFound:        http.StatusNotFound,
	muster.CodeConflict:        http.StatusConflict,
	muster.CodeExists:          http.StatusConflict,
	muster.CodeBusy:            http.StatusConflict,
	muster.CodeGone:            http.StatusGone,
	muster.CodeUnavailable:     http.StatusServiceUnavailable,
}

// errTooMany is answered with 429.
var errTooMany = &muster.Error{Code: muster.CodeUnavailable, Message: "too many agents are being served; ask again", RetryAfter: time.Second}

// statusOf is the status for an error, and how long to wait for 429 and 503.
// What ends a call from outside (its deadline, a shutdown) passes: it is 503.
func statusOf(err error) (status int, retry time.Duration) {
	status, ok := statuses[muster.CodeOf(err)]
	switch {
	case errors.Is(err, errTooMany):
		status = http.StatusTooManyRequests
	case !ok:
		status = http.StatusInternalServerError
	case status == http.StatusInternalServerError && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		status = http.StatusServiceUnavailable
	}
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		retry = defaultRetry
		if e, ok := errors.AsType[*muster.Error](err); ok && e.RetryAfter > 0 {
			retry = e.RetryAfter
		}
	}
	return status, retry
}

// agentRoute serves one route of the agent's protocol: POST, a bearer token, at
// most maxBody of JSON. Members that are not known are ignored, so that agents
// may be newer than the control plane.
func agentRoute[Req, Resp any](a *API, call func(context.Context, string, Req) (Resp, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := a.Now()
		ctx := muster.WithTrace(r.Context(), newTrace())
		var resp Resp
		status, err := http.StatusOK, error(nil)
		func() {
			defer func() {
				if p := recover(); p != nil {
					err = panicked{p, debug.Stack()}
				}
			}()
			var req Req
			var token string
			if status, token, err = readAgent(w, r, &req); err == nil {
				resp, err = call(ctx, token, req)
			}
		}()
		h := w.Header()
		h.Set(TraceHeader, muster.TraceOf(ctx))
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "no-store") // a boot answer holds secrets
		var body any = resp
		if err != nil {
			var retry time.Duration
			if status == http.StatusOK {
				status, retry = statusOf(err)
			}
			if retry > 0 {
				h.Set("Retry-After", seconds(retry))
			}
			refusal := wire.Error{Code: string(muster.CodeOf(err)), Message: muster.MessageOf(err)}
			switch status {
			case http.StatusInternalServerError:
				refusal.Message = sanitized(ctx)
				a.Logger.ErrorContext(ctx, "agent's call failed", "procedure", r.URL.Path, "trace_id", muster.TraceOf(ctx), "error", err)
			case http.StatusServiceUnavailable, http.StatusTooManyRequests:
				if refusal.Code == string(muster.CodeInternal) {
					refusal = wire.Error{Code: string(muster.CodeUnavailable), Message: "the control plane cannot answer now; ask again"}
				}
			}
			body = refusal
		}
		a.Observer.Called(r.URL.Path, strconv.Itoa(status), a.Now().Sub(began))
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(body); err != nil {
			a.Logger.DebugContext(ctx, "answer not written", "procedure", r.URL.Path, "error", err)
		}
	})
}

// readAgent reads one request. The status is that of the refusal, or 200.
func readAgent(w http.ResponseWriter, r *http.Request, into any) (status int, token string, err error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return http.StatusMethodNotAllowed, "", muster.Errorf(muster.CodeInvalid, "use POST")
	}
	token, ok := bearer(r.Header)
	if !ok {
		return http.StatusUnauthorized, "", muster.Errorf(muster.CodeUnauthenticated, "no bearer token in the Authorization header")
	}
	err = json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(into)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return http.StatusRequestEntityTooLarge, "", muster.Errorf(muster.CodeInvalid, "the body is larger than %d bytes", maxBody)
	}
	if err != nil {
		return http.StatusBadRequest, "", muster.Errorf(muster.CodeInvalid, "the body is not the JSON that %s takes", r.URL.Path)
	}
	return http.StatusOK, token, nil
}

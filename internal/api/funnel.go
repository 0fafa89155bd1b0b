package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/muster-ci/muster"
)

// Headers of every answer.
const (
	// TraceHeader carries the trace id under which the log has the call.
	TraceHeader = "Muster-Trace-Id"
	// CodeHeader carries the muster.Code of a refusal, which is finer than Connect's.
	CodeHeader = "Muster-Code"
)

// connectCodes is how each class of errors is answered.
var connectCodes = map[muster.Code]connect.Code{
	muster.CodeInternal:        connect.CodeInternal,
	muster.CodeInvalid:         connect.CodeInvalidArgument,
	muster.CodeUnauthenticated: connect.CodeUnauthenticated,
	muster.CodeForbidden:       connect.CodePermissionDenied,
	muster.CodeNotFound:        connect.CodeNotFound,
	muster.CodeConflict:        connect.CodeFailedPrecondition,
	muster.CodeGone:            connect.CodeFailedPrecondition,
	muster.CodeExists:          connect.CodeAlreadyExists,
	muster.CodeBusy:            connect.CodeFailedPrecondition,
	muster.CodeUnavailable:     connect.CodeUnavailable,
}

// caller is who calls, and what they may see.
type caller struct {
	name      string
	workspace string
}

type callerKey struct{}

// workspaceOf is the workspace of the call that ctx belongs to. There is none
// outside the funnel, and "" then matches no row of any workspace.
func workspaceOf(ctx context.Context) string {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c.workspace
}

// funnel is the one way into every service.
type funnel struct{ *API }

func (f funnel) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (resp connect.AnyResponse, err error) {
		ctx, done := f.enter(ctx, req.Spec().Procedure)
		defer func() {
			trace := muster.TraceOf(ctx)
			if p := recover(); p != nil {
				resp, err = nil, panicked{p, debug.Stack()}
			}
			if err = done(err); err == nil {
				resp.Header().Set(TraceHeader, trace)
			}
		}()
		if ctx, err = f.admit(ctx, req.Spec().Procedure, req.Header()); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
}

func (f funnel) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) (err error) {
		ctx, done := f.enter(ctx, conn.Spec().Procedure)
		defer func() {
			if p := recover(); p != nil {
				err = panicked{p, debug.Stack()}
			}
			err = done(err)
		}()
		conn.ResponseHeader().Set(TraceHeader, muster.TraceOf(ctx))
		if ctx, err = f.admit(ctx, conn.Spec().Procedure, conn.RequestHeader()); err != nil {
			return err
		}
		return next(ctx, conn)
	}
}

// WrapStreamingClient is for clients, which do not use the funnel.
func (f funnel) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// enter gives the call a trace id; done counts it and makes its error presentable.
func (a *API) enter(ctx context.Context, procedure string) (_ context.Context, done func(error) error) {
	began := a.Now()
	ctx = muster.WithTrace(ctx, newTrace())
	return ctx, func(err error) error {
		code := "ok"
		if err != nil {
			e := a.present(ctx, procedure, err)
			code, err = e.Code().String(), e
		}
		a.Observer.Called(procedure, code, a.Now().Sub(began))
		return err
	}
}

// admit authenticates and authorizes.
func (a *API) admit(ctx context.Context, procedure string, h http.Header) (context.Context, error) {
	who, err := a.authenticate(h)
	if err != nil {
		return ctx, err
	}
	if err := authorize(who, procedure); err != nil {
		return ctx, err
	}
	return context.WithValue(ctx, callerKey{}, who), nil
}

// authenticate takes the operator's bearer token. Without one configured, guard
// has let in callers of this machine only.
func (a *API) authenticate(h http.Header) (caller, error) {
	who := caller{name: "operator", workspace: a.Workspace}
	if a.OperatorToken == "" {
		return who, nil
	}
	token, ok := bearer(h)
	if !ok {
		return caller{}, muster.Errorf(muster.CodeUnauthenticated, "no operator token: pass it with --token-file or MUSTER_TOKEN")
	}
	// Hashes have one length, so that the comparison's time tells nothing of the token.
	got, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(a.OperatorToken.Reveal()))
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		return caller{}, muster.Errorf(muster.CodeUnauthenticated, "the operator token is wrong: it is the text in the control plane's operator_token_file")
	}
	return who, nil
}

// authorize decides whether a caller may call a procedure. The operator may call
// all of them in its own workspace, which every read and command carries.
func authorize(who caller, procedure string) error {
	if who.workspace == "" {
		return muster.Errorf(muster.CodeForbidden, "%s belongs to no workspace and may not call %s", who.name, procedure)
	}
	return nil
}

// guard keeps other people's web pages and machines from an API that asks for no
// token. A page that the operator's browser shows can send requests to this
// machine: cross-origin ones are refused, and so are those whose Host is a name
// that was made to resolve to this machine, or that came through a proxy.
func (a *API) guard(service string, next http.Handler) http.Handler {
	sameOrigin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse := ""
		switch {
		case sameOrigin.Check(r) != nil:
			refuse = "requests from other web pages are refused"
		case a.OperatorToken != "":
		case !local(r.RemoteAddr) || !local(r.Host) || r.Header.Get("X-Forwarded-For") != "" || r.Header.Get("Forwarded") != "":
			refuse = "without an operator token the API answers callers on its own machine only: set operator_token_file"
		}
		if refuse != "" {
			err := connect.NewError(connect.CodePermissionDenied, errors.New(refuse))
			err.Meta().Set(CodeHeader, string(muster.CodeForbidden))
			a.Observer.Called(service, err.Code().String(), 0) // not the path, which strangers choose
			if writeErr := connect.NewErrorWriter().Write(w, r, err); writeErr != nil {
				a.Logger.DebugContext(r.Context(), "answer not written", "error", writeErr)
			}
			return
		}
		next.ServeHTTP(w, r)
	})
}

// local reports whether a host, with or without a port, is this machine.
func local(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

func bearer(h http.Header) (token string, ok bool) {
	scheme, token, ok := strings.Cut(h.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	return token, ok && strings.EqualFold(scheme, "Bearer") && token != ""
}

// panicked is a panic of a handler on its way to the log.
type panicked struct {
	value any
	stack []byte
}

func (p panicked) Error() string { return fmt.Sprintf("panic: %v\n%s", p.value, p.stack) }

// recovered is the last net: Connect calls it for panics outside the funnel.
func (a *API) recovered(ctx context.Context, spec connect.Spec, _ http.Header, p any) error {
	return a.present(ctx, spec.Procedure, panicked{p, debug.Stack()})
}

// present makes of any error one that may leave the process. Internal ones are
// logged here, and only here, and answered by a sentence with the trace id.
func (a *API) present(ctx context.Context, procedure string, err error) *connect.Error {
	if e, ok := errors.AsType[*connect.Error](err); ok {
		return e // Connect's own: a body that is too large, a protocol error
	}
	code := muster.CodeOf(err)
	var out *connect.Error
	switch {
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		out = connect.NewError(connect.CodeCanceled, errors.New("the caller went away"))
	case code == muster.CodeInternal && errors.Is(err, context.DeadlineExceeded):
		out = connect.NewError(connect.CodeDeadlineExceeded, errors.New("the call took longer than its deadline"))
	default:
		c, ok := connectCodes[code]
		if !ok {
			c = connect.CodeInternal
		}
		message := muster.MessageOf(err)
		if c == connect.CodeInternal {
			message = sanitized(ctx)
			a.Logger.ErrorContext(ctx, "call failed", "procedure", procedure, "trace_id", muster.TraceOf(ctx), "error", err)
		}
		out = connect.NewError(c, errors.New(message))
		out.Meta().Set(CodeHeader, string(code))
	}
	if e, ok := errors.AsType[*muster.Error](err); ok && e.RetryAfter > 0 {
		out.Meta().Set("Retry-After", seconds(e.RetryAfter))
	}
	out.Meta().Set(TraceHeader, muster.TraceOf(ctx))
	return out
}

func sanitized(ctx context.Context) string {
	return "internal error; the log of the control plane has the details under trace id " + muster.TraceOf(ctx)
}

// seconds is a wait in whole seconds, rounded up, at least 1.
func seconds(d time.Duration) string {
	return strconv.FormatInt(max(1, int64((d+time.Second-1)/time.Second)), 10)
}

func newTrace() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

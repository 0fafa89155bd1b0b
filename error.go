package muster

import (
	"errors"
	"fmt"
	"time"
)

// Code classifies an error for whoever has to answer it: one table per edge
// (HTTP, Connect, CLI exit status) maps codes and nothing else.
type Code string

const (
	// CodeInternal is the class of every error that is not an *Error. Its text
	// is never shown to a caller.
	CodeInternal Code = "internal"
	// CodeInvalid means that the input can never be accepted as it is.
	CodeInvalid Code = "invalid"
	// CodeUnauthenticated means that the caller did not prove who it is.
	CodeUnauthenticated Code = "unauthenticated"
	// CodeForbidden means that the caller is known and may not do this.
	CodeForbidden Code = "forbidden"
	// CodeNotFound means that the thing named does not exist in the caller's workspace.
	CodeNotFound Code = "not_found"
	// CodeConflict means that the thing is in a state that does not allow this now,
	// for example a boot token that was already used.
	CodeConflict Code = "conflict"
	// CodeGone means that the thing was there, is finished and will not come back,
	// for example a runner that is no longer needed.
	CodeGone Code = "gone"
	// CodeExists means that the name is taken, as GitHub answers 409 for a runner's name (4-11).
	CodeExists Code = "exists"
	// CodeBusy means that a runner runs a job and may not be removed, as GitHub answers 422 (4-17).
	CodeBusy Code = "busy"
	// CodeUnavailable means that the same call may succeed later.
	CodeUnavailable Code = "unavailable"
)

// Error is an error whose message may be shown to the caller. The message says
// what is wrong and, where there is one, the remedy; it never holds a secret.
type Error struct {
	Code    Code
	Message string
	// RetryAfter is how long to wait before the same call, 0 if unknown. Only
	// CodeUnavailable carries it.
	RetryAfter time.Duration
	// Err is the cause, for logs; it is not shown to callers. May be nil.
	Err error
}

// Errorf makes an *Error with a formatted message and no cause.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Error returns the message, followed by the cause if there is one.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the class of err: "" for nil, CodeInternal when no *Error is
// in its chain.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

// MessageOf returns the text that may be shown for err: the message of the
// *Error in its chain, or a fixed sentence for an internal error.
func MessageOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Message
	}
	return "internal error; the log of the control plane has the details under this request's trace id"
}

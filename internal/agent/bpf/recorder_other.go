//go:build !linux || !(amd64 || arm64)

package bpf

import (
	"context"
	"errors"
	"runtime"

	"github.com/muster-ci/muster/internal/trace"
)

// Recorder records nothing on this system.
type Recorder struct{ agent string }

// Scope is never made on this system.
type Scope struct{}

// ErrNotRecording is that of a recorder that records nothing on this machine.
var ErrNotRecording = errors.New("nothing is recorded on this machine")

const why = "the recorder needs Linux on amd64 or arm64, and this is " + runtime.GOOS + "/" + runtime.GOARCH

// Open returns a recorder that says why it records nothing.
func Open(o Options) (*Recorder, error) { return &Recorder{o.Agent}, nil }

// Describe says that everything is missing.
func (r *Recorder) Describe() trace.Recorder {
	return trace.Recorder{Agent: r.agent, Missing: map[string]string{"all": why}}
}

// Follow fails with ErrNotRecording.
func (r *Recorder) Follow(context.Context, Follow) (*Scope, error) { return nil, ErrNotRecording }

// Place is never made on this system.
type Place struct{ Dir string }

// Place fails with ErrNotRecording.
func (r *Recorder) Place(int) (Place, error) { return Place{}, ErrNotRecording }

// Holds is never called.
func (p Place) Holds(int) bool { return false }

// Close does nothing.
func (p Place) Close() error { return nil }

// Close does nothing.
func (r *Recorder) Close() error { return nil }

// Events is never called.
func (s *Scope) Events() <-chan []trace.Event { return nil }

// Lost is never called.
func (s *Scope) Lost() map[string]int64 { return nil }

// Describe is never called.
func (s *Scope) Describe() trace.Recorder { return trace.Recorder{} }

// Close is never called.
func (s *Scope) Close() error { return nil }

package muster

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
)

// Secret is a value that must not be shown: every way of printing, logging or
// encoding it yields "***". Reveal is the only way to its text. Three traps
// remain, since fmt and encoding/json ask no method there: a Secret in an
// unexported field of a struct that is printed whole, the verb %p, and a Secret
// as the key of a map.
type Secret string

// Reveal returns the secret's text, to be used at once and not kept.
func (s Secret) Reveal() string { return string(s) }

// String returns "***", or "" for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// Format writes String for every verb. Without it fmt would show the text of a
// secret that is printed with a verb made for another type, such as %d.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// GoString is String, so that %#v does not reveal the secret.
func (s Secret) GoString() string { return s.String() }

// LogValue is String, so that slog does not reveal the secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON encodes String.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// MarshalText encodes String.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

package muster

import (
	"encoding/json"
	"log/slog"
)

// Secret is a value that must not be shown: every way of printing, logging or
// encoding it yields "***". Reveal is the only way to its text.
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

// GoString is String, so that %#v does not reveal the secret.
func (s Secret) GoString() string { return s.String() }

// LogValue is String, so that slog does not reveal the secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON encodes String.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// MarshalText encodes String.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

package provider

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// DecodeConfig decodes a provider's own section of the configuration into the
// struct that into points to. It is strict and reports every problem at once, in
// the order of their keys: unknown keys and values of the wrong type. Fields that the section does not name keep their
// value, so that into can hold the defaults. An empty section is an empty object.
func DecodeConfig(section json.RawMessage, into any) error {
	if len(bytes.TrimSpace(section)) == 0 || bytes.Equal(bytes.TrimSpace(section), []byte("null")) {
		return nil
	}
	var values map[string]json.RawMessage
	if err := json.Unmarshal(section, &values); err != nil {
		return fmt.Errorf("the section must be a list of keys and values: %w", err)
	}
	fields := map[string]reflect.Value{}
	var known []string
	for f, v := range reflect.ValueOf(into).Elem().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || name == "" {
			continue
		}
		fields[name] = v
		known = append(known, name)
	}
	keys := make([]string, 0, len(values))
	for k := range values {
		keys = append(keys, k)
	}
	slices.Sort(keys)

	var problems []error
	for _, k := range keys {
		field, ok := fields[k]
		if !ok {
			problems = append(problems, fmt.Errorf("%s: unknown key; known are %s", k, strings.Join(known, ", ")))
			continue
		}
		if field.Kind() == reflect.Slice {
			field.SetZero() // or its new elements would inherit what the old ones at their places had
		}
		d := json.NewDecoder(bytes.NewReader(values[k]))
		d.DisallowUnknownFields()
		if err := d.Decode(field.Addr().Interface()); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", k, plainly(err)))
		}
	}
	return errors.Join(problems...)
}

// plainly says a type error of encoding/json without Go's words.
func plainly(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		want := map[reflect.Kind]string{
			reflect.String: "a text", reflect.Bool: "true or false", reflect.Slice: "a list", reflect.Map: "keys and values",
			reflect.Int: "a whole number", reflect.Int64: "a whole number", reflect.Float64: "a number",
		}[e.Type.Kind()]
		if want != "" {
			return fmt.Errorf("is a %s and must be %s", e.Value, want)
		}
	}
	return err
}

// Duration is a time.Duration that is written as text, "90s" or "5m", in
// configuration.
type Duration time.Duration

// UnmarshalJSON reads "90s".
func (d *Duration) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return errors.New(`must be a text with a unit, such as "90s" or "5m"`)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf(`%q must be a number with a unit, such as "90s" or "5m"`, s)
	}
	*d = Duration(v)
	return nil
}

// MarshalJSON writes "1m30s".
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

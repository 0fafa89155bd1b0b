package store

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// micros is how a time lies in a column: microseconds since 1970, 0 for none.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// instant is the inverse of micros.
func instant(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// encode is a document as it lies in a column. v should be normal.
func encode(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode %T: %w", v, err)
	}
	return string(b), nil
}

func decode[T any](doc string) (T, error) {
	var v T
	if err := json.Unmarshal([]byte(doc), &v); err != nil {
		return v, fmt.Errorf("decode %T: %w", v, err)
	}
	return v, nil
}

// normal returns a copy of v, sharing no slice with it, in which every time is
// in UTC with microseconds: what a method returns is what a later read returns.
func normal[T any](v T) T {
	normalize(reflect.ValueOf(&v).Elem())
	return v
}

var timeType = reflect.TypeFor[time.Time]()

func normalize(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == timeType {
			t := v.Interface().(time.Time)
			if !t.IsZero() {
				v.Set(reflect.ValueOf(t.UTC().Truncate(time.Microsecond)))
			} else {
				v.SetZero()
			}
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				normalize(v.Field(i))
			}
		}
	case reflect.Slice:
		if v.IsNil() {
			return
		}
		own := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		reflect.Copy(own, v)
		v.Set(own)
		if k := v.Type().Elem().Kind(); k == reflect.Struct || k == reflect.Slice {
			for i := range v.Len() {
				normalize(v.Index(i))
			}
		}
	}
}

// one reads the one document that a query selects.
func one[T any](t *tx, query string, args ...any) (v T, found bool, err error) {
	var text string
	if found, err = t.row(query, args, &text); err != nil || !found {
		return v, false, err
	}
	v, err = decode[T](text)
	return v, err == nil, err
}

// all reads all the documents that a query selects.
func all[T any](t *tx, query string, args ...any) ([]T, error) {
	var out []T
	err := t.rows(query, args, func(scan scanner) error {
		var text string
		if err := scan(&text); err != nil {
			return err
		}
		v, err := decode[T](text)
		out = append(out, v)
		return err
	})
	return out, err
}

// key is an id as it stands in a Change.
func key(id int64) string { return strconv.FormatInt(id, 10) }

// fold is how names lie in a column that GitHub compares without regard to case.
func fold(name string) string { return strings.ToLower(name) }

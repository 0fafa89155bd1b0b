package muster_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
)

// fill sets every field of v that JSON knows to a value of its own. v is addressable.
func fill(t *testing.T, v reflect.Value, n *int64) {
	t.Helper()
	*n++
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(noon.Add(time.Duration(*n) * time.Microsecond)))
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("json") != "-" { // not a setting
				fill(t, v.Field(i), n)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(t, v.Index(i), n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), n)
	case reflect.String:
		v.SetString(fmt.Sprint("text-", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(*n)
	case reflect.Float64:
		v.SetFloat(float64(*n) / 4)
	default:
		t.Fatalf("no value for a %s", v.Type())
	}
}

// roundTrip encodes a value in which every field is set, and compares what comes back.
func roundTrip[T any](t *testing.T) (text string, value T) {
	t.Helper()
	var n int64
	fill(t, reflect.ValueOf(&value).Elem(), &n)
	b, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var back T
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, value) {
		t.Errorf("came back as\n%+v\nand was\n%+v", back, value)
	}
	return string(b), value
}

// S1-54 S1-56: the settings of a runner's life are a pool (where it registers, as what, for how many
// jobs, how long) and an offering (its machine). Both come back from JSON as they were. The token
// beside them is never written.
func TestSettingsRoundTrip(t *testing.T) {
	text, _ := roundTrip[muster.Pool](t)
	for _, name := range []string{"max_job_count", "rotation_interval", "scope", "labels", "runner_group", "provider", "offering"} {
		if !strings.Contains(text, `"`+name+`":`) {
			t.Errorf("%s is not among the pool's settings: %s", name, text)
		}
	}
	roundTrip[muster.Offering](t)
	if p := (muster.Pool{}).WithDefaults(); p.MaxJobCount != 1 || p.RotationInterval != 24*time.Hour {
		t.Errorf("a runner takes %d jobs and is replaced after %s by default", p.MaxJobCount, p.RotationInterval)
	}
	const token = "ghp_canary0123456789"
	whole := struct {
		Pool        muster.Pool
		Offering    muster.Offering
		GitHubToken muster.Secret
	}{GitHubToken: token}
	b, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{string(b), fmt.Sprint(whole), fmt.Sprintf("%+v", whole), fmt.Sprintf("%#v", whole)} {
		if strings.Contains(s, token) || !strings.Contains(s, "***") {
			t.Errorf("the token is shown: %s", s)
		}
	}
}

// S1-57: what is known of a runner comes back from JSON as it was: its machine (Provider, Instance,
// Offering), its id and name on GitHub, when it was made, the one job that it took, and its state.
func TestRunnerRoundTrip(t *testing.T) {
	text, r := roundTrip[muster.Runner](t)
	for _, want := range []string{r.Provider, r.Instance, r.Offering, fmt.Sprint(r.GitHubID), r.Name, r.CreatedAt.Format(time.RFC3339Nano), fmt.Sprint(r.Job.ID), string(r.State)} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not told: %s", want, text)
		}
	}
	for i := range reflect.TypeFor[muster.Runner]().NumField() {
		f := reflect.TypeFor[muster.Runner]().Field(i)
		if name := strings.ToLower(f.Name); f.Type == reflect.TypeFor[muster.Secret]() || strings.Contains(name, "token") || strings.Contains(name, "jit") {
			t.Errorf("%s: a runner's record holds no credential", f.Name)
		}
	}
}

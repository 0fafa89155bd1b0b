package githubsim

import (
	"encoding/hex"
	"testing"
	"testing/synctest"
	"time"
)

// The vector of GitHub's own documentation.
func TestSignatureVector(t *testing.T) {
	got := hex.EncodeToString(sign256("It's a Secret to Everybody", []byte("Hello, World!")))
	if want := "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestAgenda(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgenda(time.Now)
		var got []string
		add := func(d time.Duration, name string) *entry { return a.after(d, func() { got = append(got, name) }) }
		add(3*time.Second, "c")
		add(time.Second, "a")
		add(time.Second, "b") // equal times: in the order in which they came
		late := add(2*time.Second, "never")
		add(time.Hour, "too late")
		a.cancel(late)
		a.cancel(late)
		a.cancel(nil)
		<-time.After(10 * time.Second)
		synctest.Wait()
		if len(got) != 3 || got[0] != "a" || got[1] != "b" || got[2] != "c" {
			t.Errorf("ran %q", got)
		}
		a.close()
		if a.after(time.Second, func() { t.Error("ran after close") }); len(a.entries) != 0 {
			t.Error("an entry after close")
		}
	})
}

func TestWithin(t *testing.T) {
	at := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]bool{
		"2026-05-04": true, "2026-05-05": false, ">=2026-05-04T12:00:00Z": true, ">2026-05-04T12:00:00Z": false, "<2026-05-04T12:00:01Z": true,
		"<=2026-05-04": false, "2026-05-01..2026-05-10": true, "*..2026-05-01": false, "2026-05-04..*": true, "soon": false,
	} {
		if got := within(text, at); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// Whatever stands in an Authorization header, it is taken apart without a panic
// and nothing that is not RS256 gets through.
func FuzzSplitJWT(f *testing.F) {
	f.Add("eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOjF9.AAAA")
	f.Add("eyJhbGciOiJub25lIn0.eyJpc3MiOjF9.")
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		signed, _, claims, err := splitJWT(token)
		if err != nil {
			return
		}
		if len(signed) >= len(token) {
			t.Errorf("signed part %q of %q", signed, token)
		}
		seconds(claims["exp"])
	})
}

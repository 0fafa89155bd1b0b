package agent

import (
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for line, want := range map[string]event{
		"Listening for Jobs":                                                                   {sight: sawListening},
		"2026-03-01 10:00:00Z: Listening for Jobs\r":                                           {sight: sawListening},
		"2026-03-01 10:00:00Z: Running job: a: b":                                              {sight: sawRunning, job: "a: b"},
		"Running job: Listening for Jobs":                                                      {sight: sawRunning, job: "Listening for Jobs"},
		"2026-03-01 10:00:00Z: Job a completed with result: Failed":                            {sight: sawCompleted, job: "a", result: "Failed"},
		"Job x completed with result: Succeeded completed with result: Canceled":               {sight: sawCompleted, job: "x completed with result: Succeeded", result: "Canceled"},
		"The runner registration has been deleted from the server, please re-configure.":       {sight: sawDeleted},
		"An error occured: Runner version v2.285.1 is deprecated and cannot receive messages.": {sight: sawDeprecated}, //nolint:misspell // the runner's own words
		"":                                 {},
		"not Listening for Jobs":           {},
		" Listening for Jobs":              {},
		"Listening for Jobs at":            {},
		"echo Running job: x":              {},
		"2026-03-01: Listening for Jobs":   {},
		"Job x completed with result: ":    {sight: sawCompleted, job: "x"},
		"Job x completed with result: a b": {},
		"[WORKER 2026-03-01 10:00:00Z INFO JobRunner] Job x completed with result: Succeeded": {},
	} {
		if got := parse(line); got != want {
			t.Errorf("%q: %+v, want %+v", line, got, want)
		}
	}
}

func FuzzOutput(f *testing.F) {
	f.Add("Listening for Jobs\nRunning job: x\nsecret-secret", 3)
	f.Fuzz(func(t *testing.T, text string, size int) {
		size = min(max(size, 1), 1<<16)
		var passed strings.Builder
		hide := newRedactor(func(p []byte) { passed.Write(p) }, "secret-secret", "secret-s")
		var cut []string
		split := lines{line: func(l string) { cut = append(cut, l); parse(l) }}
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			hide.write([]byte(rest[:n]))
			split.write([]byte(rest[:n]))
			rest = rest[n:]
		}
		hide.end()
		split.end()
		if strings.Contains(passed.String(), "secret-s") {
			t.Errorf("a secret passed: %q", passed.String())
		}
		if !strings.Contains(text, "secret-s") && passed.String() != text {
			t.Errorf("%q became %q", text, passed.String())
		}
		if want := strings.Split(text, "\n"); len(cut) != len(want) {
			t.Errorf("%d lines of %d", len(cut), len(want))
		}
	})
}

func TestLongLine(t *testing.T) {
	var got []string
	l := lines{line: func(s string) { got = append(got, s) }}
	for range 10 << 10 {
		l.write([]byte(strings.Repeat("z", 1024))) // 10 MiB
	}
	l.write([]byte("\nListening for Jobs\n"))
	if len(got) != 2 || len(got[0]) != maxLine || got[1] != "Listening for Jobs" || cap(l.partial) > 2*maxLine {
		t.Errorf("%d lines, %d bytes kept", len(got), cap(l.partial))
	}
}

func TestRedactorDoesNotHoldBackMore(t *testing.T) {
	var got string
	r := newRedactor(func(p []byte) { got += string(p) }, "secret-of-some-length", "short")
	r.write([]byte("progress: 10%"))
	if got != "progress: 10%" {
		t.Errorf("%q was held back", "progress: 10%"[len(got):])
	}
	r.write([]byte(" secret-of"))
	if got != "progress: 10% " {
		t.Errorf("passed %q", got)
	}
	r.write([]byte("-other"))
	r.end()
	if got != "progress: 10% secret-of-other" {
		t.Errorf("passed %q", got)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "5": 5 * time.Second, "-1": 0, "99999999999": time.Hour, "1e9": 0, "Sun, 01 Mar 2026 10:00:30 GMT": 30 * time.Second, "Sun, 01 Mar 2020 10:00:30 GMT": 0,
	} {
		if header == "99999999999" {
			want = time.Hour
		}
		if got := retryAfter(header, now); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}

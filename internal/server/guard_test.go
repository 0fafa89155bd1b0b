package server

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestLocalOnly(t *testing.T) {
	h := localOnly(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	for name, tc := range map[string]struct {
		host, from, forwarded string
		want                  int
	}{
		"Browser":        {"127.0.0.1:8080", "127.0.0.1:5000", "", http.StatusNoContent},
		"Localhost":      {"localhost:8080", "[::1]:5000", "", http.StatusNoContent},
		"Rebinding":      {"evil.example:8080", "127.0.0.1:5000", "", http.StatusForbidden},
		"AnotherMachine": {"127.0.0.1:8080", "192.0.2.7:5000", "", http.StatusForbidden},
		"ThroughAProxy":  {"127.0.0.1:8080", "127.0.0.1:5000", "192.0.2.7", http.StatusForbidden},
		"EmptyHost":      {"", "127.0.0.1:5000", "", http.StatusForbidden},
		"UnixSocketOrSo": {"127.0.0.1:8080", "@", "", http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Host, r.RemoteAddr = tc.host, tc.from
			if tc.forwarded != "" {
				r.Header.Set("X-Forwarded-For", tc.forwarded)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tc.want {
				t.Errorf("status %d, want %d", w.Code, tc.want)
			}
		})
	}
}

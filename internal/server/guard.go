package server

import (
	"net/http"

	"github.com/muster-ci/muster/internal/config"
)

// localOnly keeps a dashboard that asks for no token to this machine: a name that
// somebody made to resolve to it (DNS rebinding), another machine, or a proxy get
// 403, by the rule of the API.
func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !config.Loopback(r.RemoteAddr) || !config.Loopback(r.Host) || r.Header.Get("X-Forwarded-For") != "" || r.Header.Get("Forwarded") != "" {
			answer(w, http.StatusForbidden, "without an operator token the dashboard answers browsers on its own machine only: set operator_token_file\n")
			return
		}
		next.ServeHTTP(w, r)
	})
}

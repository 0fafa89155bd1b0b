package compat

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/wire"
)

// Launches trades launch tokens.
type Launches interface {
	GHARunner(ctx context.Context, token, slurmJob string) (wire.GHARunner, error)
}

// GHA answers nodes of Slurm whose own script registers their runner (S2-18):
//
//	POST /gha/runner   Authorization: LAUNCH-TOKEN, Slurm-Job-Id: JOB   200 {"token": "…", …}
//	GET  /gha/keys     the public keys of launch tokens, for the gateway
//
// Refusals of the first are 400, 401, 403, 409 (used), 410 (no longer needed, upon which
// the script ends cleanly), 429 and 503 with Retry-After, and a wire.Error (4-10).
// Neither tokens nor what GitHub answered are logged.
type GHA struct {
	launches Launches
	keys     []byte
	log      *slog.Logger
	room     chan struct{}
}

// atOnce is how many nodes are answered at a time. A thousand may start together, and
// GitHub allows a hundred calls at once.
const atOnce = 32

// NewGHA makes the two routes; keys are what /gha/keys answers.
func NewGHA(l Launches, keys []byte, log *slog.Logger) *GHA {
	return &GHA{launches: l, keys: keys, log: log, room: make(chan struct{}, atOnce)}
}

// Register adds the routes.
func (g *GHA) Register(mux *http.ServeMux) {
	mux.HandleFunc(wire.GHARunnerPath, only(http.MethodPost, g.runner))
	mux.HandleFunc(wire.LaunchKeysPath, only(http.MethodGet, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(g.keys) // the reader went away: nobody to tell
	}))
}

func (g *GHA) runner(w http.ResponseWriter, r *http.Request) {
	select {
	case g.room <- struct{}{}:
		defer func() { <-g.room }()
	default:
		g.refuse(w, &muster.Error{Code: muster.CodeUnavailable, Message: "too many nodes are being answered; ask again", RetryAfter: time.Second}, http.StatusTooManyRequests)
		return
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token == "" {
		g.refuse(w, muster.Errorf(muster.CodeUnauthenticated, "the Authorization header must hold the launch token"), http.StatusUnauthorized)
		return
	}
	job := r.Header.Get(wire.SlurmJobHeader)
	if len(job) > 64 {
		job = ""
	}
	out, err := g.launches.GHARunner(r.Context(), token, job)
	if err != nil {
		g.refuse(w, err, 0)
		return
	}
	w.Header().Set("Cache-Control", "no-store") // it is a credential
	write(w, http.StatusOK, out)
}

// refuse answers an error; status 0 is that of its class.
func (g *GHA) refuse(w http.ResponseWriter, err error, status int) {
	code := muster.CodeOf(err)
	refusal := wire.Error{Code: string(code), Message: muster.MessageOf(err)}
	if status == 0 {
		switch code {
		case muster.CodeInvalid:
			status = http.StatusBadRequest
		case muster.CodeUnauthenticated:
			status = http.StatusUnauthorized
		case muster.CodeForbidden:
			status = http.StatusForbidden
		case muster.CodeConflict, muster.CodeExists:
			status = http.StatusConflict
		case muster.CodeGone, muster.CodeNotFound:
			status = http.StatusGone
		default:
			// What failed here may work soon. A script that is told 500 tells that from
			// nothing else, and 4-10 was made of that.
			status = http.StatusServiceUnavailable
			if code != muster.CodeUnavailable {
				g.log.Error("trade of a launch token failed", "error", err)
				refusal = wire.Error{Code: string(muster.CodeUnavailable), Message: "the control plane cannot answer now; ask again"}
			}
		}
	}
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		retry := 5 * time.Second
		if e, ok := errors.AsType[*muster.Error](err); ok && e.RetryAfter > 0 {
			retry = e.RetryAfter
		}
		w.Header().Set("Retry-After", strconv.Itoa(max(1, int((retry+time.Second-1)/time.Second))))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(refusal) // the reader went away: nobody to tell
}

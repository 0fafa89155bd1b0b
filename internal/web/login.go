package web

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/muster-ci/muster"
)

const (
	cookieName = "muster_session"
	// sessionAge is how long a sign-in lasts.
	sessionAge = 12 * time.Hour
)

// login keeps the operator's session. The cookie holds its expiry and a
// signature under a key derived from the token: no state to keep, and a new
// token ends all sessions. Safe for concurrent use.
type login struct {
	token muster.Secret
	key   []byte
	now   func() time.Time
	tries *rate.Limiter
}

func newLogin(token muster.Secret, now func() time.Time) *login {
	key, err := hkdf.Key(sha256.New, []byte(token.Reveal()), nil, "muster dashboard session", 32)
	if err != nil { // only for impossible lengths
		panic(err)
	}
	// Guessing is bounded for everyone together; an operator types it once a day.
	return &login{token: token, key: key, now: now, tries: rate.NewLimiter(rate.Every(time.Second), 10)}
}

// guard lets through who is signed in or shows the token itself; a browser is
// sent to sign in, anything else is told 401.
func (l *login) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if l.signedIn(r) || l.bearer(r) {
			next.ServeHTTP(w, r)
			return
		}
		if r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html") && !isFragment(r) {
			http.Redirect(w, r, "/login?next="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="muster"`)
		http.Error(w, "sign in at /login, or send the operator's token as a bearer token", http.StatusUnauthorized)
	})
}

func (l *login) bearer(r *http.Request) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && l.matches(token)
}

// matches compares in constant time, also for a guess of another length.
func (l *login) matches(guess string) bool {
	a, b := sha256.Sum256([]byte(guess)), sha256.Sum256([]byte(l.token.Reveal()))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

func (l *login) signedIn(r *http.Request) bool {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return false
	}
	expiry, sig, ok := strings.Cut(c.Value, ".")
	if !ok {
		return false
	}
	got, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil || !hmac.Equal(got, l.sign(expiry)) {
		return false
	}
	at, err := strconv.ParseInt(expiry, 10, 64)
	return err == nil && l.now().Before(time.Unix(at, 0))
}

func (l *login) sign(expiry string) []byte {
	m := hmac.New(sha256.New, l.key)
	m.Write([]byte(expiry))
	return m.Sum(nil)
}

func (l *login) cookie(r *http.Request) *http.Cookie {
	expires := l.now().Add(sessionAge)
	text := strconv.FormatInt(expires.Unix(), 10)
	return &http.Cookie{
		Name: cookieName, Value: text + "." + base64.RawURLEncoding.EncodeToString(l.sign(text)),
		Path: "/", MaxAge: int(sessionAge.Seconds()), HttpOnly: true, SameSite: http.SameSiteStrictMode,
		// Behind a proxy that ends TLS the proxy says so; on plain loopback a
		// Secure cookie would be lost.
		Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
	}
}

type loginView struct {
	Next, Problem string
}

func (s *site) showLogin(w http.ResponseWriter, r *http.Request) {
	s.writeLogin(w, r, http.StatusOK, loginView{Next: localPath(r.URL.Query().Get("next"))})
}

func (s *site) doLogin(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	v := loginView{Next: localPath(r.PostFormValue("next"))}
	if !s.login.tries.AllowN(s.Now(), 1) {
		v.Problem = "Too many tries. Wait a few seconds, then try again."
		s.writeLogin(w, r, http.StatusTooManyRequests, v)
		return
	}
	if !s.login.matches(strings.TrimSpace(r.PostFormValue("token"))) {
		s.Logger.WarnContext(r.Context(), "dashboard sign-in refused", "remote", r.RemoteAddr)
		v.Problem = "That is not the operator's token."
		s.writeLogin(w, r, http.StatusUnauthorized, v)
		return
	}
	http.SetCookie(w, s.login.cookie(r))
	http.Redirect(w, r, v.Next, http.StatusSeeOther)
}

func (s *site) doLogout(w http.ResponseWriter, r *http.Request) {
	c := s.login.cookie(r)
	c.Value, c.MaxAge = "", -1
	http.SetCookie(w, c)
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

func (s *site) writeLogin(w http.ResponseWriter, r *http.Request, status int, v loginView) {
	if err := s.write(w, r, status, "login", page{Title: "Sign in", Door: true, Body: v}); err != nil {
		s.Logger.ErrorContext(r.Context(), "sign-in page failed", "error", err)
		http.Error(w, "the sign-in page could not be shown", http.StatusInternalServerError)
	}
}

// localPath is p if it is a path on this host, else "/": a sign-in must not
// lead elsewhere.
func localPath(p string) string {
	u, err := url.Parse(p)
	if err != nil || u.Host != "" || u.Scheme != "" || !strings.HasPrefix(p, "/") || strings.HasPrefix(p, "//") || strings.ContainsAny(p, "\\\r\n\t") {
		return "/"
	}
	return p
}

package githubsim

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxBody is the most that is read of a request.
const maxBody = 25 << 20

const docs = "https://docs.github.com/rest"

// object is a JSON object.
type object = map[string]any

// call is one REST request on its way through the server.
type call struct {
	s       *Server
	w       http.ResponseWriter
	r       *http.Request
	route   *route
	version string // X-GitHub-Api-Version in force
	body    []byte
	who     identity
	now     time.Time

	// what the path names, as far as it does
	account *account
	repo    *repository
	scope   *scope

	// what the answer says about the caller's budget; counted says that a request
	// was taken from it
	budget  budget
	counted bool
	// made is what prepare left for do
	made any
}

// reply is what a handler answers. A nil body sends none.
type reply struct {
	status   int
	body     any
	location string // of a redirect
	links    *page  // pagination
}

func ok(body any) (reply, error)      { return reply{status: http.StatusOK, body: body}, nil }
func created(body any) (reply, error) { return reply{status: http.StatusCreated, body: body}, nil }
func noContent() (reply, error)       { return reply{status: http.StatusNoContent}, nil }

// apiError is an answer in the shape of GitHub's errors.
type apiError struct {
	status  int
	message string
	doc     string
	details any // the member "errors", if not nil
	header  http.Header
}

func (e *apiError) Error() string { return e.message }

func errorf(status int, format string, args ...any) *apiError {
	return &apiError{status: status, message: fmt.Sprintf(format, args...), doc: docs}
}

func notFound() error { return errorf(http.StatusNotFound, "Not Found") }

func invalid(field, code string) error {
	e := errorf(http.StatusUnprocessableEntity, "Validation Failed")
	e.details = []object{{"resource": "Request", "field": field, "code": code}}
	return e
}

// decode reads the request's JSON object into v. An empty body or null is an empty object.
func (c *call) decode(v any) error {
	if text := bytes.TrimSpace(c.body); len(text) == 0 || string(text) == "null" {
		// ghinstallation sends null for a token that is not narrowed.
		return nil
	}
	if !json.Valid(c.body) {
		return errorf(http.StatusBadRequest, "Problems parsing JSON")
	}
	if bytes.TrimSpace(c.body)[0] != '{' {
		return errorf(http.StatusBadRequest, "Body should be a JSON object")
	}
	if err := json.Unmarshal(c.body, v); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return errorf(http.StatusUnprocessableEntity, "Invalid request.\n\nFor 'properties/%s', %s is not of the wanted type.", wrong.Field, wrong.Value)
		}
		return errorf(http.StatusUnprocessableEntity, "Invalid request.\n\n%v", err)
	}
	return nil
}

// number reads a number from the path; anything else is not found.
func (c *call) number(name string) (int64, error) {
	n, err := strconv.ParseInt(c.r.PathValue(name), 10, 64)
	if err != nil || n <= 0 {
		return 0, notFound()
	}
	return n, nil
}

// page is one page of a list.
type page struct {
	number, size, last int
	// cursor and next replace numbers where GitHub pages by cursor.
	prev, next string
}

func (c *call) perPage() int {
	size, err := strconv.Atoi(c.r.URL.Query().Get("per_page"))
	if err != nil || size <= 0 {
		return 30
	}
	return min(size, 100)
}

// cut returns the page of all that the request asks for; the links go into the
// reply. GitHub sends an empty page beyond the last one.
func cut[T any](c *call, all []T) ([]T, *page) {
	p := &page{number: 1, size: c.perPage()}
	if n, err := strconv.Atoi(c.r.URL.Query().Get("page")); err == nil && n > 1 {
		p.number = n
	}
	p.last = max(1, (len(all)+p.size-1)/p.size)
	from := min((p.number-1)*p.size, len(all))
	return all[from:min(from+p.size, len(all))], p
}

// list answers a page under a name with its total count.
func list[T any, V any](c *call, name string, all []T, view func(T) V) (reply, error) {
	some, p := cut(c, all)
	return reply{status: http.StatusOK, body: object{"total_count": len(all), name: views(some, view)}, links: p}, nil
}

// bare answers a page as an array.
func bare[T any, V any](c *call, all []T, view func(T) V) (reply, error) {
	some, p := cut(c, all)
	return reply{status: http.StatusOK, body: views(some, view), links: p}, nil
}

func views[T any, V any](some []T, view func(T) V) []V {
	out := make([]V, len(some))
	for i, t := range some {
		out[i] = view(t)
	}
	return out
}

// link is the Link header, empty when there is one page only.
func (p *page) link(base string, u *url.URL) string {
	var parts []string
	add := func(rel, key, value string) {
		q := u.Query()
		q.Set(key, value)
		parts = append(parts, fmt.Sprintf("<%s%s?%s>; rel=%q", base, u.Path, q.Encode(), rel))
	}
	if p.last == 0 {
		if p.prev != "" {
			add("prev", "cursor", p.prev)
		}
		if p.next != "" {
			add("next", "cursor", p.next)
		}
		return strings.Join(parts, ", ")
	}
	if p.number > 1 {
		add("prev", "page", strconv.Itoa(min(p.number-1, p.last)))
	}
	if p.number < p.last {
		add("next", "page", strconv.Itoa(p.number+1))
		add("last", "page", strconv.Itoa(p.last))
	}
	if p.number > 1 {
		add("first", "page", "1")
	}
	return strings.Join(parts, ", ")
}

// encode is JSON as GitHub writes it: no HTML escapes.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		// Every view is made of plain values; this is a programming error.
		panic(fmt.Sprintf("githubsim: encode %T: %v", v, err))
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

func etag(token string, body []byte) string {
	h := sha256.New()
	_, _ = io.WriteString(h, token)
	h.Write(body)
	return `W/"` + hex.EncodeToString(h.Sum(nil)) + `"`
}

// stamp writes a time as GitHub does: whole seconds, UTC, Z.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// maybe is stamp, or null for the zero time.
func maybe(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return stamp(t)
}

// orNull is s, or null when it is empty.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

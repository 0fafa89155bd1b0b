package migrate

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// text builds a configuration file.
type text struct{ strings.Builder }

// line writes one line; arguments that come from elsewhere go through q or c.
func (t *text) line(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }

// note writes a comment, at most some 110 characters wide.
func (t *text) note(indent string, format string, args ...any) {
	line := indent + "#"
	for word := range strings.FieldsSeq(c(fmt.Sprintf(format, args...))) {
		if len(line)+len(word) > 110 && line != indent+"#" {
			t.line("%s", line)
			line = indent + "#"
		}
		line += " " + word
	}
	t.line("%s", line)
}

// plain is what YAML takes for text without quotes.
var plain = regexp.MustCompile(`\A[A-Za-z_][A-Za-z0-9_./@-]*\z`)

// q writes a text as a YAML value, whatever is in it: JSON's texts are YAML's.
func q(s string) string {
	switch strings.ToLower(s) {
	case "true", "false", "yes", "no", "on", "off", "null", "y", "n", "":
	default:
		if plain.MatchString(s) {
			return s
		}
	}
	return flow(s)
}

// flow writes a value on one line: JSON is YAML.
func flow(v any) string {
	b, err := json.Marshal(v)
	if err != nil { // of texts, numbers and maps of them: it cannot fail
		return "null"
	}
	return string(b)
}

// list writes texts as a YAML list on one line.
func list(all []string) string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = q(s)
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// c makes a text fit for a comment: one line of what can be seen.
func c(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 || r == 0x202e {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

var notInNames = regexp.MustCompile(`[^a-zA-Z0-9_-]+`)

// names hands out names that a configuration takes, each once.
type names map[string]bool

func (n names) name(parts ...string) string {
	base := strings.Trim(notInNames.ReplaceAllString(strings.Join(parts, "-"), "-"), "-")
	if base == "" {
		base = "unnamed"
	}
	base = base[:min(len(base), 48)]
	name := base
	for i := 2; n[name]; i++ {
		name = base + "-" + strconv.Itoa(i)
	}
	n[name] = true
	return name
}

// place reads an address of GitHub: the scope in Muster's words, and the API's
// address unless it is github.com's.
func place(address string) (scope, api string, err error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "", "", fmt.Errorf("%q is not the address of an organization, a repository or an enterprise", address)
	}
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	switch {
	case len(parts) == 2 && parts[0] == "enterprises" && parts[1] != "":
	case len(parts) <= 2 && parts[0] != "" && parts[len(parts)-1] != "":
	default:
		return "", "", fmt.Errorf("%q is not the address of an organization, a repository or an enterprise", address)
	}
	return strings.Join(parts, "/"), apiOf(u.Scheme, u.Host), nil
}

func apiOf(scheme, host string) string {
	switch {
	case host == "github.com" || host == "www.github.com":
		return ""
	case strings.HasSuffix(host, ".ghe.com"):
		return scheme + "://api." + host
	}
	return scheme + "://" + host + "/api/v3"
}

// app is an App, or a token, that pools act as.
type app struct {
	name, api string
	// token names the variable of a token; "" for an App.
	token string
	// id is the App's; 0 when it is not known.
	id int64
	// hooks is whether GitHub has to send webhooks.
	hooks bool
	notes []string
}

func (t *text) apps(all []app) {
	t.line("apps:")
	for _, a := range all {
		for _, n := range a.notes {
			t.note("  ", "%s", n)
		}
		t.line("  - name: %s", q(a.name))
		if a.token != "" {
			t.line("    token_env: %s", q(a.token))
		} else {
			if a.id != 0 {
				t.line("    id: %d", a.id)
			} else {
				t.line(`    id: 1                                  # REPLACE: "App ID" on the App's page`)
			}
			t.line("    private_key_file: %s", q(a.name+".pem"))
		}
		if a.hooks {
			t.line("    webhook_secret_file: %s", q(a.name+"-webhook-secret"))
		} else {
			t.line("    poll_only: true")
		}
		if a.api != "" {
			t.line("    api_url: %s", q(a.api))
		}
	}
}

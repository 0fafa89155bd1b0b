package trace

import (
	"regexp"
	"strings"
)

// Redacted stands where a secret was.
const Redacted = "***"

// RedactArgs returns a program's arguments with what looks like a secret replaced by
// Redacted: tokens by their well-known beginnings, passwords in URLs, what follows an
// option or a variable that is named like a secret, and the rest of an Authorization
// header. Everything else is as it was. It does not change args; where nothing is
// replaced it returns args itself.
func RedactArgs(args []string) []string {
	var out []string
	set := func(i int, text string) {
		if text == args[i] {
			return
		}
		if out == nil {
			out = append([]string(nil), args...)
		}
		out[i] = text
	}
	for i, a := range args {
		if i > 0 && valueOf(args[0], args[i-1], a) {
			set(i, Redacted)
			continue
		}
		if p, secret, ok := shortPassword(args[0], a); ok && i > 0 && secret != "" {
			set(i, p+Redacted)
			continue
		}
		set(i, RedactText(a))
	}
	if out == nil {
		return args
	}
	return out
}

// RedactText is RedactArgs for text that holds any number of words, such as a script
// that was handed over as one argument, or a line of output.
func RedactText(s string) string {
	if !suspicious(s) {
		return s
	}
	for _, r := range replacements {
		s = r.pattern.ReplaceAllString(s, r.with)
	}
	return s
}

// suspicious reports whether a text is worth the patterns: nearly none is.
func suspicious(s string) bool {
	if len(s) < 5 {
		return false
	}
	return strings.ContainsAny(s, "=:_-") || strings.Contains(s, "AKIA") || strings.Contains(s, "ASIA") || strings.Contains(s, "eyJ") || strings.Contains(s, "AIza") || strings.Contains(s, "earer ")
}

// secretName is a name of an option, a variable or a field that holds a secret, with
// what may stand before it. "token" alone is one; "tokenizer", "token-file" and
// "passwordless" are none.
const secretName = `(?:[A-Za-z0-9]+[-_.])*?(?:password|passwd|passphrase|pwd|secret|secrets|token|apikey|api[-_]key|access[-_]key|secret[-_]key|private[-_]key|secret[-_]access[-_]key|client[-_]secret|auth[-_]token|authtoken|credential|credentials|pat|pass)`

type replacement struct {
	pattern *regexp.Regexp
	with    string
}

var replacements = []replacement{
	// Private keys, as far as the text goes.
	{regexp.MustCompile(`(-----BEGIN [A-Z ]*PRIVATE KEY-----)[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|$)`), "${1}" + Redacted + "${2}"},
	// Credentials in URLs: the user may be told unless it is all there is and long.
	{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://[^/\s:@'"]*):[^/\s@'"]+@`), "${1}:" + Redacted + "@"},
	{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^/\s:@'"]{20,}@`), "${1}" + Redacted + "@"},
	// Headers.
	{regexp.MustCompile(`(?i)((?:proxy-)?authorization["']?\s*[:=]\s*["']?)(?:(basic|bearer|token|negotiate|digest)\s+)?[^\s"',;]+(?:,?\s*[a-z]+="[^"]*")*`), "${1}${2} " + Redacted},
	{regexp.MustCompile(`(?i)((?:x-[a-z-]*(?:token|api-?key|secret|password)|private-token|job-token|x-amz-security-token|cookie|set-cookie)["']?\s*:\s*["']?)[^\s"',]+`), "${1}" + Redacted},
	{regexp.MustCompile(`(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}`), "${1}" + Redacted},
	// Tokens that are known by how they begin.
	{regexp.MustCompile(`\b(gh[pousr]_)[A-Za-z0-9]{16,}`), "${1}" + Redacted},
	{regexp.MustCompile(`\b(github_pat_)[A-Za-z0-9_]{16,}`), "${1}" + Redacted},
	{regexp.MustCompile(`\b(glpat-|gldt-|glrt-|glcbt-|glptt-)[A-Za-z0-9_.-]{16,}`), "${1}" + Redacted},
	{regexp.MustCompile(`\b(npm_|pypi-|dckr_pat_|hf_|rubygems_|shpat_|dop_v1_|sntrys_|lin_api_|atlasv1\.|xapp-|xox[abeoprs]-|hvs\.|hvb\.)[A-Za-z0-9_.-]{16,}`), "${1}" + Redacted},
	{regexp.MustCompile(`\b((?:sk|rk|pk|whsec)_(?:live_|test_)?)[A-Za-z0-9]{16,}`), "${1}" + Redacted},
	{regexp.MustCompile(`\b(sk-(?:ant-|proj-)?)[A-Za-z0-9_-]{20,}`), "${1}" + Redacted},
	{regexp.MustCompile(`\b(A(?:KIA|SIA)[A-Z0-9]{4})[A-Z0-9]{12}\b`), "${1}" + Redacted},
	{regexp.MustCompile(`\b(AIza)[A-Za-z0-9_-]{30,}`), "${1}" + Redacted},
	{regexp.MustCompile(`\b(eyJ)[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*`), "${1}" + Redacted},
	// Options and variables that are named like a secret: NAME=value, --name=value,
	// --name value, and "name": "value". What is a reference is none: $VAR, ${{ … }}, a
	// path in angle brackets.
	{regexp.MustCompile(`(?i)((?:^|[\s"'&?;,{(]|--?)` + secretName + `["']?\s*(?:=|:\s)\s*)("[^"]*"|'[^']*'|[^\s"'&;,<>${}()*|]+)`), "${1}" + Redacted},
	{regexp.MustCompile(`(?i)((?:^|\s)--?` + secretName + `\s+)("[^"]*"|'[^']*'|[^\s"'&;,<>${}()*|-][^\s"'&;,<>${}()*|]*)`), "${1}" + Redacted},
}

// option is an option that is named like a secret and has its value in the argument
// behind it.
var option = regexp.MustCompile(`(?i)^--?` + secretName + `$`)

// valueOf reports whether an argument is the secret that the option before it asks for.
func valueOf(program, before, arg string) bool {
	if arg == "" || strings.HasPrefix(arg, "$") || strings.HasPrefix(arg, "--") {
		return false
	}
	if option.MatchString(before) {
		return true
	}
	switch base(program) {
	case "curl":
		return (before == "-u" || before == "--user" || before == "-U" || before == "--proxy-user") && strings.Contains(arg, ":")
	case "docker", "podman", "nerdctl", "buildah", "skopeo", "helm", "oras", "az", "sshpass", "7z":
		return before == "-p" && program != "" && !portOrPath(arg)
	}
	return false
}

// portOrPath is what -p means to the programs for which it is not a password.
func portOrPath(arg string) bool {
	return strings.Trim(arg, "0123456789.:-/tcpudps[]") == "" || strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, "./")
}

// shortPassword splits -pSECRET, which clients of databases take.
func shortPassword(program, arg string) (option, secret string, ok bool) {
	switch base(program) {
	case "mysql", "mysqldump", "mysqladmin", "mariadb", "mariadb-dump", "mysqlimport", "sshpass":
		if rest, is := strings.CutPrefix(arg, "-p"); is && !strings.HasPrefix(rest, "rotocol") && !strings.HasPrefix(rest, "ort") {
			return "-p", rest, true
		}
	}
	return "", "", false
}

func base(program string) string {
	return program[strings.LastIndexByte(program, '/')+1:]
}

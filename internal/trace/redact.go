package trace

import (
	"regexp"
	"slices"
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
	// Asked once for all of them: nearly no program is given a secret.
	lower := strings.ToLower(strings.Join(args, "\n"))
	worth := slices.ContainsFunc(replacements, func(r replacement) bool { return r.wanted(lower) })
	for i, a := range args {
		if i > 0 && valueOf(args[0], args[i-1], a) {
			set(i, Redacted)
			continue
		}
		if p, secret, ok := shortPassword(args[0], a); ok && i > 0 && secret != "" {
			set(i, p+Redacted)
			continue
		}
		if worth {
			set(i, RedactText(a))
		}
	}
	if out == nil {
		return args
	}
	return out
}

// RedactText is RedactArgs for text that holds any number of words, such as a script
// that was handed over as one argument, or a line of output.
func RedactText(s string) string {
	if len(s) < 5 {
		return s // no secret that could be told from anything
	}
	lower := strings.ToLower(s)
	for _, r := range replacements {
		if r.wanted(lower) {
			s = r.pattern.ReplaceAllString(s, r.with)
		}
	}
	return s
}

// secretName is a name of an option, a variable or a field that holds a secret, with
// what may stand before it. "token" alone is one; "tokenizer", "token-file" and
// "passwordless" are none.
const secretName = `(?:[A-Za-z0-9]+[-_.])*?(?:password|passwd|passphrase|pwd|secret|secrets|token|apikey|api[-_]key|access[-_]key|secret[-_]key|private[-_]key|secret[-_]access[-_]key|client[-_]secret|auth[-_]token|authtoken|credential|credentials|pass)`

// replacement is one kind of secret.
type replacement struct {
	// any are words one of which a text holds, in lower case, if the pattern can fit at
	// all: patterns are slow, and nearly no argument is worth one.
	any     []string
	pattern *regexp.Regexp
	with    string
}

func (r replacement) wanted(lower string) bool {
	for _, word := range r.any {
		if strings.Contains(lower, word) {
			return true
		}
	}
	return false
}

var secretWords = []string{"pass", "pwd", "secret", "token", "key", "credential"}

var replacements = []replacement{
	// Private keys, as far as the text goes.
	{[]string{"private key-----"}, regexp.MustCompile(`(-----BEGIN [A-Z ]*PRIVATE KEY-----)[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|$)`), "${1}" + Redacted + "${2}"},
	// Credentials in URLs. A user without a password is told, unless it is long: then it is
	// a token.
	{[]string{"://"}, regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://[^/\s:@'"]*):[^/\s@'"]+@`), "${1}:" + Redacted + "@"},
	{[]string{"://"}, regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^/\s:@'"]{20,}@`), "${1}" + Redacted + "@"},
	// Headers.
	{[]string{"authorization"}, regexp.MustCompile(`(?i)((?:proxy-)?authorization["']?\s*[:=]\s*["']?(?:basic|bearer|token|negotiate|digest)\s+)[^\s"',;*][^\s"',;]*(?:,?\s*[a-z]+="[^"]*")*`), "${1}" + Redacted},
	{[]string{"authorization"}, regexp.MustCompile(`(?i)((?:proxy-)?authorization["']?\s*[:=]\s*["']?)[^\s"',;*]{8,}(["',;]|$)`), "${1}" + Redacted + "${2}"},
	{[]string{"-token", "-key", "-apikey", "-secret", "-password", "cookie"}, regexp.MustCompile(`(?i)((?:x-[a-z-]*(?:token|api-?key|secret|password)|private-token|job-token|x-amz-security-token|cookie|set-cookie)["']?\s*:\s*["']?)[^\s"',*][^\s"',]*`), "${1}" + Redacted},
	{[]string{"bearer"}, regexp.MustCompile(`(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}`), "${1}" + Redacted},
	// Tokens that are known by how they begin.
	{[]string{"ghp_", "gho_", "ghu_", "ghs_", "ghr_"}, regexp.MustCompile(`\b(gh[pousr]_)[A-Za-z0-9]{16,}`), "${1}" + Redacted},
	{[]string{"github_pat_"}, regexp.MustCompile(`\b(github_pat_)[A-Za-z0-9_]{16,}`), "${1}" + Redacted},
	{[]string{"glpat-", "gldt-", "glrt-", "glcbt-", "glptt-"}, regexp.MustCompile(`\b(gl(?:pat|dt|rt|cbt|ptt)-)[A-Za-z0-9_.-]{16,}`), "${1}" + Redacted},
	{[]string{"npm_", "pypi-", "dckr_pat_", "hf_", "rubygems_", "shpat_", "dop_v1_", "sntrys_", "lin_api_", "atlasv1.", "xapp-", "xox", "hvs.", "hvb."}, regexp.MustCompile(`\b(npm_|pypi-|dckr_pat_|hf_|rubygems_|shpat_|dop_v1_|sntrys_|lin_api_|atlasv1\.|xapp-|xox[abeoprs]-|hvs\.|hvb\.)[A-Za-z0-9_.-]{16,}`), "${1}" + Redacted},
	{[]string{"sk_", "rk_", "pk_", "whsec_"}, regexp.MustCompile(`\b((?:sk|rk|pk|whsec)_(?:live_|test_)?)[A-Za-z0-9]{16,}`), "${1}" + Redacted},
	{[]string{"sk-"}, regexp.MustCompile(`\b(sk-(?:ant-|proj-)?)[A-Za-z0-9_-]{20,}`), "${1}" + Redacted},
	{[]string{"akia", "asia"}, regexp.MustCompile(`\b(A(?:KIA|SIA)[A-Z0-9]{4})[A-Z0-9]{12}\b`), "${1}" + Redacted},
	{[]string{"aiza"}, regexp.MustCompile(`\b(AIza)[A-Za-z0-9_-]{30,}`), "${1}" + Redacted},
	{[]string{"eyj"}, regexp.MustCompile(`\b(eyJ)[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*`), "${1}" + Redacted},
	// Options and variables that are named like a secret: NAME=value, --name=value,
	// --name value, and "name": "value". What is a reference is none: $VAR, ${{ … }}, a
	// path in angle brackets.
	{secretWords, regexp.MustCompile(`(?i)((?:^|[\s"'&?;,{(]|--?)` + secretName + `["']?\s*(?:=|:\s)\s*)("[^"]*"|'[^']*'|[^\s"'&;,<>${}()*|]+)`), "${1}" + Redacted},
	{secretWords, regexp.MustCompile(`(?i)((?:^|\s)--?` + secretName + `\s+)("[^"]*"|'[^']*'|[^\s"'&;,<>${}()*|-][^\s"'&;,<>${}()*|]*)`), "${1}" + Redacted},
}

// option is an option that is named like a secret and has its value in the argument
// behind it.
var option = regexp.MustCompile(`(?i)^--?` + secretName + `$`)

// valueOf reports whether an argument is the secret that the option before it asks for.
func valueOf(program, before, arg string) bool {
	if arg == "" || strings.HasPrefix(arg, "$") || strings.HasPrefix(arg, "--") {
		return false
	}
	if strings.HasPrefix(before, "-") && option.MatchString(before) {
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
	return strings.Trim(arg, "0123456789.:-/tcpuds[]") == "" || strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, "./")
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

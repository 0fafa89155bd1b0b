package trace

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// No test holds a whole token as one literal: scanners would take it for a leak.
func fake(prefix string, n int) string {
	return prefix + strings.Repeat("a1B2c3D4e5F6g7H8", 8)[:n]
}

func fakeKey(prefix string) string { return prefix + "IOSFODNN7EXAMPLE" }

// No secret that can be told from its shape leaves the machine in an argument.
func TestRedactArgs(t *testing.T) {
	gh, pat, npm, glpat := fake("ghp_", 36), fake("github_pat_", 60), fake("npm_", 36), fake("glpat-", 20)
	jwt := "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0" + ".c2lnbmF0dXJl"
	for _, c := range []struct{ in, want []string }{
		{[]string{"echo", gh}, []string{"echo", "ghp_***"}},
		{[]string{"echo", "x" + gh}, []string{"echo", "x" + gh}}, // no token begins in a word
		{[]string{"echo", "a," + pat + ",b"}, []string{"echo", "a,github_pat_***,b"}},
		{[]string{"npm", "config", "set", "//registry.npmjs.org/:_authToken=" + npm}, []string{"npm", "config", "set", "//registry.npmjs.org/:_authToken=npm_***"}},
		{[]string{"x", glpat, fake("xoxb-", 40), fake("sk_live_", 24), fake("AIza", 35), fake("sk-ant-", 40), fake("hf_", 34)}, []string{"x", "glpat-***", "xoxb-***", "sk_live_***", "AIza***", "sk-ant-***", "hf_***"}},
		{[]string{"aws", "configure", "set", "k", fakeKey("AK" + "IA")}, []string{"aws", "configure", "set", "k", "AKIAIOSF***"}},
		{[]string{"curl", "-H", "Authorization: Bearer " + jwt, "https://example.com"}, []string{"curl", "-H", "Authorization: Bearer ***", "https://example.com"}},
		{[]string{"curl", "-H", "authorization: basic dXNlcjpwYXNz"}, []string{"curl", "-H", "authorization: basic ***"}},
		{[]string{"curl", "-H", "PRIVATE-TOKEN: geheim", "-H", "X-Api-Key: geheim", "-H", "Accept: text/html"}, []string{"curl", "-H", "PRIVATE-TOKEN: ***", "-H", "X-Api-Key: ***", "-H", "Accept: text/html"}},
		{[]string{"curl", "-u", "me:geheim", "https://u:geheim@example.com/x"}, []string{"curl", "-u", "***", "https://u:***@example.com/x"}},
		{[]string{"git", "clone", "https://x-access-token:" + gh + "@github.com/o/r"}, []string{"git", "clone", "https://x-access-token:***@github.com/o/r"}},
		{[]string{"git", "clone", "https://" + fake("", 40) + "@github.com/o/r"}, []string{"git", "clone", "https://***@github.com/o/r"}},
		{[]string{"db", "--password=geheim", "--db-password", "geheim", "--token", "geheim", "-password", "geheim"}, []string{"db", "--password=***", "--db-password", "***", "--token", "***", "-password", "***"}},
		{[]string{"docker", "login", "-u", "me", "-p", "geheim"}, []string{"docker", "login", "-u", "me", "-p", "***"}},
		{[]string{"docker", "run", "-p", "8080:80", "-e", "API_KEY=geheim", "image"}, []string{"docker", "run", "-p", "8080:80", "-e", "API_KEY=***", "image"}},
		{[]string{"mysql", "-pgeheim", "-P", "3306"}, []string{"mysql", "-p***", "-P", "3306"}},
		{[]string{"env", "AWS_SECRET_ACCESS_KEY=geheim", "GITHUB_TOKEN=geheim", "PATH=/bin"}, []string{"env", "AWS_SECRET_ACCESS_KEY=***", "GITHUB_TOKEN=***", "PATH=/bin"}},
		{[]string{"sh", "-c", "export TOKEN=geheim; curl 'https://e.com/?a=1&token=geheim&b=2'"}, []string{"sh", "-c", "export TOKEN=***; curl 'https://e.com/?a=1&token=***&b=2'"}},
		{[]string{"sh", "-c", `curl -d '{"password": "geheim", "user": "me"}' e.com`}, []string{"sh", "-c", `curl -d '{"password": ***, "user": "me"}' e.com`}},
		{[]string{"sh", "-c", "login --token geheim --user me"}, []string{"sh", "-c", "login --token *** --user me"}},
		{[]string{"sh", "-c", "echo -----BEGIN RSA PRIVATE KEY----- MIIE abc -----END RSA PRIVATE KEY----- done"}, []string{"sh", "-c", "echo -----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY----- done"}},
	} {
		in := slices.Clone(c.in)
		if got := RedactArgs(in); !slices.Equal(got, c.want) {
			t.Errorf("%q\n got %q\nwant %q", c.in, got, c.want)
		}
		if !slices.Equal(in, c.in) {
			t.Errorf("%q was changed in place", c.in)
		}
	}
}

// What is no secret stays as it is, whatever it looks like.
func TestRedactLeavesTheRest(t *testing.T) {
	for _, args := range [][]string{
		nil, {}, {""}, {"go", "build", "./..."},
		{"sh", "-e", "/home/runner/_temp/1b2f6a1e-9f7c-4a52-9a3b-0c9b8e1d2f3a.sh"},
		{"ssh", "-p", "22", "git@github.com"}, {"mkdir", "-p", "/srv/a-b_c"}, {"git", "commit", "-m", "fix: token handling, password prompt"},
		{"git", "clone", "https://github.com/o/r.git"}, {"git", "clone", "git@github.com:o/r.git"},
		{"sha256sum", strings.Repeat("ab12", 16)}, {"npm", "ci", "--ignore-scripts"},
		{"tool", "--token-file", "/run/token", "--password-stdin", "--tokenizer=fast"},
		{"sh", "-c", `curl -H "Accept: x" "$URL?token=$TOKEN"; echo ${{ secrets.TOKEN }}`},
		{"gcc", "-DVERSION=1.2", "-o", "a.out", "-pthread", "-pipe"}, {"docker", "run", "-p", "127.0.0.1:80:80", "-p", "53/udp", "i"},
		{"python3", "-c", "import secrets; print(secrets.token_hex())"}, {"cat", "/etc/passwd", "/tmp/secret.txt"},
		{"make", "PREFIX=/usr", "CC=gcc"}, {"go", "test", "-run", "TestToken", "-count=1"}, {"mysql", "-protocol", "tcp"}, {"rsync", "-a", "user@host:/srv", "."},
		{"terraform", "apply", "-var", "region=eu-west-1"}, {"node", "--max-old-space-size=4096"},
	} {
		if got := RedactArgs(args); !slices.Equal(got, args) {
			t.Errorf("%q became %q", args, got)
		}
	}
}

func FuzzRedactText(f *testing.F) {
	for _, s := range []string{"", "--password=x", "Authorization: Bearer abcdefghijkl", "https://a:b@c/", fake("ghp_", 36), "token: x", "-----BEGIN PRIVATE KEY-----", "a=\xff\xfe", `"password": "x y" z`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := RedactText(s)
		if utf8.ValidString(s) && !utf8.ValidString(got) {
			t.Errorf("%q became the invalid %q", s, got)
		}
		if strings.Count(got, "\n") > strings.Count(s, "\n") || len(got) > 2*len(s)+16 {
			t.Errorf("%q became %q", s, got)
		}
		// A token stays in no place that it is put.
		token := fake("ghp_", 36)
		if with := RedactText(s + " " + token + " " + s); strings.Contains(with, token) {
			t.Errorf("%q keeps the token: %q", s, with)
		}
		args := []string{"tool", "--token", "geheim-" + s, s}
		if out := RedactArgs(args); len(out) != len(args) || strings.Contains(out[2], "geheim-") && !strings.HasPrefix(args[2], "--") {
			t.Errorf("%q became %q", args, out)
		}
	})
}

func BenchmarkRedactArgs(b *testing.B) {
	args := []string{"/usr/local/go/pkg/tool/linux_amd64/compile", "-o", "/tmp/go-build1/b001/_pkg_.a", "-trimpath", "/tmp/go-build1/b001=>", "-p", "main", "-lang=go1.26", "-complete", "-importcfg", "/tmp/go-build1/b001/importcfg", "-pack"}
	for range 30 {
		args = append(args, "./some_file_of_a_package.go")
	}
	for b.Loop() {
		RedactArgs(args)
	}
}

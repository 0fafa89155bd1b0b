package muster_test

import (
	"strings"
	"testing"

	"github.com/muster-ci/muster"
)

// C5: the scope is a value; S1-101 is what a repository's name looks like.
func TestParseScope(t *testing.T) {
	for in, want := range map[string]struct {
		scope muster.Scope
		path  string
	}{
		"myorg/myrepo":        {muster.Scope{Kind: muster.ScopeRepository, Owner: "myorg", Repo: "myrepo"}, "repos/myorg/myrepo"},
		"my_org-1/my.repo_-1": {muster.Scope{Kind: muster.ScopeRepository, Owner: "my_org-1", Repo: "my.repo_-1"}, "repos/my_org-1/my.repo_-1"},
		"acme":                {muster.Scope{Kind: muster.ScopeOrganization, Owner: "acme"}, "orgs/acme"},
		"enterprises/big":     {muster.Scope{Kind: muster.ScopeEnterprise, Owner: "big"}, "enterprises/big"},
	} {
		got, err := muster.ParseScope(in)
		if err != nil || got != want.scope || got.String() != in || got.Path() != want.path {
			t.Errorf("%q: %+v %q %q, %v", in, got, got.String(), got.Path(), err)
		}
	}
	// S1-20 S1-101
	for _, bad := range []string{"", "a b", "a b/c", "../x", "o/..", "o/.", "$(id)", "o/$(id)", "o/r\n", "\no/r", "o\n", "o/r/s", "/r", "o/", "o.x/r", "enterprises/", "enterprises/a/b", "enterprises/a.b"} {
		if got, err := muster.ParseScope(bad); muster.CodeOf(err) != muster.CodeInvalid {
			t.Errorf("%q is taken for %+v, %v", bad, got, err)
		}
	}
	for _, s := range []muster.Scope{{}, {Kind: "team", Owner: "x"}, {Kind: muster.ScopeOrganization, Owner: "x", Repo: "y"}, {Kind: muster.ScopeRepository, Owner: "enterprises", Repo: "x"}} {
		if s.Validate() == nil {
			t.Errorf("%+v is valid", s)
		}
	}
}

func TestScopeCovers(t *testing.T) {
	for _, c := range []struct {
		scope, repository string
		want              bool
	}{
		{"acme/app", "acme/app", true},
		{"acme/app", "Acme/APP", true}, // S3-11: GitHub's names have no case
		{"acme/app", "acme/lib", false},
		{"acme/app", "other/app", false},
		{"acme", "acme/app", true},
		{"acme", "ACME/app", true},
		{"acme", "acme2/app", false},
		{"acme", "", false},
		{"enterprises/big", "acme/app", true},
	} {
		s, err := muster.ParseScope(c.scope)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Covers(c.repository); got != c.want {
			t.Errorf("%s covers %s: %t", c.scope, c.repository, got)
		}
	}
	if (muster.Scope{}).Covers("acme/app") {
		t.Error("the zero scope covers a repository")
	}
}

func FuzzParseScope(f *testing.F) {
	for _, s := range []string{"", "acme", "acme/app", "enterprises/big", "o/..", "a/b/c", "o/r\n", "$(id)", "é/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		scope, err := muster.ParseScope(s)
		if err != nil {
			if muster.CodeOf(err) != muster.CodeInvalid {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		if scope.String() != s {
			t.Fatalf("%q comes back as %q", s, scope)
		}
		for part := range strings.SplitSeq(scope.Path(), "/") {
			if part == "" || part == "." || part == ".." || strings.ContainsAny(part, " \t\r\n%?#\\") {
				t.Fatalf("%q makes the path %q", s, scope.Path())
			}
		}
	})
}

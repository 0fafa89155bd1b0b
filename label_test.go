package muster_test

import (
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/muster-ci/muster"
)

func labels(s string) (ls muster.Labels) {
	if s != "" {
		ls = strings.Split(s, ",")
	}
	return ls
}

// C8: the trigger rule (pool ⊆ job) and the eligibility rule (job ⊆ runner), both.
func TestMatchLabels(t *testing.T) {
	for _, c := range []struct {
		name, pool, runner, job string
		want                    muster.Match
	}{
		// S0-3: membership, not equality.
		{"ProductLabel", "takumi-runner", "takumi-runner,self-hosted", "takumi-runner", muster.Match{Triggered: true, Eligible: true}},
		{"ProductLabelAmongOthers", "takumi-runner", "takumi-runner,self-hosted", "self-hosted,takumi-runner", muster.Match{Triggered: true, Eligible: true}},
		{"HostedLabel", "takumi-runner", "takumi-runner,self-hosted", "ubuntu-latest", muster.Match{Missing: labels("takumi-runner")}},
		// S3-12: all configured labels among the job's.
		{"Subset", "self-hosted,linux", "self-hosted,linux,gpu", "self-hosted,linux,gpu", muster.Match{Triggered: true, Eligible: true}},
		{"NotASubset", "self-hosted,gpu", "self-hosted,gpu", "self-hosted", muster.Match{Missing: labels("gpu")}},
		// The example of C8: a machine without gpu would idle for ever.
		{"TriggeredButNotEligible", "self-hosted,linux", "self-hosted,Linux,X64", "self-hosted,linux,gpu", muster.Match{Triggered: true, Missing: labels("gpu")}},
		// S1-36
		{"OneOfTwo", "linux,docker", "linux,docker", "linux", muster.Match{Missing: labels("docker")}},
		{"Both", "linux,docker", "linux,docker", "linux,docker", muster.Match{Triggered: true, Eligible: true}},
		{"OtherOfTwo", "linux,docker", "linux,docker", "docker", muster.Match{Missing: labels("linux")}},
		// 4-29: GitHub ignores case.
		{"OtherCase", "Linux,GPU", "linux,gpu,SELF-hosted", "gpu,LINUX,self-HOSTED", muster.Match{Triggered: true, Eligible: true}},
		{"JobWithoutLabels", "linux", "linux", "", muster.Match{Missing: labels("linux")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := muster.MatchLabels(labels(c.pool), labels(c.runner), labels(c.job))
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if got.Serves() != (c.want.Triggered && c.want.Eligible) {
				t.Error("Serves is not both rules")
			}
		})
	}
}

// S1-103 S1-20 4-32: what may be registered as a label.
func TestLabelText(t *testing.T) {
	for _, good := range []string{"a", "self-hosted", "X64", "v1.2_3", "-", "."} {
		if err := (muster.Labels{good}).Validate(); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "a b", "../x", "$(id)", "a\n", "\na", "a;b", "é", "$'", "a,b", "`id`"} {
		if err := (muster.Labels{bad}).Validate(); muster.CodeOf(err) != muster.CodeInvalid {
			t.Errorf("%q is accepted", bad)
		}
	}
	many := make(muster.Labels, 101) // 4-12
	for i := range many {
		many[i] = strings.Repeat("x", i+1)
	}
	if many.Validate() == nil || many[:100].Validate() != nil {
		t.Error("the limit is 100 labels")
	}
}

// S1-79 4-29
func TestParseLabels(t *testing.T) {
	for in, want := range map[string]string{
		"linux,docker":            "linux,docker",
		" linux , docker ,":       "linux,docker",
		"":                        "",
		",,":                      "",
		"Linux,linux,LINUX,gpu":   "Linux,gpu",
		"self-hosted,linux,\tx64": "self-hosted,linux,x64",
	} {
		got, err := muster.ParseLabels(in)
		if err != nil || got.String() != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	if _, err := muster.ParseLabels("linux,$(id)"); muster.CodeOf(err) != muster.CodeInvalid {
		t.Errorf("hostile label: %v", err)
	}
}

// Label sets behave as sets whose members have no case.
func TestLabelProperties(t *testing.T) {
	set := rapid.SliceOfN(rapid.StringMatching(`[abAB]{1,2}`), 0, 6)
	rapid.Check(t, func(t *rapid.T) {
		a, b := muster.Labels(set.Draw(t, "a")), muster.Labels(set.Draw(t, "b"))
		if a.SubsetOf(b) != (len(a.Missing(b)) == 0) {
			t.Fatal("SubsetOf and Missing differ")
		}
		if u := a.Unique(); !u.SubsetOf(a) || !a.SubsetOf(u) || len(u.Unique()) != len(u) {
			t.Fatalf("Unique of %v is %v", a, u)
		}
		upper := muster.Labels{}
		for _, l := range a {
			upper = append(upper, strings.ToUpper(l))
		}
		if !a.SubsetOf(upper) || !upper.SubsetOf(a) {
			t.Fatal("case matters")
		}
		m := muster.MatchLabels(a, a, b)
		if m.Serves() && (!a.SubsetOf(b) || !b.SubsetOf(a)) {
			t.Fatalf("pool %v serves job %v", a, b)
		}
	})
}

func FuzzParseLabels(f *testing.F) {
	for _, s := range []string{"", "linux,docker", " a , A ", "$(id),x", "a\nb", ",,,", "self-hosted,Linux,X64", "é,ß"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ls, err := muster.ParseLabels(s)
		if err != nil {
			if muster.CodeOf(err) != muster.CodeInvalid {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		again, err := muster.ParseLabels(ls.String())
		if err != nil || !reflect.DeepEqual(again, ls) {
			t.Fatalf("%q: %q then %q, %v", s, ls, again, err)
		}
		for _, l := range ls {
			if strings.ContainsAny(l, " \t\n,$`'\"\\/;&|<>()") {
				t.Fatalf("%q lets %q through", s, l)
			}
		}
	})
}

package query

import (
	"math"
	"net/netip"
	"path"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// functions are what the language has beyond CEL's own and its strings extension.
func functions() []cel.EnvOption {
	str, strs := cel.StringType, cel.ListType(cel.StringType)
	return []cel.EnvOption{
		cel.Function("inDomain",
			cel.MemberOverload("string_in_domain", []*cel.Type{str, str}, cel.BoolType, onTwo(InDomain)),
			cel.MemberOverload("string_in_domains", []*cel.Type{str, strs}, cel.BoolType, onAny(InDomain))),
		cel.Function("inCIDR",
			cel.MemberOverload("string_in_cidr", []*cel.Type{str, str}, cel.BoolType, onTwo(InCIDR)),
			cel.MemberOverload("string_in_cidrs", []*cel.Type{str, strs}, cel.BoolType, onAny(InCIDR))),
		cel.Function("isPublic",
			cel.MemberOverload("string_is_public", []*cel.Type{str}, cel.BoolType, onOne(func(s string) ref.Val { return types.Bool(Public(s)) }))),
		cel.Function("glob",
			cel.MemberOverload("string_glob", []*cel.Type{str, str}, cel.BoolType, onTwo(Glob)),
			cel.MemberOverload("string_globs", []*cel.Type{str, strs}, cel.BoolType, onAny(Glob))),
		cel.Function("hasFlag",
			cel.MemberOverload("string_has_flag", []*cel.Type{str, str}, cel.BoolType, onTwo(hasWord))),
		cel.Function("base",
			cel.MemberOverload("string_base", []*cel.Type{str}, str, onOne(func(s string) ref.Val { return types.String(base(s)) }))),
		cel.Function("entropy",
			cel.MemberOverload("string_entropy", []*cel.Type{str}, cel.DoubleType, onOne(func(s string) ref.Val { return types.Double(Entropy(s)) }))),
		cel.CostModel(
			scans("string_in_domain"), scans("string_in_cidr"), scans("string_is_public"), scans("string_has_flag"), scans("string_entropy"),
			product("string_glob"), product("string_globs"), product("string_in_domains"), product("string_in_cidrs"),
			cost.MemberOverload("string_base", cost.EvalCost(cost.Sum(cost.Const(cost.CallCost), cost.StringScan(cost.Target()))), cost.ResultSize(cost.AtMost(cost.Target()))),
		),
	}
}

// scans is the cost of a function that goes through its text once.
func scans(id string) cost.OverloadModel {
	return cost.MemberOverload(id, cost.EvalCost(cost.Sum(cost.Const(cost.CallCost), cost.StringScan(cost.Target()))))
}

// product is the cost of one that goes through its text for every part of its argument.
func product(id string) cost.OverloadModel {
	return cost.MemberOverload(id, cost.EvalCost(cost.Sum(cost.Const(cost.CallCost), cost.StringScan(cost.Mul(cost.Target(), cost.Arg(0))))))
}

func onOne(f func(string) ref.Val) cel.OverloadOpt {
	return cel.UnaryBinding(func(v ref.Val) ref.Val { return f(string(v.(types.String))) })
}

func onTwo(f func(string, string) bool) cel.OverloadOpt {
	return cel.BinaryBinding(func(a, b ref.Val) ref.Val {
		return types.Bool(f(string(a.(types.String)), string(b.(types.String))))
	})
}

// onAny reports whether f holds for any of a list.
func onAny(f func(string, string) bool) cel.OverloadOpt {
	return cel.BinaryBinding(func(a, b ref.Val) ref.Val {
		s := string(a.(types.String))
		for it := b.(traits.Lister).Iterator(); it.HasNext() == types.True; {
			if one, ok := it.Next().(types.String); ok && f(s, string(one)) {
				return types.True
			}
		}
		return types.False
	})
}

// InDomain reports whether a host is a domain or below it. Case and a final dot do not matter.
func InDomain(host, domain string) bool {
	host, domain = strings.TrimSuffix(host, "."), strings.Trim(domain, ".")
	if domain == "" || len(host) < len(domain) || !strings.EqualFold(host[len(host)-len(domain):], domain) {
		return false
	}
	return len(host) == len(domain) || host[len(host)-len(domain)-1] == '.'
}

// InCIDR reports whether an address is in a network ("10.0.0.0/8") or is one ("10.0.0.1").
// What is no address is in none. IPv4 addresses in the text of IPv6 count as IPv4.
func InCIDR(address, network string) bool {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	p, err := parseNetwork(network)
	return err == nil && p.Contains(a.Unmap().WithZone(""))
}

func parseNetwork(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// Public reports whether an address is one of the public Internet: not private, loopback,
// link-local, multicast, shared (100.64.0.0/10) or unspecified.
func Public(address string) bool {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	a = a.Unmap()
	return a.IsGlobalUnicast() && !a.IsPrivate() && !shared.Contains(a)
}

var shared = netip.MustParsePrefix("100.64.0.0/10")

func hasWord(flags, word string) bool {
	for w := range strings.SplitSeq(flags, ",") {
		if w == word {
			return true
		}
	}
	return false
}

func base(s string) string {
	if s == "" {
		return ""
	}
	return path.Base(s)
}

// Entropy is how much a text looks like chance, in bits per byte: 0 of "aaaa", about 4 of
// hexadecimal digits, above 4.5 of base64.
func Entropy(s string) float64 {
	var seen [256]int
	for i := range len(s) {
		seen[s[i]]++
	}
	bits := 0.0
	for _, n := range seen {
		if n > 0 {
			p := float64(n) / float64(len(s))
			bits -= p * math.Log2(p)
		}
	}
	return bits
}

#!/bin/sh
# gen.sh VERSION writes the go.mod of this module for another Kubernetes, e.g. `sh gen.sh 1.36.3`.
# k8s.io/kubernetes asks for its own parts at v0.0.0, so each of them needs a replace line; the rest is `go mod tidy`.
set -eu
cd "$(dirname "$0")"
version=$1
part=0.${version#1.}
upstream=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
{
	printf 'module github.com/muster-ci/muster/internal/tools/kube\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$version"
	sed -n 's#^[[:space:]]*\(k8s.io/[a-z-]*\) v0\.0\.0\( .*\)\{0,1\}$#\1#p' "$upstream" | sort -u | sed "s#.*#\t& => & v$part#"
	printf ')\n'
} >go.mod
rm -f go.sum
go mod tidy

#!/bin/sh
# Generates gen/ from proto/, docs/cli/ from the commands, docs/providers/ from the kinds, and the recorder's programs
# for the kernel from internal/agent/bpf/c. `generate.sh` writes them; `generate.sh --check` changes nothing and fails if
# one is stale. The programs need clang 14, whose output is what is committed; without it they are left as they are.
#
# The plugins are built from the module graph, so go.mod pins them. buf is built
# in a module graph of its own; its version is pinned here.
set -eu
BUF=v1.73.0

cd "$(dirname "$0")/../.."
bin=${MUSTER_TOOLS:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/muster-tools}/buf-$BUF
mkdir -p "$bin"
bin=$(cd "$bin" && pwd)
[ -x "$bin/buf" ] || GOBIN="$bin" go install "github.com/bufbuild/buf/cmd/buf@$BUF"
go build -o "$bin/" google.golang.org/protobuf/cmd/protoc-gen-go connectrpc.com/connect/cmd/protoc-gen-connect-go

# programs DIR makes the recorder's programs there.
programs() {
	clang --version 2>/dev/null | grep -q 'version 14\.' || {
		echo "internal/agent/bpf: no clang 14, its programs are taken as they are" >&2
		return 1
	}
	(cd "$1" && go generate gen.go && go generate gen_net.go)
}

PATH="$bin:$PATH"
buf lint
case "${1:-}" in
--check)
	out=$(mktemp -d)
	trap 'rm -rf "$out"' EXIT
	buf generate --output "$out"
	diff -r -x '*_test.go' -x doc.go gen "$out/gen" >&2 || {
		echo "gen/ is stale: run make generate" >&2
		exit 1
	}
	go run ./internal/tools/clidocs --check
	go run ./internal/tools/providerdocs --check
	again=$(mktemp -d internal/agent/bpf/again.XXXXXX)
	trap 'rm -rf "$out" "$again"' EXIT
	cp -r internal/agent/bpf/c internal/agent/bpf/gen.go internal/agent/bpf/gen_net.go "$again"
	if programs "$again"; then
		for f in "$again"/*_bpfel.*; do
			cmp "$f" "internal/agent/bpf/${f##*/}" >&2 || {
				echo "internal/agent/bpf/${f##*/} is stale: run make generate" >&2
				exit 1
			}
		done
	fi
	;;
"")
	rm -rf gen/muster
	buf generate
	go run ./internal/tools/clidocs
	go run ./internal/tools/providerdocs
	programs internal/agent/bpf || true
	;;
*)
	echo "usage: generate.sh [--check]" >&2
	exit 2
	;;
esac

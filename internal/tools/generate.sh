#!/bin/sh
# Generates gen/ from proto/, docs/cli/ from the commands, and docs/providers/ from the kinds. `generate.sh` writes
# them; `generate.sh --check` changes nothing and fails if one is stale.
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
	;;
"")
	rm -rf gen/muster
	buf generate
	go run ./internal/tools/clidocs
	go run ./internal/tools/providerdocs
	;;
*)
	echo "usage: generate.sh [--check]" >&2
	exit 2
	;;
esac

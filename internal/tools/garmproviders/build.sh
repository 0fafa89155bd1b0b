#!/usr/bin/env bash
# build.sh builds the external providers of GARM that tests run, from the Go module proxy, and prints the directory where
# they are. The directory's name is the hash of everything that goes in, so a second call finds it and builds nothing.
# build.sh --path only prints the directory, and fails if it is not made yet.
set -euo pipefail
cd "$(dirname "$0")"
export CGO_ENABLED=0 GOFLAGS=-mod=mod GOWORK=off
hash=$({ go env GOVERSION GOARCH; cat go.mod go.sum build.sh local/*.go; } | sha256sum | cut -c1-16)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/muster-test/garm-$hash
if [ -x "$dir/garm-provider-local" ]; then
	echo "$dir"
	exit
fi
if [ "${1:-}" = --path ]; then
	echo "there are no GARM providers in $dir; run scripts/setup.sh" >&2
	exit 1
fi
mkdir -p "${dir%/*}"
part=$(mktemp -d "${dir%/*}/garm-part-XXXXXX")
trap 'rm -rf "$part"' EXIT
go build -buildvcs=false -trimpath -ldflags '-s -w' -o "$part/garm-provider-local" ./local
rm -rf "$dir"
chmod 755 "$part"
mv "$part" "$dir"
trap - EXIT
find "${dir%/*}" -maxdepth 1 -name 'garm-*' -not -path "$dir" -mtime +7 -exec rm -rf {} +
echo "$dir"

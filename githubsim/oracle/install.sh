#!/bin/sh
# Installs the pinned npm packages that the oracle tests use into a cache outside
# the tree, once per lock file, and prints the directory that MUSTER_NPM may name.
set -eu
here=$(cd "$(dirname "$0")" && pwd)/testdata/npm
hash=$(cat "$here/package.json" "$here/package-lock.json" | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/muster/npm
target=$cache/$hash
if [ ! -f "$target/.complete" ]; then
	mkdir -p "$cache"
	work=$(mktemp -d "$cache/.new-XXXXXX")
	trap 'rm -rf "$work"' EXIT
	cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$work/"
	(cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
	# Five sixths of the packages' bytes are descriptions that no test reads.
	rm -f "$work"/node_modules/@octokit/openapi/generated/*.deref.json "$work"/node_modules/@octokit/openapi/generated/ghes-*.json
	touch "$work/.complete"
	# A concurrent installation that was faster is as good as ours.
	mv -T "$work" "$target" 2>/dev/null || [ -f "$target/.complete" ]
fi
echo "$target"

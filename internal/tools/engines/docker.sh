#!/usr/bin/env bash
# docker.sh finds Docker's daemon, or fetches Debian's and unpacks it without installing it, because an installed one starts by
# itself and changes the machine's network. It prints the directory with bin and sbin, and fails if there is none to be had.
set -euo pipefail
if daemon=$(command -v dockerd); then
	dirname "$(dirname "$daemon")"
	exit
fi
dir=${XDG_CACHE_HOME:-$HOME/.cache}/muster-test/docker
if [ -x "$dir/usr/sbin/dockerd" ]; then
	echo "$dir/usr"
	exit
fi
mkdir -p "${dir%/*}"
part=$(mktemp -d "${dir%/*}/docker-part-XXXXXX")
trap 'rm -rf "$part"' EXIT
cd "$part"
apt-get download -qq docker.io tini >&2 || { apt-get update -qq && apt-get download -qq docker.io tini >&2; }
for deb in *.deb; do dpkg -x "$deb" "$part/all"; done
mv -T "$part/all" "$dir" 2>/dev/null || [ -x "$dir/usr/sbin/dockerd" ] # another call may have been faster
echo "$dir/usr"

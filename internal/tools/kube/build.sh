#!/usr/bin/env bash
# build.sh makes what a Kubernetes for tests is made of, from the Go module proxy, and prints the directory where it is:
# bin/kube with its links (etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kubectl), bin/lab and bin/helm.
# The directory's name is the hash of everything that goes in, so a second call finds it and builds nothing. A cold build takes
# about ten minutes of one processor.
# build.sh --path only prints the directory, and fails if it is not made yet.
set -euo pipefail
cd "$(dirname "$0")"
export CGO_ENABLED=0 GOFLAGS=-mod=mod GOWORK=off
kubernetes=$(sed -n 's/^[[:space:]]*k8s.io\/kubernetes v//p' go.mod)
hash=$({ go env GOVERSION GOARCH; cat go.mod go.sum main.go build.sh lab/*.go helm/go.mod helm/go.sum; } | sha256sum | cut -c1-16)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/muster-test/kube-$hash
if [ -x "$dir/bin/kubectl" ]; then
	echo "$dir"
	exit
fi
if [ "${1:-}" = --path ]; then
	echo "there is no Kubernetes in $dir; run scripts/setup.sh" >&2
	exit 1
fi
mkdir -p "${dir%/*}"
part=$(mktemp -d "${dir%/*}/kube-part-XXXXXX")
trap 'rm -rf "$part"' EXIT
version=k8s.io/component-base/version
echo "kube: building Kubernetes $kubernetes; this takes some minutes, once" >&2
nice -n 5 go build -buildvcs=false -trimpath -tags grpcnotrace -o "$part/bin/kube" -ldflags "-s -w -X $version.gitVersion=v$kubernetes
	-X $version.gitMajor=1 -X $version.gitMinor=$(cut -d. -f2 <<<"$kubernetes") -X $version.gitTreeState=clean
	-X $version.gitCommit=0000000000000000000000000000000000000000 -X $version.buildDate=1970-01-01T00:00:00Z" .
nice -n 5 go build -buildvcs=false -trimpath -ldflags '-s -w' -o "$part/bin/lab" ./lab
nice -n 5 go build -C helm -buildvcs=false -trimpath -ldflags '-s -w' -o "$part/bin/helm" helm.sh/helm/v3/cmd/helm
for name in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl; do ln -s kube "$part/bin/$name"; done
rm -rf "$dir"
chmod 755 "$part"
mv "$part" "$dir"
trap - EXIT
# What older versions left: a gigabyte is soon together.
find "${dir%/*}" -maxdepth 1 -name 'kube-*' -not -path "$dir" -mtime +7 -exec rm -rf {} +
echo "$dir"

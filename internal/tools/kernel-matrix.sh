#!/bin/bash
# Says what the recorder records where: on this machine with all rights and with less, and on stock kernels of Debian's,
# which boot unchanged in an emulated machine. Every column is TestMatrix of internal/agent/bpf, one and the same program.
#
#   kernel-matrix.sh [PACKAGE …]     packages such as linux-image-6.1.0-56-cloud-amd64; KERNELS keeps them
#
# Those whose names end in -arm64 boot on an emulated arm64 machine, which takes seven minutes on a quiet machine. HERE=no leaves this machine out.
#
# Needs root, Go, cpio, util-linux, apt, and qemu-system-x86 or qemu-system-arm.
set -eu
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
# A test that has given up its rights cannot remove the cgroup that it made.
tidy() {
	rm -rf "$work"
	for dir in $(awk '$3 == "cgroup2" { print $2 }' /proc/mounts); do rmdir "$dir"/muster-bpf-test-* 2>/dev/null || true; done
}
trap tidy EXIT
kept=${KERNELS:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/muster-kernels}
mkdir -p "$kept"
export CGO_ENABLED=0
go test -c -o "$work/bpf.test" ./internal/agent/bpf
test=("$work/bpf.test" -test.run '^TestMatrix$' -test.timeout 20m)
chmod 755 "$work" "$work/bpf.test"

# column NAME COMMAND… prints what a run says. A run that fails says why.
column() {
	local name=$1
	shift
	echo "== $name"
	"$@" >"$work/out" 2>&1 || true
	tr -d '\r' <"$work/out" | sed -n 's/^MATRIX //p' >"$work/column"
	if [ -s "$work/column" ]; then cat "$work/column"; else tail -20 "$work/out"; fi
	tr -d '\r' <"$work/out" | grep -E 'was not told of|panic' || true
}

if [ "${HERE:-yes}" = yes ]; then
	column "this machine, root" "${test[@]}"
	column "this machine, no cgroup v2" unshare --mount sh -c 'while read -r _ dir kind _; do [ "$kind" != cgroup2 ] || umount -l "$dir"; done </proc/mounts; exec "$@"' sh "${test[@]}"
	column "this machine, no BTF" unshare --mount sh -c 'mount -t tmpfs none /sys/kernel/btf; exec "$@"' sh "${test[@]}"
	# 38 is CAP_PERFMON, 39 CAP_BPF, 12 CAP_NET_ADMIN, 21 CAP_SYS_ADMIN. Where tracefs is not mounted a recorder mounts it
	# for itself, which takes CAP_SYS_ADMIN; most machines have it.
	mounted='grep -q " /sys/kernel/tracing " /proc/mounts || mount -t tracefs none /sys/kernel/tracing; exec "$@"'
	column "this machine, CAP_BPF and CAP_PERFMON" unshare --mount sh -c "$mounted" sh env MUSTER_MATRIX_CAPABILITIES=38,39 "${test[@]}"
	column "this machine, CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN" unshare --mount sh -c "$mounted" sh env MUSTER_MATRIX_CAPABILITIES=38,39,12 "${test[@]}"
	column "this machine, the same without tracefs" env MUSTER_MATRIX_CAPABILITIES=38,39,12 "${test[@]}"
	column "this machine, no rights" setpriv --reuid 65534 --regid 65534 --clear-groups env TMPDIR=/tmp "${test[@]}"
fi

# fetch ARCH PACKAGE downloads a package of Debian's, unless it is there, and prints its file. Lists of another
# architecture than this machine's are kept beside them: dpkg here need not know of it.
fetch() {
	local apt=()
	if [ "$1" != "$(dpkg --print-architecture)" ]; then
		mkdir -p "$kept/apt-$1/lists/partial" "$kept/apt-$1/cache/archives/partial"
		apt=(-o APT::Sandbox::User=root -o "Dir::State::lists=$kept/apt-$1/lists" -o "Dir::Cache=$kept/apt-$1/cache" -o "APT::Architecture=$1" -o "APT::Architectures::=$1")
	fi
	if ! ls "$kept/$2"_*_"$1".deb >/dev/null 2>&1; then
		[ ${#apt[@]} -eq 0 ] || apt-get "${apt[@]}" update >/dev/null
		(cd "$kept" && apt-get "${apt[@]}" download "$2" >/dev/null)
	fi
	ls "$kept/$2"_*_"$1".deb | head -1
}

for package in "$@"; do
	arch=amd64 console=ttyS0
	# Without cx16: QEMU 7.2 emulates that instruction wrongly, and 6.12 uses it.
	machine=(qemu-system-x86_64 -cpu max,-cx16)
	if [ "${package%-arm64}" != "$package" ]; then
		arch=arm64 console=ttyAMA0
		machine=(qemu-system-aarch64 -machine virt -cpu max)
	fi
	rm -rf "$work/kernel" "$work/root"
	mkdir -p "$work/root"/{bin,dev,proc,sys,tmp,etc,usr/bin}
	dpkg -x "$(fetch "$arch" "$package")" "$work/kernel"
	dpkg -x "$(fetch "$arch" busybox-static)" "$work/kernel"
	cp "$(find "$work/kernel" -path '*bin/busybox' -type f)" "$work/root/bin/busybox"
	GOARCH=$arch go test -c -o "$work/root/bpf.test" ./internal/agent/bpf
	echo host >"$work/root/etc/hostname"
	cat >"$work/root/init" <<-'INIT'
		#!/bin/busybox sh
		/bin/busybox --install -s /bin
		export PATH=/bin HOME=/tmp
		mount -t proc proc /proc
		mount -t sysfs sys /sys
		mount -t devtmpfs dev /dev
		mount -t tmpfs tmp /tmp
		mount -t cgroup2 cgroup2 /sys/fs/cgroup
		ip link set lo up
		cd /tmp
		# Everything but the first program in a cgroup: the root has none of its own.
		mkdir /sys/fs/cgroup/agent
		echo $$ >/sys/fs/cgroup/agent/cgroup.procs
		/bpf.test -test.run '^TestMatrix$' -test.v -test.timeout 35m
		poweroff -f
	INIT
	chmod 755 "$work/root/init"
	(cd "$work/root" && find . | cpio --quiet -o -H newc | gzip -1) >"$work/initrd.gz"
	column "Debian $package, root" timeout 2400 "${machine[@]}" -accel tcg -m 1536 -smp 2 -nographic -no-reboot -nic none \
		-kernel "$work"/kernel/boot/vmlinuz-* -initrd "$work/initrd.gz" -append "console=$console panic=-1 quiet"
done

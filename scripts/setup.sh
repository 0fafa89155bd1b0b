#!/usr/bin/env bash
# Installs what `make test` needs and a Debian machine may lack: databases, a browser,
# and the platforms on which providers are tested. Only what is missing, through apt,
# as root; what Debian does not have is built and kept in the user's cache. `make demo`
# and the program itself need none of it.
set -euo pipefail

missing=()
want() { # want PACKAGE TEST…: PACKAGE is wanted unless TEST succeeds
	local package=$1
	shift
	"$@" >/dev/null 2>&1 || missing+=("$package")
}
has_postgres() { command -v postgres || compgen -G '/usr/lib/postgresql/*/bin/postgres'; }

want postgresql has_postgres
want chromium sh -c 'command -v chromium || command -v google-chrome'
want nodejs command -v node
want npm command -v npm
want git command -v git
want openssh-server test -x /usr/sbin/sshd
want procps command -v ps
want systemd command -v systemd-analyze # verifies units; nothing is started
# Slurm and munge, for a cluster of the tests' own. Nothing is started by installing them.
want slurmctld test -x /usr/sbin/slurmctld
want slurmd test -x /usr/sbin/slurmd
want slurmrestd test -x /usr/sbin/slurmrestd
want slurm-client command -v sbatch
want slurm-wlm-basic-plugins sh -c 'ls /usr/lib/*/slurm-wlm/select_cons_tres.so'
want slurm-wlm-jwt-plugin sh -c 'ls /usr/lib/*/slurm-wlm/auth_jwt.so'
want munge test -x /usr/sbin/munged
# A Kubernetes of the tests' own: containerd, runc and the network plugins; the rest is built below.
want containerd command -v containerd
want runc command -v runc
want containernetworking-plugins test -x /usr/lib/cni/bridge
want busybox-static sh -c 'b=$(command -v busybox) && ! ldd "$b"'
want iproute2 command -v ip
want curl command -v curl
# Podman, with the network of its own; gVisor and a registry are built below.
want podman command -v podman
want conmon command -v conmon
want netavark test -x /usr/lib/podman/netavark
want aardvark-dns test -x /usr/lib/podman/aardvark-dns
want iptables command -v iptables
# Virtual machines: QEMU, what makes their images, and below the kernel that they run.
want qemu-system-x86 command -v qemu-system-x86_64
want qemu-utils command -v qemu-img
want e2fsprogs test -x /sbin/mke2fs
want kmod test -x /sbin/depmod
# Traces: what looks at the recorder's programs, and the tools of the builds that are recorded.
want bpftool sh -c 'PATH=$PATH:/usr/sbin command -v bpftool'
want gcc command -v gcc
want libc6-dev test -e /usr/include/stdio.h
want make command -v make
want python3 command -v python3
want python3-setuptools python3 -c 'import setuptools'
want cargo cargo --version
want default-jdk-headless command -v javac
want clang command -v clang
want gdb command -v gdb
want strace command -v strace
want gnupg command -v gpg
want openssh-client command -v ssh-agent
want kubernetes-client command -v kubectl
want libcap2-bin sh -c 'PATH=$PATH:/usr/sbin:/sbin command -v setcap'

if [ ${#missing[@]} -gt 0 ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "setup: please install as root: apt-get install ${missing[*]}" >&2
		exit 1
	fi
	echo "setup: installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	# Debian's packages would start a PostgreSQL of their own; the tests start theirs.
	mkdir -p /etc/postgresql-common
	[ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

kernels=${XDG_CACHE_HOME:-$HOME/.cache}/muster-test/qemu
if ! compgen -G "$kernels/linux-image-*.deb" >/dev/null; then
	mkdir -p "$kernels"
	apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1 || apt-get update -qq
	kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | head -n 1)
	(cd "$kernels" && apt-get download -qq "$kernel" 2>/dev/null)
fi
"$(dirname "$0")/../internal/tools/kube/build.sh" >/dev/null
"$(dirname "$0")/../internal/tools/garmproviders/build.sh" >/dev/null
"$(dirname "$0")/../internal/tools/engines/build.sh" >/dev/null
"$(dirname "$0")/../internal/tools/engines/docker.sh" >/dev/null

oracle=$(dirname "$0")/../githubsim/oracle/install.sh
[ ! -x "$oracle" ] || "$oracle"

#!/usr/bin/env bash
# cluster.sh KUBE IMAGES COMMAND… runs COMMAND beside a real Kubernetes: control plane, one node, containerd and runc, all in namespaces
# of its own, which end with COMMAND. KUBE is what build.sh printed; every IMAGES/*.tar is put into containerd.
#
# COMMAND finds KUBECONFIG (an administrator), KUBE_HOST (an address of the loopback interface that pods reach too), KUBE_WORK (logs in log/, kubelet.pid and others
# in pid/) and the programs in PATH. It runs as root in the cluster's namespaces, so nothing of the machine's network is there.
# KUBE_CNI= (empty) leaves the network plugins out: no pod can start then, which is how tests prove that they notice.
#
# Needs root that may mount, util-linux, iproute2, containerd, runc and containernetworking-plugins (Debian's). Both versions of control groups will do.
set -euo pipefail
kube=$(readlink -f "$1") images=$(readlink -f "$2")
shift 2

hierarchies="cpu cpuacct cpuset memory devices freezer blkio pids"
controllers="+cpu +cpuset +memory +pids +io"

if [ -z "${KUBE_INSIDE:-}" ]; then
	# Outside: a directory, and a control group of our own in every hierarchy, so that the kubelet sees no other.
	# The overlay that containers live on does not lie well on another overlay; name a directory of a real filesystem in TMPDIR if /tmp is none.
	work=$(mktemp -d "${TMPDIR:-/tmp}/muster-kube-XXXXXX")
	mkdir "$work/log" "$work/pid"
	name=muster-kube-${work##*-} groups=()
	if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
		echo "$controllers" >/sys/fs/cgroup/cgroup.subtree_control
		groups=("/sys/fs/cgroup/$name")
		mkdir "${groups[0]}"
	else
		for h in $hierarchies systemd unified; do
			case $h in systemd) key=name=systemd ;; unified) key= ;; *) key=$h ;; esac
			own=$(awk -F: -v key="$key" '{n = split($2, k, ","); for (i = 1; i <= n || i == 1; i++) if (k[i] == key) {print $3; exit}}' /proc/self/cgroup)
			parent=/sys/fs/cgroup/$h${own%/}
			[ -d "$parent" ] || continue
			mkdir "$parent/$name"
			groups+=("$parent/$name")
			[ "$h" != cpuset ] || for f in cpus mems; do cat "$parent/cpuset.$f" >"$parent/$name/cpuset.$f"; done
		done
	fi
	leave() {
		for _ in $(seq 50); do
			left=
			for g in "${groups[@]}"; do
				[ ! -d "$g" ] || { find "$g" -depth -type d -exec rmdir {} + 2>/dev/null || true; }
				[ ! -d "$g" ] || left=1
			done
			[ -n "$left" ] || break
			sleep 0.1
		done
		rm -rf "$work"
	}
	trap leave EXIT
	# Asked to end, it ends what is inside and still cleans up.
	child=
	trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM INT
	(
		for g in "${groups[@]}"; do echo "$BASHPID" >"$g/cgroup.procs"; done
		export KUBE_INSIDE=1 KUBE_WORK=$work KUBE_GROUP=${groups[0]}
		# On version 2 a group with children of its own holds no process: step into a leaf once the group is the root that is seen.
		exec unshare --cgroup bash -c '
			if [ -f "$KUBE_GROUP/cgroup.controllers" ]; then mkdir "$KUBE_GROUP/leaf"; echo $$ >"$KUBE_GROUP/leaf/cgroup.procs"; fi
			exec unshare --mount --net --uts --ipc --pid --fork --kill-child --mount-proc "$@"' cluster "$0" "$kube" "$images" "$@"
	) &
	child=$!
	status=0
	wait "$child" || status=$?
	while kill -0 "$child" 2>/dev/null; do wait "$child" || status=$?; done
	if [ -n "${KUBE_KEEP_LOGS:-}" ]; then mkdir -p "$KUBE_KEEP_LOGS" && cp -r "$work"/log/. "$KUBE_KEEP_LOGS"/ || true; fi
	exit "$status"
fi

# Inside, as process 1.
work=$KUBE_WORK log=$KUBE_WORK/log pki=$KUBE_WORK/pki node=kube-node host=10.200.0.1 open=127.77.0.1
mount --make-rprivate /
hostname $node
mount -t sysfs sysfs /sys
if [ -f "${KUBE_GROUP:-/}/cgroup.controllers" ] || [ "$(stat -fc %T /sys/fs/cgroup 2>/dev/null)" = cgroup2fs ] || grep -q '^0::/leaf' /proc/self/cgroup; then
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	echo "$controllers" >/sys/fs/cgroup/cgroup.subtree_control
else
	mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
	for h in $hierarchies; do
		mkdir /sys/fs/cgroup/$h
		mount -t cgroup -o $h cgroup /sys/fs/cgroup/$h
	done
	mkdir /sys/fs/cgroup/systemd
	mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
fi

# The node's network is a bridge that leads nowhere; it needs a port to be up. Forwarding is what lets pods reach each other.
ip link set lo up
ip link add node0 type bridge
ip addr add $host/24 dev node0
ip link add port0 type veth peer name port1
ip link set port0 master node0
for i in node0 port0 port1; do ip link set $i up; done
ip route add default via 10.200.0.254 dev node0
echo 1 >/proc/sys/net/ipv4/ip_forward
# Pods reach $open, a loopback address, over the bridge: lab has the other half.
echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet

# What is written below these stays here. Temporary files of COMMAND are on the machine's own disk.
for d in var etc opt; do
	[ -d /$d ] || continue
	mkdir -p "$work/copy/$d/upper" "$work/copy/$d/work"
	mount -t overlay overlay -o "lowerdir=/$d,upperdir=$work/copy/$d/upper,workdir=$work/copy/$d/work" /$d
done
mount -t tmpfs tmpfs /run
mkdir /run/sysctl /run/proc /run/cni.d
echo "127.0.0.1 localhost $node" >/etc/hosts
echo "nameserver $host" >/etc/resolv.conf

# The kubelet sets these for the whole machine. Let it write to files that only it sees; a second proc without them is for pods.
while read -r key value; do
	file=/run/sysctl/${key//\//_}
	echo "$value" >"$file"
	mount --bind "$file" "/proc/sys/$key"
done <<'EOF'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
EOF
mount -t proc proc /run/proc

export PATH=$kube/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin KUBECONFIG=$pki/admin.kubeconfig KUBE_HOST=$open
lab pki "$pki" https://127.0.0.1:26443 $node $host

# Without CAP_SYS_RESOURCE nobody may lower an oom score, and containerd has to know.
clamp=false
(echo -1 >/proc/self/oom_score_adj) 2>/dev/null || clamp=true
plugins=${KUBE_CNI-/usr/lib/cni}
mkdir /run/cni.bin
if [ -n "$plugins" ]; then ln -s "$plugins"/* "$kube/bin/lab" /run/cni.bin/; fi
cat >"$work/containerd.toml" <<EOF
version = 2
root = "$work/containerd"
state = "/run/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "local.test/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = $clamp
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/run/cni.bin"
    conf_dir = "/run/cni.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
EOF
cat >/run/cni.d/10-pods.conflist <<'EOF'
{"cniVersion": "0.4.0", "name": "pods", "plugins": [{
  "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "/run/cni-addresses", "ranges": [[{"subnet": "10.201.0.0/22"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "lab", "gateway": "10.201.0.1"}]}
EOF
cat >"$work/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
address: $host
readOnlyPort: 0
maxPods: 250
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/kubelet-serving.crt
tlsPrivateKeyFile: $pki/kubelet-serving.key
clusterDNS: [$host]
resolvConf: /etc/resolv.conf
failSwapOn: false
makeIPTablesUtilChains: false
podLogsDir: /run/pod-logs
volumePluginDir: /run/volume-plugins
evictionHard: {memory.available: "50Mi", nodefs.available: "1%", imagefs.available: "1%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
nodeStatusUpdateFrequency: 2s
nodeLeaseDurationSeconds: 8
serializeImagePulls: false
EOF

start() { # start NAME ARGUMENT…
	local name=$1
	"$@" >"$log/$name.log" 2>&1 </dev/null &
	echo $! >"$work/pid/$name"
}
await() { # await NAME COMMAND…: until COMMAND succeeds, unless NAME ends before
	local name=$1
	shift
	for _ in $(seq 900); do
		if "$@" >/dev/null 2>&1; then return; fi
		if ! kill -0 "$(cat "$work/pid/$name")" 2>/dev/null; then break; fi
		sleep 0.1
	done
	echo "cluster: $name did not come up:" >&2
	tail -n 20 "$log/$name.log" >&2
	exit 90
}
ready() { [ "$(kubectl get --raw=/readyz)" = ok ]; }

start etcd --data-dir="$work/etcd" --unsafe-no-fsync --quota-backend-bytes=4294967296
start containerd --config "$work/containerd.toml"
start kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --secure-port=26443 \
	--service-cluster-ip-range=10.96.0.0/16 --endpoint-reconciler-type=none --profiling=false --allow-privileged=true \
	--client-ca-file="$pki/ca.crt" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
	--service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$pki/sa.pub" --service-account-signing-key-file="$pki/sa.key" \
	--kubelet-client-certificate="$pki/apiserver-kubelet-client.crt" --kubelet-client-key="$pki/apiserver-kubelet-client.key" \
	--kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
	--authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction
await containerd ctr version
for file in "$images"/*.tar; do ctr -n k8s.io images import "$file" >"$log/import.log" 2>&1 & done
await kube-apiserver ready
start kube-controller-manager --kubeconfig="$pki/controller-manager.kubeconfig" --leader-elect=false --secure-port=0 \
	--use-service-account-credentials=true --service-account-private-key-file="$pki/sa.key" --root-ca-file="$pki/ca.crt" \
	--node-monitor-period=1s --node-monitor-grace-period=10s --concurrent-namespace-syncs=10
start kube-scheduler --kubeconfig="$pki/scheduler.kubeconfig" --leader-elect=false --secure-port=0
imported() { [ "$(ctr -n k8s.io images ls -q | grep -c '^local\.test/')" -ge "$(ls "$images"/*.tar | wc -l)" ]; }
await containerd imported
start kubelet --config="$work/kubelet.yaml" --kubeconfig="$pki/kubelet.kubeconfig" --hostname-override=$node --node-ip=$host \
	--root-dir="$work/kubelet" --cert-dir=/run/kubelet-pki
await kubelet kubectl wait --for=condition=Ready node/$node --timeout=1s
await kube-controller-manager kubectl -n default get serviceaccount default

# COMMAND is a child, so that process 1 can pass a signal on.
"$@" &
command=$!
trap 'kill -TERM "$command" 2>/dev/null || true' TERM INT
status=0
wait "$command" || status=$?
while kill -0 "$command" 2>/dev/null; do wait "$command" || status=$?; done
exit "$status"

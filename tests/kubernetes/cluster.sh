#!/bin/bash
# cluster.sh RESULTS FIGURES: starts the cluster, runs the tests on it and ends it. Runs in a Debian root and in
# network, PID, mount, IPC, UTS and cgroup namespaces of its own.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
results=$1 figures=$2
bin=/conex/.cache/bin
export PATH=/opt/kubernetes:$bin:$PATH:/usr/lib/cni
node=192.0.2.1
work=/run/cluster
mkdir -p $work /etc/cni/net.d /run/netns /var/lib/etcd /var/lib/kubelet /var/lib/ctd /etc/kubernetes/manifests /var/log/pods
for d in /var/lib/etcd /var/lib/kubelet /var/lib/ctd /var/log; do mount -t tmpfs tmpfs $d; done
mount --make-rshared /
rm -rf /etc/kubernetes/manifests/* /etc/cni/net.d/*

# The hierarchies as they are seen from the cgroup that this session was born in.
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
awk -F: '$2 != "" {print $2}' /proc/self/cgroup | while read -r controllers; do
	name=${controllers#name=}
	mkdir -p "/sys/fs/cgroup/$name"
	mount -t cgroup -o "${controllers/#name=/none,name=}" cgroup "/sys/fs/cgroup/$name"
done
if grep -q '^0::' /proc/self/cgroup; then
	mkdir -p /sys/fs/cgroup/unified
	mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
fi

# The kubelet writes these for the whole machine: it gets files instead.
for s in kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes vm/overcommit_memory vm/panic_on_oom; do
	file=$work/${s//\//-}
	cat "/proc/sys/$s" >"$file"
	mount --bind "$file" "/proc/sys/$s"
done

ip link set lo up
ip link add node0 type veth peer name node1
ip link set node1 up
ip addr add $node/24 dev node0
ip link set node0 up
ip route add default dev node0
echo 1 >/proc/sys/net/ipv4/ip_forward
hostname node
echo "127.0.0.1 localhost node" >/etc/hosts
: >/etc/resolv.conf
[ -e /etc/machine-id ] && [ -s /etc/machine-id ] || echo 0123456789abcdef0123456789abcdef >/etc/machine-id

# By routes, not by a bridge: what goes to a Service passes the host's rules on both ways.
cat >/etc/cni/net.d/10-test.conflist <<'J'
{"cniVersion": "0.4.0", "name": "test", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
cri="plugins.'io.containerd.grpc.v1.cri'"
mkdir -p /etc/containerd
rm -f /etc/containerd/config.toml*
cat >/etc/containerd/config.toml <<J
version = 2
root = '/var/lib/ctd'
state = '/run/containerd'
[$cri]
sandbox_image = 'local/pause:1'
restrict_oom_score_adj = true
[$cri.cni]
bin_dir = '/usr/lib/cni'
[$cri.containerd]
default_runtime_name = 'runc'
[$cri.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[$cri.containerd.runtimes.conex-runc]
runtime_type = 'io.containerd.runc.v2'
[$cri.containerd.runtimes.conex-runc.options]
BinaryName = '$bin/conex'
J
# As docs/kubernetes.md says.
conex setup --write kubernetes >/tmp/setup.log

. "$here/../managers/features.sh"
image_root /tmp/image
daemon() { # NAME COMMAND…
	local name=$1
	shift
	"$@" >>/tmp/$name.log 2>&1 &
	echo $! >$work/$name.pid
}
until_ok() { # COMMAND…: for two minutes
	local i
	for i in $(seq 600); do
		"$@" >/dev/null 2>&1 && return 0
		sleep 0.2
	done
	echo "not within two minutes: $*"
	tail -5 /tmp/*.log
	return 1
}

daemon containerd containerd
daemon etcd etcd --data-dir /var/lib/etcd --unsafe-no-fsync --log-level error
openssl genrsa -out $work/sa.key 2048 2>/dev/null
echo 'secret,admin,admin,"system:masters"' >$work/tokens
daemon apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --cert-dir $work/certs --secure-port 6443 \
	--advertise-address $node --service-cluster-ip-range 10.96.0.0/16 --token-auth-file $work/tokens \
	--authorization-mode RBAC --allow-privileged --service-account-issuer https://kubernetes \
	--service-account-key-file $work/sa.key --service-account-signing-key-file $work/sa.key \
	--feature-gates EphemeralContainers=true,TTLAfterFinished=true
export KUBECONFIG=$work/config
cat >$KUBECONFIG <<'J'
{"apiVersion": "v1", "kind": "Config", "current-context": "c",
 "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": true}}],
 "users": [{"name": "u", "user": {"token": "secret"}}],
 "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}
J
until_ok kubectl get --raw /readyz
conex setup kubernetes | kubectl apply -f -
daemon controller-manager kube-controller-manager --kubeconfig $KUBECONFIG --service-account-private-key-file $work/sa.key \
	--root-ca-file $work/certs/apiserver.crt --use-service-account-credentials --leader-elect=false --cert-dir $work/cm-certs
daemon scheduler kube-scheduler --kubeconfig $KUBECONFIG --leader-elect=false
until_ok ctr version
for name in pause probe; do
	command=$([ $name = pause ] && echo "sleep 2147483647" || echo sh)
	# shellcheck disable=SC2086 # words
	python3 "$here/../managers/image.py" /tmp/image docker.io/local/$name:1 $command | ctr -n k8s.io images import - >/dev/null
done
cat >$work/kubelet.yaml <<'J'
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
staticPodPath: /etc/kubernetes/manifests
failSwapOn: false
syncFrequency: 5s
maxPods: 200
evictionHard: {}
imageGCHighThresholdPercent: 100
readOnlyPort: 10255
registryPullQPS: 0
eventRecordQPS: 0
kubeAPIQPS: 200
kubeAPIBurst: 400
serializeImagePulls: true
featureGates: {EphemeralContainers: true}
J
cat >$work/start-kubelet <<J
#!/bin/sh
exec kubelet --config $work/kubelet.yaml --kubeconfig $KUBECONFIG --container-runtime remote \
	--container-runtime-endpoint unix:///run/containerd/containerd.sock --hostname-override node --node-ip $node \
	--pod-infra-container-image local/pause:1 --cert-dir $work/kubelet-certs
J
printf '#!/bin/sh\nexec containerd\n' >$work/start-containerd
chmod +x $work/start-*
daemon kubelet $work/start-kubelet
daemon proxy kube-proxy --kubeconfig $KUBECONFIG --cluster-cidr 10.88.0.0/16 --hostname-override node \
	--conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0
until_ok sh -c "kubectl get node node | grep -qw Ready"
until_ok kubectl get serviceaccount default
code=0
if [ -n "${NODE_TESTS:-}" ]; then
	"$here/node-tests.sh" "$results" || code=$?
else
	python3 "$here/pods.py" "$results" "$figures" || code=$?
fi
[ $code = 0 ] || { mkdir -p /conex/.cache/kubernetes-logs; cp /tmp/*.log /conex/.cache/kubernetes-logs/; }
exit $code

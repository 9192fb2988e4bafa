#!/bin/bash
# cri.sh RESULTS: pods through containerd's CRI socket, as a kubelet asks for them, with a runtime class for each runtime.
# Runs in a Debian root and a network namespace of its own. The messages come from Kubernetes' own api.proto, which
# Debian packages.
set -u
cd "$(dirname "$0")"
. ./features.sh
results=$1
bin=$(realpath "${BIN:-../../.cache/bin}")
# With V2, a host with cgroup v2 alone and systemd, which is to make the cgroups.
systemd=${V2:+SystemdCgroup = true}
export PATH=$bin:$PATH:/usr/lib/cni
mkdir -p /tmp/cri /var/lib/ctd /etc/cni/net.d /run/netns
mount -t tmpfs tmpfs /var/lib/ctd
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
image_root /tmp/image
proto=${CRI_PROTO:-/usr/share/gocode/src/k8s.io/cri-api/pkg/apis/runtime/v1}
# Debian's protoc is older than this option, which means nothing on the wire.
sed 's/ *\[debug_redact = true\]//' "$proto/api.proto" >/tmp/cri/api.proto
protoc -I /tmp/cri --python_out=/tmp/cri /tmp/cri/api.proto || exit 1
cat >/etc/cni/net.d/10-test.conflist <<'J'
{"cniVersion": "0.4.0", "name": "test", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
if [ -n "${OLD:-}" ]; then
	cri="plugins.'io.containerd.grpc.v1.cri'" version=2 image="sandbox_image = 'local/pause:1'" pinned=
	shim="[$cri.containerd.runtimes.conex-shim]
runtime_type = 'io.containerd.conex.v2'"
else
	cri="plugins.'io.containerd.cri.v1.runtime'" version=3 image= pinned="[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = 'local/pause:1'"
	# As conex setup writes it for this containerd.
	shim="[$cri.containerd.runtimes.conex-shim]
runtime_type = 'io.containerd.runc.v2'
runtime_path = '$bin/containerd-shim-conex-v2'
[$cri.containerd.runtimes.conex-shim.options]
$systemd"
fi
cat >/tmp/cri/config.toml <<J
version = $version
root = '/var/lib/ctd'
state = '/run/containerd'
[$cri]
$image
# Without CAP_SYS_RESOURCE nobody may lower the score of a pause process below the caller's.
restrict_oom_score_adj = true
[$cri.cni]
bin_dir = '/usr/lib/cni'
[$cri.containerd]
default_runtime_name = 'runc'
[$cri.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[$cri.containerd.runtimes.runc.options]
$systemd
[$cri.containerd.runtimes.conex]
runtime_type = 'io.containerd.runc.v2'
[$cri.containerd.runtimes.conex.options]
BinaryName = '$bin/conex'
$systemd
$shim
[$cri.containerd.runtimes.conex-sandbox]
runtime_type = 'io.containerd.conex.v2'
sandboxer = 'shim'
$pinned
J
CRI_ROOT=/tmp/image PYTHONPATH=/tmp/cri python3 cri.py "${ENGINE:-CRI, containerd 2.1}" "$results"

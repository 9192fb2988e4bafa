#!/bin/bash
# run.sh CACHE OUT: a whole Kubernetes 1.20 (etcd, API server, controller manager, scheduler, kubelet, proxy) on containerd
# 1.6, with a runtime class for runc, for conex below containerd's shim and for conex's shim; writes
# docs/kubernetes-results.md and fails where runc passes and conex does not. PARTS: some of the tests, by name; then
# nothing is written. NODE_TESTS, a pattern of names: instead Kubernetes' own node end-to-end tests, with each runtime as the
# node's default; writes docs/kubernetes-node-tests.md if the pattern is NodeConformance.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
cache=$1 out=$2
packages=golang-go,dpkg-dev,etcd-server,containerd,runc,containernetworking-plugins,conntrack,iptables,iproute2,ipset,procps,busybox-static,ca-certificates,socat,kmod,openssl,python3,util-linux,bsdutils
"$here/../forky/root.sh" "$cache/kubernetes" $packages bookworm
"$here/../forky/enter.sh" "$cache/kubernetes" nice /conex/tests/kubernetes/build.sh ${NODE_TESTS:+node}
mkdir -p "$cache/bin"
install -m 755 "$out/conex" "$out/conex-tools" "$out/containerd-shim-conex-v2" "$cache/bin/"
rm -f "$cache/kubernetes.tsv" "$cache/kubernetes.figures"
# A cgroup of its own in every hierarchy; what is below it goes when the session has ended.
[ -d /sys/fs/cgroup/cpuacct ] || { echo "kubernetes: needs a host with cgroup v1: the cluster's kubelet does"; exit 1; }
cgroups=$(awk '$3 ~ /^cgroup2?$/ {print $2}' /proc/mounts)
for c in $cgroups; do
	mkdir -p "$c/conex-test-kubernetes"
	for f in cpuset.cpus cpuset.mems; do
		[ ! -e "$c/$f" ] || cat "$c/$f" >"$c/conex-test-kubernetes/$f"
	done
done
left() { for c in $cgroups; do find "$c/conex-test-kubernetes" -type d 2>/dev/null || true; done; }
# The last processes of the session's PID namespace may be dying still.
gone() {
	local c i
	for i in $(seq 50); do
		for c in $cgroups; do find "$c/conex-test-kubernetes" -depth -type d -exec rmdir {} \; 2>/dev/null || true; done
		[ -n "$(left)" ] || return 0
		sleep 0.1
	done
}
trap gone EXIT
code=0
(
	for c in $cgroups; do echo $BASHPID >"$c/conex-test-kubernetes/cgroup.procs"; done
	exec timeout -k 5 "${LIMIT:-$((2400 + 4 * ${LOAD_SECONDS:-60}))}" unshare --net --ipc --uts --cgroup "$here/../forky/enter.sh" "$cache/kubernetes" \
		env ${PARTS:+"PARTS=$PARTS"} ${LOAD_SECONDS:+"LOAD_SECONDS=$LOAD_SECONDS"} ${PROBES:+"PROBES=$PROBES"} \
		${NODE_TESTS:+"NODE_TESTS=$NODE_TESTS"} ${CLASSES:+"CLASSES=$CLASSES"} /conex/tests/kubernetes/cluster.sh "/conex/$cache/kubernetes.tsv" "/conex/$cache/kubernetes.figures"
) || code=$?
gone
trap - EXIT
[ -z "$(left)" ] || { printf 'kubernetes: cgroups are left:\n%s\n' "$(left)"; code=1; }
[ "$code" = 0 ] || echo "kubernetes: the session ended with $code"
if [ -n "${NODE_TESTS:-}" ]; then
	[ "$code" -ge 120 ] || python3 "$here/node_table.py" "$cache/kubernetes.tsv" >"$cache/kubernetes-node.md" || code=1
	[ "$NODE_TESTS" != NodeConformance ] || [ "$code" != 0 ] || cp "$cache/kubernetes-node.md" "$here/../../docs/kubernetes-node-tests.md"
elif [ -z "${PARTS:-}" ] && [ "$code" -lt 120 ] && python3 "$here/table.py" "$cache/kubernetes.tsv" "$cache/kubernetes.figures" >"$cache/kubernetes.md"; then
	cp "$cache/kubernetes.md" "$here/../../docs/kubernetes-results.md"
fi
exit "$code"

#!/bin/bash
# Runs inside the root, in a network namespace of its own. suite.sh client|cri COLUMN OUT: containerd's clients with runc, with conex
# in its place (conex), or with conex's shim (conex-shim): one line per test in OUT: suite, test, ok, not ok or skip; OUT.log has all.
set -uo pipefail
here=$(dirname "$0") suite=$1 column=$2 out=$3
# What the daemon keeps is none of the root's.
cp -r /var/lib/registry /run/registry
mount -t tmpfs tmpfs /var/lib
mv /run/registry /var/lib/registry
"$here/registry.sh" || exit 1
mkdir -p /tmp/as /tmp/nri /etc/cni/net.d
export PATH=/tmp/as:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin
[ "$column" = runc ] || ln -s /usr/local/bin/conex /tmp/as/runc
cd /go/src/github.com/containerd/containerd/v2 || exit 1

# The tests' TestMain begins a daemon. What asks no shim is left out (one of those fails now and then below any runtime), and one that
# waits for a SIGTERM of PID 1 that has no handler in busybox's nc.
client() {
	[ "$column" != conex-shim ] || export TEST_RUNTIME=io.containerd.conex.v2
	cd integration/client || exit 1
	/root/containerd-client.test -test.v -test.root -test.parallel 2 -test.timeout 900s \
		-test.skip '^Test(BindLowPortNonOpt|ClientTTRPC_.*|Content.*|Convert|Export.*|Image.*|Import.*|Lease.*|Migration|Snapshotter.*|Transfer.*|OCI.*)$'
}

# By containerd's own script, which wants a name and an answer of crictl.
cri() {
	printf '#!/bin/sh\nexec ctr --address /run/containerd-test/containerd.sock version\n' >/tmp/as/crictl
	chmod 755 /tmp/as/crictl
	sed -n '/^{/,/^}/p' script/setup/install-cni >/etc/cni/net.d/10-containerd-net.conflist
	echo 'disableConnections: false' >/tmp/nri/nri.conf
	export CONTAINERD_CONFIG_FILE=/tmp/cri.toml CGROUP_DRIVER='' GITHUB_WORKSPACE='' RUNTIME='' RESTART_WAIT_PERIOD=3 REPORT_DIR=/tmp/report
	# Without CAP_SYS_RESOURCE nobody lowers an OOM score: the tests with a configuration of their own fail below every runtime.
	cat >$CONTAINERD_CONFIG_FILE <<-C
		version = 2
		[plugins."io.containerd.grpc.v1.cri"]
		  drain_exec_sync_io_timeout = "10s"
		  restrict_oom_score_adj = true
		[plugins."io.containerd.snapshotter.v1.overlayfs"]
		  slow_chown = true
		[plugins."io.containerd.nri.v1.nri"]
		  disable = false
		  config_file = "/tmp/nri/nri.conf"
		  socket_path = "/var/run/nri-test.sock"
		  plugin_path = "/no/pre-launched/nri/plugins"
	C
	# The CRI gives a pod's user namespace to nothing but this type of runtime: conex's shim is named by its path.
	[ "$column" != conex-shim ] || cat >>$CONTAINERD_CONFIG_FILE <<-C
		[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		  runtime_type = "io.containerd.runc.v2"
		  runtime_path = "/usr/local/bin/containerd-shim-conex-v2"
	C
	FOCUS='' bash script/test/cri-integration.sh
}

rm -f "$out"
timeout -k 10 1100 bash -c "$(declare -f "$suite"); column=$column $suite" >"$out.log" 2>&1 </dev/null
# A test with parts is told by them.
sed -n 's/^ *--- \(PASS\|FAIL\|SKIP\): \([^ ]*\) (.*/\2\t\1/p' "$out.log" | sort -u | awk -v suite="$suite" '
	BEGIN { FS = OFS = "\t"; say["PASS"] = "ok"; say["FAIL"] = "not ok"; say["SKIP"] = "skip" }
	{ verdict[$1] = say[$2]; n = split($1, part, "/"); name = part[1]; for (i = 2; i <= n; i++) { has[name] = 1; name = name "/" part[i] } }
	END { for (t in verdict) if (!has[t]) print suite, t, verdict[t] }' | sort >"$out.part"
[ -s "$out.part" ] && mv "$out.part" "$out"

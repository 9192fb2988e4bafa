#!/bin/bash
# node-tests.sh RESULTS: Kubernetes' own node end-to-end tests, those whose names have NODE_TESTS, with each runtime as the
# default of the node; one line a test. Those that pull an image would ask a registry. Runs in the cluster that cluster.sh has
# started.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
results=$1
work=/run/cluster
source=/build/go/src/k8s.io/kubernetes
. "$here/../managers/features.sh"

# The images of these tests by the same names, from what is here: all below one registry that nobody asks.
sed -n 's/^[[:space:]]*\([A-Z][A-Za-z0-9]*Registry\|DockerGluster\) .*yaml:"\([a-zA-Z0-9]*\)".*/\2: docker.io\/local/p' \
	$source/test/utils/image/manifest.go >$work/registries
export KUBE_TEST_REPO_LIST=$work/registries
version() { sed -n "s/.*configs\\[$1\\].*, \"\([^\"]*\)\", \"\([^\"]*\)\"}.*/\1:\2/p" $source/test/utils/image/manifest.go; }
put() { # CONSTANT ROOT COMMAND…
	local name
	name=$(version "$1")
	python3 "$here/../managers/image.py" "$2" "docker.io/local/$name" "${@:3}" | ctr -n k8s.io images import - >/dev/null
}
root=/tmp/images
image_root $root/busybox
put BusyBox $root/busybox sh
put Pause $root/busybox sleep 2147483647
cp -a $root/busybox $root/agnhost
cp /opt/kubernetes/agnhost $root/agnhost/agnhost
ln -s agnhost $root/agnhost/agnhost-2
mkdir $root/agnhost/uploads
# The tests call curl with options before an address; BusyBox has wget.
cat >$root/agnhost/bin/curl <<'C'
#!/bin/sh
for url; do :; done
exec wget -q -T 15 -O - "$url"
C
chmod 755 $root/agnhost/bin/curl
IMAGE_ENTRYPOINT=/agnhost put Agnhost $root/agnhost pause
cp -a $root/busybox $root/web
mkdir -p $root/web/www
echo here >$root/web/www/index.html
for name in Nginx NginxNew Httpd HttpdNew; do put $name $root/web httpd -f -h /www; done
cp -a $root/busybox $root/nnp
mkdir -p $root/nnp/usr/local/bin
install -m 6755 /opt/kubernetes/nonewprivs $root/nnp/usr/local/bin/nnp
put Nonewprivs $root/nnp nnp
IMAGE_USER=1234 put NonRoot $root/busybox sh -c 'id -u'

runtime() { # NAME: the default of the node from here on
	sed -i "s/default_runtime_name = .*/default_runtime_name = '$1'/" /etc/containerd/config.toml
	kill "$(cat $work/containerd.pid)"
	while ctr version >/dev/null 2>&1; do sleep 0.1; done
	$work/start-containerd >>/tmp/containerd.log 2>&1 &
	echo $! >$work/containerd.pid
	local i
	for i in $(seq 600); do
		ctr version >/dev/null 2>&1 && kubectl get node node | grep -qw Ready && return 0
		sleep 0.2
	done
	return 1
}
: >"$results"
for name in ${CLASSES:-runc conex-runc conex}; do
	runtime $name
	mkdir -p $work/report-$name
	cd $work
	ginkgo -nodes="${NODE_TESTS_AT_ONCE:-10}" -noColor -focus="$NODE_TESTS" \
		-skip='\[Serial\]|\[Flaky\]|\[Slow\]|\[Feature:|\[NodeFeature:|with a new image' /opt/kubernetes/e2e_node.test -- \
		--node-name=node --bearer-token=secret --host=https://127.0.0.1:6443 --start-services=false --prepull-images=false \
		--container-runtime=remote --container-runtime-endpoint=unix:///run/containerd/containerd.sock \
		--report-dir=$work/report-$name --report-prefix=$name >/tmp/node-$name.log 2>&1 || true
	grep -E '^Ran |Passed \|' /tmp/node-$name.log | sed "s/^/$name: /" | tail -2
	python3 "$here/junit.py" $name $work/report-$name >>"$results"
done

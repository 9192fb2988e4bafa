#!/bin/bash
# root.sh CACHE peers|containerd: makes CACHE/suites, a Debian root with the sources of runc and crun, what their tests need, and
# images; or CACHE/suites-containerd, the same for containerd.
set -euo pipefail
cache=$1 which=$2
here=$(dirname "$0")
common=runc,crun,golang-go,gcc,libc6-dev,skopeo,umoci,python3,criu,iptables,dpkg-dev,make,gawk,curl,git,ca-certificates,busybox-static,procps,iproute2,util-linux-extra
case $which in
peers) root=$cache/suites packages=$common,bats,jq,uidmap,libseccomp2,bsdextrautils made="$here/prepare.sh" ;;
containerd) root=$cache/suites-containerd packages=$common,containerd,docker-registry,containernetworking-plugins,lsof,strace made="$here/containerd/prepare.sh $here/containerd/images.sh" ;;
esac
"$here/../forky/root.sh" "$root" "$packages"
stamp=$root/suites.stamp
want=$(cat $made "$here/fetch.sh" | sha256sum)
[ -e "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp -r /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
if [ "$which" = containerd ]; then
	"$here/../forky/enter.sh" "$root" /conex/tests/suites/containerd/prepare.sh
	unshare --net "$here/../forky/enter.sh" "$root" /conex/tests/suites/containerd/images.sh
else
	# The other image of runc's tests: a small Debian.
	site=$(awk '/^deb-src/{print $2}' "$root/etc/apt/sources.list")
	mmdebstrap --quiet --variant=minbase --include=libcap2-bin bookworm - "deb $site bookworm main" | xz -0 -T0 >"$root/root/debian.tar.xz"
	"$here/../forky/enter.sh" "$root" /conex/tests/suites/prepare.sh
fi
echo "$want" >"$stamp"

#!/bin/bash
# root.sh CACHE: makes CACHE/suites, a Debian root with the sources of runc and crun, what their tests need, and images.
set -euo pipefail
cache=$1
here=$(dirname "$0")
root=$cache/suites
packages=runc,crun,golang-go,bats,jq,gcc,libc6-dev,skopeo,umoci,python3,uidmap,criu,iptables,dpkg-dev,make,gawk,curl,git,ca-certificates,busybox-static,procps,iproute2,libseccomp2,util-linux-extra,bsdextrautils
"$here/../forky/root.sh" "$root" "$packages"
stamp=$root/suites.stamp
want=$(cat "$here/prepare.sh" "$here/fetch.sh" | sha256sum)
[ -e "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp -r /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
# The other image of runc's tests: a small Debian.
site=$(awk '/^deb-src/{print $2}' "$root/etc/apt/sources.list")
mmdebstrap --quiet --variant=minbase --include=libcap2-bin bookworm - "deb $site bookworm main" | xz -0 -T0 >"$root/root/debian.tar.xz"
"$here/../forky/enter.sh" "$root" /conex/tests/suites/prepare.sh
echo "$want" >"$stamp"

#!/bin/bash
# root.sh ROOT [PACKAGES [SUITE]]: makes a Debian root (forky, or SUITE) with the newer peers (runc, crun) and the Go
# toolchain, or with the packages named, unless it is there.
# The mirror is the one that this machine's own apt uses.
set -euo pipefail
root=$1
stamp="$root.stamp"
packages=${2:-runc,crun,containerd,golang-go,golang-github-opencontainers-runtime-tools-dev,ca-certificates,busybox-static,procps,strace,libseccomp2,iproute2,xz-utils,golang-github-urfave-cli-dev,golang-github-google-uuid-dev,golang-github-mrunalp-fileutils-dev}
suite=${3:-forky}
[ -e "$stamp" ] && [ "$(cat "$stamp")" = "$packages" ] && exit 0
site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m1 -E '/debian/?$')
rm -rf "$root" "$stamp"
mkdir -p "$(dirname "$root")"
# forky's Release file is a snapshot whose validity may have ended.
mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' --include="$packages" \
	"$suite" "$root" "deb $site $suite main" "deb-src $site $suite main"
echo "$packages" >"$stamp"

#!/bin/bash
# Runs inside the forky root. Builds the OCI runtime-tools validation programs and runtimetest into $1, from Debian's
# orig tarball, whose checksum is the one that apt knows.
set -euo pipefail
out=$1
[ -e "$out/done" ] && exit 0
work=$out/src
rm -rf "$out"
mkdir -p "$work/go/src/github.com/opencontainers" "$work/go/src/github.com/mndrix/tap-go" "$out/validation"
apt-get -o Acquire::Check-Valid-Until=false update -qq
read -r uri name _ sum < <(apt-get source --print-uris golang-github-opencontainers-runtime-tools | tr -d "'" | grep orig.tar)
/usr/lib/apt/apt-helper -o Acquire::Check-Valid-Until=false download-file "$uri" "$work/$name" "$sum"
tar -C "$work" -xf "$work/$name"
tree=$(find "$work" -maxdepth 1 -type d -name '*runtime-tools*')
mv "$tree" "$work/go/src/github.com/opencontainers/runtime-tools"
cp tests/conformance/tap-go/tap.go "$work/go/src/github.com/mndrix/tap-go/"
export GO111MODULE=off GOPATH=$work/go:/usr/share/gocode GOCACHE=$work/cache CGO_ENABLED=0 GOFLAGS=-buildvcs=false
cd "$work/go/src/github.com/opencontainers/runtime-tools"
# label.FileLabel moved to another package of the same library.
if ! grep -q 'func FileLabel' /usr/share/gocode/src/github.com/opencontainers/selinux/go-selinux/label/*.go; then
	sed -i 's#go-selinux/label"#go-selinux"#; s/label\.FileLabel/selinux.FileLabel/' cmd/runtimetest/main.go
fi
go build -o "$out/runtimetest" ./cmd/runtimetest
for dir in validation/*/; do
	name=$(basename "$dir")
	[ "$name" = util ] || ls "$dir"/*.go >/dev/null 2>&1 || continue
	[ "$name" = util ] || go build -o "$out/validation/$name" "./$dir"
done
cp rootfs-amd64.tar.gz "$out/" 2>/dev/null || true
# The root file system of the tests' containers: a static busybox.
root=$work/rootfs
mkdir -p "$root"/{bin,dev,etc,proc,sys,tmp,usr,var}
cp /usr/bin/busybox "$root/bin/busybox"
for applet in $("$root/bin/busybox" --list); do ln -sf busybox "$root/bin/$applet"; done
[ -e "$out/rootfs-amd64.tar.gz" ] || tar -C "$root" -czf "$out/rootfs-amd64.tar.gz" .
rm -rf "$work"
ls "$out/validation" | wc -l >"$out/done"

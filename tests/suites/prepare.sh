#!/bin/bash
# Runs inside the root: unpacks the sources, builds the programs of runc's tests and crun's init, makes the images.
set -euo pipefail
here=$(dirname "$0")
# The mirror may no longer have the source of forky's crun; trixie's has the same tests.
grep -h '^deb-src' /etc/apt/sources.list | head -1 | sed 's, forky , trixie ,' >/etc/apt/sources.list.d/trixie.list
apt-get -q -o Acquire::Check-Valid-Until=false update
apt-get -q -y -o Acquire::Check-Valid-Until=false build-dep --no-install-recommends runc

runc=/go/src/github.com/opencontainers/runc
# These versions are named in header.md.
"$here/fetch.sh" runc 1.3.6 $runc
cd $runc
# With the packaged Go libraries, as Debian builds it.
export GO111MODULE=off GOPATH=/go:/usr/share/gocode GOFLAGS=-buildvcs=false
mkdir -p tests/cmd/_bin
for dir in tests/cmd/*/ contrib/cmd/memfd-bind/; do
	name=$(basename "$dir")
	[ "$name" = _bin ] || go build -tags "seccomp urfave_cli_no_docs" -o "tests/cmd/_bin/$name" "./$dir"
done
data=$runc/tests/integration/testdata
mv /root/debian.tar.xz "$data/debian-$(go env GOARCH).tar.xz"
box=$(mktemp -d)
mkdir -p "$box"/{bin,dev,etc,home,root,tmp,usr/sbin,usr/bin,var/spool/mail,var/www,lib}
chmod 1777 "$box/tmp"
cp /usr/bin/busybox "$box/bin/busybox"
for name in $(busybox --list); do [ "$name" = busybox ] || ln "$box/bin/busybox" "$box/bin/$name"; done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n' >"$box/etc/passwd"
printf 'root:x:0:\ntty:x:5:\nwheel:x:10:root\nusers:x:100:\nnogroup:x:65534:\n' >"$box/etc/group"
chmod 755 "$box"
tar -C "$box" -cJf "$data/busybox-$(go env GOARCH).tar.xz" .
rm -rf "$box"

"$here/fetch.sh" crun 1.21 /src/crun
cd /src/crun
# What the program of the tests asks of the configuration.
mkdir -p /src/include
printf '#define _GNU_SOURCE 1\n#define HAVE_SECCOMP 1\n#define HAVE_CAP 1\n' >/src/include/config.h
gcc -static -O1 -I/src/include -o /src/crun-init tests/init.c

#!/bin/bash
# managers.sh CACHE OUT TEST: runs the tests of the shim under a real containerd in a Debian forky root, whose containerd
# is 2.x. TEST is the test program of the shim, a static binary.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
cache=$1 out=$2 test=$3
root=$cache/managers
"$here/forky/root.sh" "$root" containerd,runc,ca-certificates,procps,iproute2,busybox-static
mkdir -p "$cache/bin"
install -m 755 "$out/conex" "$out/containerd-shim-conex-v2" "$cache/bin/"
install -m 755 "$test" "$cache/bin/shim-tests"
timeout -k 5 300 "$here/forky/enter.sh" "$root" env CONEX=/conex/"$cache"/bin/conex \
	SHIM=/conex/"$cache"/bin/containerd-shim-conex-v2 BUSYBOX=/usr/bin/busybox \
	sh -c 'containerd --version; exec "$@"' sh "/conex/$cache/bin/shim-tests" ${TESTS:-containerd}

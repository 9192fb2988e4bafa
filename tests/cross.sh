#!/bin/bash
# cross.sh OUT: tries the arm64 programs in OUT in the emulation of one process, which has no container in it: what they say,
# and what they read. Containers on arm64 are another matter (docs/limits.md).
set -euo pipefail
out=$1
arm() { local program=$1; shift; qemu-aarch64-static "$out/$program" "$@"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "cross: $*" >&2; exit 1; }

for program in conex conex-tools containerd-shim-conex-v2; do
	file=$(readelf -h "$out/$program")
	[[ $file == *AArch64* ]] || fail "$program is not of arm64"
	[[ $(readelf -l "$out/$program") != *INTERP* ]] || fail "$program is not static"
done
# In the order of the table: its own first.
archs=$(arm conex features | tr -d ' \n\t' | grep -oE '"archs":\[[^]]*\]')
[ "$archs" = '"archs":["SCMP_ARCH_AARCH64","SCMP_ARCH_ARM"]' ] || fail "features: $archs"
# A program that is executable is all that the linter asks for.
install -D -m 755 "$out/conex" "$work/rootfs/bin/sh"
arm conex spec --bundle "$work"
arm conex-tools lint "$work" >"$work/said" 2>&1 || fail "lint of a new config.json: $(cat "$work/said")"
cat >"$work/profile.json" <<'END'
{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
 "syscalls": [{"names": ["openat", "cacheflush", "set_tls", "execve"], "action": "SCMP_ACT_ALLOW"}]}
END
arm conex-tools seccomp explain "$work/profile.json" cacheflush >"$work/said"
grep -q '^ *arm .*allowed' "$work/said" || fail "seccomp explain: $(cat "$work/said")"
arm containerd-shim-conex-v2 -v | grep -q Version || fail "the shim does not say its version"
echo "cross: the arm64 programs start, and know their own architecture"

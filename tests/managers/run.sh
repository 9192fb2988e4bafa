#!/bin/bash
# run.sh CACHE OUT TEST: the engines of Debian forky with runc, conex and conex's shim, in a root of their own; writes
# docs/managers.md and fails where runc passes and conex does not. TEST is the test program of the shim, a static binary.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
cache=$1 out=$2 test=$3
root=$cache/managers
"$here/../forky/root.sh" "$root" docker.io,docker-cli,containerd,runc,podman,conmon,crun,ca-certificates,procps,iproute2,iptables,busybox-static,bsdutils
mkdir -p "$cache/bin"
install -m 755 "$out/conex" "$out/containerd-shim-conex-v2" "$cache/bin/"
install -m 755 "$test" "$cache/bin/shim-tests"
enter() { timeout -k 5 900 unshare --net --ipc --uts "$here/../forky/enter.sh" "$root" "$@"; }
enter env CONEX=/conex/"$cache"/bin/conex SHIM=/conex/"$cache"/bin/containerd-shim-conex-v2 BUSYBOX=/usr/bin/busybox \
	"/conex/$cache/bin/shim-tests" containerd
results=$cache/managers.tsv
: >"$results"
enter /conex/tests/managers/docker.sh "/conex/$results"
enter /conex/tests/managers/docker-daemon.sh "/conex/$results"
enter /conex/tests/managers/podman.sh "/conex/$results"
{
	cat "$here/header.md"
	awk -F'\t' '
		{ key = $1 "\t" $2; if (!(key in seen)) { seen[key] = 1; order[++n] = key } cell[key, $3] = $4 }
		END {
			for (i = 1; i <= n; i++) {
				split(order[i], k, "\t")
				show = ""
				for (j = 1; j <= 3; j++) {
					r = j == 1 ? "runc" : j == 2 ? "conex" : "conex-shim"
					c = cell[order[i], r]
					show = show " " (c == "" ? "–" : c) " |"
				}
				print "| " k[1] " | " k[2] " |" show
			}
		}' "$results"
} >"$here/../../docs/managers.md"
awk -F'\t' '
	{ v[$1 "\t" $2, $3] = $4; keys[$1 "\t" $2] = 1; count[$3 " " $4]++ }
	END {
		for (k in keys) for (r in count) {
			split(r, w, " ")
			if (w[1] != "runc" && v[k, "runc"] == "pass" && v[k, w[1]] == "fail" && !told[k, w[1]]++) { print "runc passes, " w[1] " does not: " k; bad = 1 }
		}
		for (c in count) print "managers: " c ": " count[c]
		exit bad
	}' "$results"

#!/bin/bash
# run.sh COMMAND…: runs a test command in mount and PID namespaces of its own, under a timeout, and checks afterwards
# that cgroups (v1 and unified), mounts, interfaces, state directories and processes are as before. The last line counts the tests.
set -uo pipefail
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
export CONEX_TEST_SKIPS=$work/skips CONEX_TEST_DIR=$work/tmp CONEX_TEST_IDS=$work/ids
mkdir "$work/tmp"
: >"$CONEX_TEST_SKIPS"
: >"$CONEX_TEST_IDS"
# The clients of many shims are threads of one program: 1,024 descriptors, as a service has them, are too few.
[ "$(ulimit -Sn)" = unlimited ] || [ "$(ulimit -Sn)" -ge 20000 ] || ulimit -n 20000 2>/dev/null || ulimit -S -n "$(ulimit -Hn)"
# Containers of two runs would have the same names, as each has a PID namespace of its own.
exec 9</sys/fs/cgroup
flock -n 9 || {
	echo "another run of the tests is at work on this host: waiting for its end"
	flock 9
}
# So would those of an earlier run that was killed: its directories would be taken for somebody else's, and stay.
find /sys/fs/cgroup -depth -type d -path '*/conex-test*' -exec rmdir {} \; 2>/dev/null
old=$(find /sys/fs/cgroup -type d -path '*/conex-test*' 2>/dev/null | head -n 3)
if [ -n "$old" ]; then
	echo "an earlier run has left processes in" $old
	rm -rf "$work"
	exit 1
fi
look() {
	# What systemd's own services and users do meanwhile is theirs.
	find /sys/fs/cgroup -type d 2>/dev/null | grep -vE '/process_api/|/system\.slice/[^/]*\.service|/user\.slice/.*\.(service|slice|socket|scope)$' | sort
	awk '{print $5, $9}' /proc/self/mountinfo | sort
	ls /sys/class/net
	ls -d /run/conex/* /run/containerd/* /run/containerd/*/* 2>/dev/null
	# Elsewhere the processes end with the PID namespace, and what has conex in its name is somebody else's.
	[ -z "${OWN_HOST:-}" ] || ps -eo args= | grep conex | grep -vE 'run\.sh|grep|cargo|make|find|awk' | sort
}
look >"$work/before"
# containerd's clients and shims write below /run/containerd whatever they are told, and conex keeps a mount namespace below
# /run/conex: theirs goes with the namespace.
mkdir -p /run/containerd
# systemd names processes by their number, so on a host of our own (OWN_HOST=1) the PID namespace stays its.
isolate="--mount --pid --fork --kill-child --mount-proc --propagation private"
[ -z "${OWN_HOST:-}" ] || isolate="--mount --propagation private"
run() {
	# The shell stays as the namespace's first process and reaps orphans: a container whose exec nobody reaps does not end.
	# shellcheck disable=SC2086
	timeout -k 10 "${LIMIT:-900}" unshare $isolate \
		sh -c 'mount -t tmpfs tmpfs /run/containerd && mkdir -p /run/conex && mount -t tmpfs tmpfs /run/conex && "$@"; exit $?' sh "$@" 2>&1 9<&-
}
run "$@" | tee "$work/log"
code=${PIPESTATUS[0]}
sum() { grep -oE "[0-9]+ $1" "$2" | awk '{n += $1} END {print n + 0}'; }
sleep 0.3
look >"$work/after"
changed=$(diff "$work/before" "$work/after" | grep '^[<>]')
# Somebody else may start and end containers meanwhile, but not where all is ours: in CI and on a host of our own. What
# carries an id or a directory of this run is ours everywhere.
if [ -n "${CI:-}${OWN_HOST:-}" ]; then
	left=$changed
else
	cut -d' ' -f1 "$CONEX_TEST_IDS" >"$work/own"
	printf '%s\n' conex "$work" >>"$work/own"
	left=$(grep -F -f "$work/own" <<<"$changed")
	others=$(grep -vF -f "$work/own" <<<"$changed" | grep -c .)
	[ "$others" = 0 ] || echo "note: $others changes of somebody else's were seen meanwhile (cgroups, mounts, interfaces)"
fi
passed=$(sum passed "$work/log") failed=$(sum failed "$work/log")
skipped=$(sort -u "$CONEX_TEST_SKIPS" | wc -l)
passed=$((passed - skipped))
if [ "$skipped" != 0 ]; then
	echo "skipped, with what the host missed:"
	sort -u "$CONEX_TEST_SKIPS" | sed 's/^/  /'
fi
unexpected=$(cut -d: -f1 "$CONEX_TEST_SKIPS" | sort -u | grep -vxF -f "${EXPECTED_SKIPS:-$here/expected-skips}" || true)
# Where all is ours a skip must be expected; another machine has other features, and its owner is told above.
if [ -n "$unexpected" ] && [ -n "${CI:-}${OWN_HOST:-}${EXPECTED_SKIPS:-}" ]; then
	echo "not in ${EXPECTED_SKIPS:-tests/expected-skips}: $unexpected"
	failed=$((failed + 1)) code=1
fi
if [ -n "$left" ]; then
	echo "left behind by the tests (>) or missing after them (<):"
	echo "$left"
	echo "made by:"
	while read -r id test; do grep -qE "\b$id\b" <<<"$left" && echo "  $id $test"; done <"$CONEX_TEST_IDS"
	failed=$((failed + 1)) code=1
fi
if [ $((passed + failed + skipped)) = 0 ]; then
	echo "no test was run"
	code=1
fi
failures=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$work/log" | tr '\n' ' ')
rm -rf "$work"
[ $code = 0 ] && echo "all well" || echo "failed: ${failures:-see above}"
echo "integration: $passed passed, $failed failed, $skipped skipped"
exit "$code"

#!/bin/bash
# all.sh CACHE CONEX: builds the suite if needed, runs it against conex and compares with expected.tsv. A program that
# behaves otherwise than expected fails, also when it passes unexpectedly: the list and docs/conformance.md must be
# true. "either" is for a program whose verdict is a race of its own; it counts as skipped. With UPDATE=1, runs runc and crun as well and writes docs/conformance.md.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
top=$(realpath "$here/../..")
cache=$(realpath "$1") conex=$2
enter() { "$here/../forky/enter.sh" "$cache/forky" "$@"; }
inside=/conex/${cache#"$top"/}
"$here/../forky/root.sh" "$cache/forky"
enter bash tests/conformance/build.sh "$inside/conformance" >"$cache/conformance-build.log" 2>&1 || { tail -n 20 "$cache/conformance-build.log"; exit 1; }
install -m 755 "$conex" "$cache/conex"
enter bash tests/conformance/run.sh "$inside/conformance" "$inside/conex" conex
if [ "${UPDATE:-}" = 1 ]; then
	enter bash tests/conformance/run.sh "$inside/conformance" /usr/sbin/runc runc
	HIDE_UNIFIED=1 enter bash tests/conformance/run.sh "$inside/conformance" /usr/bin/crun crun
	versions="runc $(enter runc --version | sed -n 's/^runc version //p'), crun $(enter crun --version | sed -n 's/^crun version //p')"
	{
		sed '/^TABLE$/,$d' "$here/header.md" | sed "s/VERSIONS/$versions/"
		for r in conex runc crun; do
			printf '%s passes %s of %s. ' $r "$(awk -F'\t' '$2=="pass"' "$cache/conformance/$r.tsv" | wc -l)" "$(wc -l <"$cache/conformance/$r.tsv")"
		done
		printf '\n\n| program | conex | runc | crun | why conex does not pass |\n|---|---|---|---|---|\n'
		while IFS=$'\t' read -r test verdict _; do
			peer() { awk -F'\t' -v t="$test" '$1==t {print $2}' "$cache/conformance/$1.tsv"; }
			reason=$(awk -F'\t' -v t="$test" '$1==t {print $3}' "$here/expected.tsv")
			echo "| $test | $verdict | $(peer runc) | $(peer crun) | $reason |"
		done <"$cache/conformance/conex.tsv"
	} >"$top/docs/conformance.md"
fi
passed=0 failed=0 known=0
while IFS=$'\t' read -r test verdict why; do
	expected=$(awk -F'\t' -v t="$test" '$1==t {print $2}' "$here/expected.tsv")
	if [ "$expected" = either ]; then
		known=$((known + 1))
	elif [ "$verdict" != "${expected:-pass}" ]; then
		echo "FAIL $test: $verdict, expected ${expected:-pass}: $why"
		failed=$((failed + 1))
	elif [ "$verdict" = pass ]; then
		passed=$((passed + 1))
	else
		known=$((known + 1))
	fi
done <"$cache/conformance/conex.tsv"
echo "$known programs cannot pass on this host or for a fault of their own, as docs/conformance.md explains"
echo "conformance: $passed passed, $failed failed, $known skipped"
[ $failed = 0 ] && [ $passed -gt 0 ]

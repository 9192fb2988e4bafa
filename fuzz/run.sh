#!/bin/bash
# run.sh SECONDS [TARGET…]: runs the fuzz targets, two at a time, for that many seconds in all. What stops one is put into
# corpus/TARGET, where it stays and is run first from then on. The layout is cargo-fuzz's (`cargo fuzz run TARGET` works as
# well, with a nightly compiler); this script needs neither: the compiler's own passes count the edges.
set -uo pipefail
cd "$(dirname "$(realpath "$0")")" || exit 1
seconds=$1
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(ls targets | sed -n 's/\.rs$//p' | grep -vx common)
host=$(rustc -vV | sed -n 's/^host: //p')
flags="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTFLAGS=$flags cargo build --release --target "$host" || exit 1
work=$(mktemp -d)
each=$((seconds * 2 / ${#targets[@]}))
one() {
	local target=$1 grown=$work/$1
	mkdir -p "$grown" "corpus/$target"
	timeout -k 10 $((each + 120)) "target/$host/release/$target" -max_total_time="$each" -timeout=10 -rss_limit_mb=2048 \
		-max_len=65536 -artifact_prefix="$work/crash-$target-" -print_final_stats=1 "$grown" "corpus/$target" >"$work/$target.log" 2>&1
	echo $? >"$work/$target.code"
}
running=0
for target in "${targets[@]}"; do
	one "$target" &
	running=$((running + 1))
	if [ $running = 2 ]; then
		wait -n
		running=1
	fi
done
wait
passed=0 failed=0
for target in "${targets[@]}"; do
	runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$target.log")
	if [ "$(cat "$work/$target.code")" = 0 ] && [ "${runs:-0}" -gt 0 ]; then
		passed=$((passed + 1))
		echo "fuzz $target: ok, $runs inputs in $each s, $(grep -oE 'cov: [0-9]+' "$work/$target.log" | tail -n 1)"
	else
		failed=$((failed + 1))
		echo "fuzz $target: FAILED"
		grep -vE '^#[0-9]|^INFO' "$work/$target.log" | tail -n 40
		for found in "$work/crash-$target-"*; do
			[ -e "$found" ] && cp "$found" "corpus/$target/" && echo "kept: fuzz/corpus/$target/$(basename "$found")"
		done
	fi
done
rm -rf "$work"
echo "fuzz: $passed passed, $failed failed"
[ $failed = 0 ]

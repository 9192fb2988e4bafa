#!/bin/bash
# Runs inside the forky root: every validation program against one runtime, each under a timeout.
# run.sh OUT RUNTIME NAME: writes OUT/NAME.tsv with program, verdict and the first failure; TAP goes to OUT/log/.
set -uo pipefail
suite=$1 runtime=$2 name=$3
mkdir -p "$suite/log/$name"
: >"$suite/$name.tsv"
cd "$suite"
for program in validation/*; do
	test=$(basename "$program")
	log=log/$name/$test.tap
	RUNTIME=$runtime timeout -k 5 60 "$program" >"$log" 2>&1 </dev/null
	code=$?
	why=$(grep -m1 -E '^not ok' "$log" | cut -c1-160 | tr '\t' ' ')
	if [ $code = 124 ] || [ $code = 137 ]; then
		verdict=timeout
	elif [ $code != 0 ] || [ -n "$why" ]; then
		verdict=fail
		[ -n "$why" ] || why=$(tail -n1 "$log" | cut -c1-160 | tr '\t' ' ')
	elif grep -qE '^ok' "$log"; then
		verdict=pass
		! grep -qE '^ok' "$log" || grep -qvE '^ok .*# SKIP' <(grep -E '^ok' "$log") || verdict=skip
	else
		verdict=empty
	fi
	printf '%s\t%s\t%s\n' "$test" "$verdict" "$why" >>"$name.tsv"
done

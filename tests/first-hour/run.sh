#!/bin/bash
# run.sh CACHE: what a new user does, on a Debian forky where nothing is installed: the commands of the README word for word,
# then those of walk.md, whose output goes into docs/first-hour.md. Packages and crates come from where this machine gets them.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
top=$(realpath "$here/../..")
mkdir -p "$1"
cache=$(realpath "$1")
root=$cache/first-hour
site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m1 -E '/debian/?$')
rm -rf "$root"
mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' --include=ca-certificates forky "$root" "deb $site forky main"
mkdir -p "$root/root/conex" "$root/root/.cargo"
git -C "$top" archive HEAD | tar -x -C "$root/root/conex"
# Not committed yet, where somebody works on it.
cp "$top/README.md" "$root/root/conex/README.md"
cp "$here"/inside.sh "$here"/walk.md "$root/root/conex/tests/first-hour/" 2>/dev/null || { mkdir -p "$root/root/conex/tests/first-hour" && cp "$here"/inside.sh "$here"/walk.md "$root/root/conex/tests/first-hour/"; }
[ ! -d "${CARGO_HOME:-$HOME/.cargo}/registry" ] || cp -a "${CARGO_HOME:-$HOME/.cargo}/registry" "$root/root/.cargo/"
cp /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
code=0
timeout -k 10 "${LIMIT:-1500}" "$top/tests/forky/enter.sh" "$root" bash /root/conex/tests/first-hour/inside.sh >"$cache/first-hour.log" 2>&1 || code=$?
if [ $code = 0 ]; then
	[ -z "${UPDATE:-}" ] || cp "$root/root/first-hour.md" "$top/docs/first-hour.md"
	echo "first hour: $(grep -c '^\$ ' "$cache/first-hour.log") commands of the README and of the walk"
else
	tail -n 30 "$cache/first-hour.log"
	echo "first hour: failed with $code"
fi
rm -rf "$root"
exit $code

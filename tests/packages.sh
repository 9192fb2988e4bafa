#!/bin/bash
# packages.sh NAME[:FILE]…: installs the Debian packages whose FILE is missing (or whose NAME is not installed), and says
# which; with NO_INSTALL=1 it only says.
set -euo pipefail
missing=()
for item in "$@"; do
	name=${item%%:*} file=${item#*:}
	if [ "$file" != "$item" ]; then
		[ -e "$file" ] || missing+=("$name")
	else
		dpkg -s "$name" >/dev/null 2>&1 || missing+=("$name")
	fi
done
[ ${#missing[@]} = 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then
	echo "please install: ${missing[*]}" >&2
	exit 1
fi
if [ -n "${NO_INSTALL:-}" ]; then
	echo "NO_INSTALL is set; please install: ${missing[*]}" >&2
	exit 1
fi
echo "installing ${missing[*]}"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null

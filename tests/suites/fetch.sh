#!/bin/bash
# fetch.sh PACKAGE VERSION DIR: the original source of a Debian package whose version begins so, with the checksum of apt's signed
# index: the newest that the mirror still has.
set -euo pipefail
sites=$(awk '/^deb-src/{print $2}' /etc/apt/sources.list)
found=$(apt-cache showsrc --only-source "$1" | awk -v want="$2" '
	/^Version: / { version = $2 }
	/^Directory: / { dir = $2 }
	/^[A-Z]/ { sums = /^Checksums-Sha256/ }
	sums && /\.orig\.tar\.[a-z0-9]+$/ { sum = $1; file = $3 }
	/^$/ { if (index(version, want) == 1) print version, dir, sum, file }' | sort -Vr | uniq)
while read -r _ dir sum file; do
	curl -fsSL -o "/tmp/$file" "${sites%%$'\n'*}/$dir/$file" || continue
	echo "$sum  /tmp/$file" | sha256sum -c --quiet
	rm -rf "$3"
	mkdir -p "$3"
	tar xf "/tmp/$file" -C "$3" --strip-components=1
	exit 0
done <<<"$found"
echo "$1 $2: no source on the mirror" >&2
exit 1

#!/bin/bash
# fetch.sh PACKAGE VERSION DIR: the original source of a Debian package, as apt's signed index names it, with its checksum.
set -euo pipefail
show=$(apt-cache showsrc --only-source "$1" | awk -v v="$2" 'BEGIN{RS=""} $0 ~ "\nVersion: " v {print; exit}')
dir=$(sed -n 's/^Directory: //p' <<<"$show")
read -r sum _ file <<<"$(sed -n '/^Checksums-Sha256/,/^[A-Z]/p' <<<"$show" | grep -E '\.orig\.tar\.[a-z0-9]+$' | head -1)"
site=$(awk '/^deb-src/{print $2; exit}' /etc/apt/sources.list)
curl -fsSL -o "/tmp/$file" "$site/$dir/$file"
echo "$sum  /tmp/$file" | sha256sum -c --quiet
rm -rf "$3"
mkdir -p "$3"
tar xf "/tmp/$file" -C "$3" --strip-components=1

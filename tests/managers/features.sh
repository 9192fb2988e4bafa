# Sourced by the sessions: one line for each feature, `engine <tab> feature <tab> runtime <tab> pass|fail`.

# A root file system for images, from Debian's busybox.
image_root() {
	mkdir -p "$1"/{bin,proc,sys,dev,etc,tmp,run}
	cp /usr/bin/busybox "$1/bin/"
	for a in $("$1/bin/busybox" --list); do [ -e "$1/bin/$a" ] || ln -s busybox "$1/bin/$a"; done
	printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n' >"$1/etc/passwd"
	printf 'root:x:0:\nuser:x:1000:\n' >"$1/etc/group"
}

# feature NAME WANTED COMMAND: runs the command; its standard output with white space made single, then its exit status
# after an equals sign, must match the pattern WANTED.
feature() {
	local out status
	out=$(timeout "${limit:-40}" bash -c "$3" 2>/tmp/stderr </dev/null)
	status=$?
	out="$(tr -s ' \t\r\n' ' ' <<<"$out")"
	out="${out% }=$status"
	local verdict=fail
	# shellcheck disable=SC2053 # a pattern
	[[ $out == $2 ]] && verdict=pass
	printf '%s\t%s\t%s\t%s\n' "$engine" "$1" "$name" $verdict >>"$results"
	[ $verdict = pass ] || echo "$engine: $1 with $name: wanted $2, got $out; $(head -c 300 /tmp/stderr)" >&2
}

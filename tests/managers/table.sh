#!/bin/bash
# table.sh HEADER RESULTS ERRORS: docs/managers.md.
set -euo pipefail
cat "$1"
awk -F'\t' '
	{ key = $1 "\t" $2; if (!(key in seen)) { seen[key] = 1; order[++n] = key } cell[key, $3] = $4 }
	END {
		print "| engine | feature | runc | conex | conex with its shim |"
		print "|---|---|---|---|---|"
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
	}' "$2"
cat <<'T'

## Common mistakes

What the engine's user reads, without time stamps and identifiers: docker.io 28.5, podman 5.8 and ctr of containerd 2.1.
Where both columns are alike the engine finds the mistake itself. conex names the field of config.json (which the engine
wrote from the user's words) and its place.

| mistake | engine | with runc | with conex |
|---|---|---|---|
T
cat "$3"

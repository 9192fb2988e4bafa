#!/bin/bash
# Runs inside the root, in a network namespace of its own: starts the registry.
set -euo pipefail
ip link set lo up
cat >/root/registry.yml <<-Y
	version: 0.1
	storage: {filesystem: {rootdirectory: /var/lib/registry}, delete: {enabled: true}}
	http: {addr: "127.0.0.1:443", secret: x, tls: {certificate: /usr/local/share/ca-certificates/registry.crt, key: /root/key.pem}}
Y
docker-registry serve /root/registry.yml >/root/registry.log 2>&1 &
for _ in $(seq 100); do (: </dev/tcp/127.0.0.1/443) 2>/dev/null && exit 0; sleep 0.1; done
echo "the registry does not start" >&2
exit 1

#!/bin/bash
# Runs inside the root: builds the clients of containerd's tests from Debian's source.
set -euo pipefail
here=$(dirname "$0")
apt-get -q -o Acquire::Check-Valid-Until=false update
apt-get -q -y -o Acquire::Check-Valid-Until=false build-dep --no-install-recommends containerd
top=/go/src/github.com/containerd/containerd
rm -rf $top
# This version is named in header.md. The paths of the imports end in v2, but for the part that is a module of its own.
"$here/../fetch.sh" containerd 2.1.9 $top/v2
mv $top/v2/api $top/api
cd $top/v2
export GO111MODULE=off GOPATH=/go:/usr/share/gocode GOFLAGS=-buildvcs=false
# Debian leaves out what is for Windows; containerd's CRI names types of it.
windows=/go/src/github.com/Microsoft/hcsshim/cmd/containerd-shim-runhcs-v1
mkdir -p $windows/{options,stats}
printf 'package options\n\ntype Options struct{}\n' >$windows/options/options.go
cat >$windows/stats/stats.go <<-'G'
	package stats

	import "google.golang.org/protobuf/types/known/timestamppb"

	type Processor struct{ TotalRuntimeNS uint64 }
	type Memory struct{ MemoryUsagePrivateWorkingSetBytes uint64 }
	type Windows struct {
		Timestamp *timestamppb.Timestamp
		Processor *Processor
		Memory    *Memory
	}
	type Statistics struct{ Windows *Windows }

	func (s *Statistics) GetWindows() *Windows { return s.Windows }
G
# One test says an unsigned number with %s, which vet takes for a fault.
go test -vet=off -c -o /root/containerd-client.test ./integration/client
go test -vet=off -c -o /root/containerd-cri.test ./integration

# A shim, a runtime and network plugins that fail or wait where a test tells them to.
for name in containerd-shim-runc-fp-v1 runc-fp; do go build -o "/usr/local/bin/$name" "./integration/failpoint/cmd/$name"; done
mkdir -p /opt/cni
rm -rf /opt/cni/bin
cp -rL /usr/lib/cni /opt/cni/bin
for name in cni-bridge-fp loopback-v2; do go build -o "/opt/cni/bin/$name" "./integration/failpoint/cmd/$name"; done
mkdir -p bin
ln -sf /usr/bin/containerd /usr/bin/ctr bin/
ln -sf /root/containerd-cri.test bin/cri-integration.test

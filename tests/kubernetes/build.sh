#!/bin/bash
# build.sh: builds Kubernetes from Debian's source package, into /opt/kubernetes. Runs inside the Debian root. Everything
# that it needs is vendored in the package, so Go fetches nothing.
set -euo pipefail
[ ! -e /opt/kubernetes/done ] || exit 0
mkdir -p /build /opt/kubernetes
cd /build
apt-get update -qq
# The root's mirror has no other user, and apt's own may not enter every folder.
apt-get source -qq -o APT::Sandbox::User=root kubernetes >/dev/null
source=$(realpath kubernetes-1.*/)
export GOPATH=/build/go GO111MODULE=off CGO_ENABLED=0 HOME=/root
mkdir -p $GOPATH/src/k8s.io
ln -sfn "$source" $GOPATH/src/k8s.io/kubernetes
cd $GOPATH/src/k8s.io/kubernetes
# The API server's description of its own types is the only Go file that is made at each build.
go build -o /build/openapi-gen ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
tagged=$(grep --color=never -rl '+k8s:openapi-gen=' --include='*.go' pkg cmd staging/src/k8s.io vendor/k8s.io 2>/dev/null |
	xargs -n 1 dirname | sort -u | sed 's#^staging/src/#k8s.io/kubernetes/vendor/#; /^k8s.io/!s#^#k8s.io/kubernetes/#' |
	grep -vE 'testdata|/kube-openapi/(cmd|test)|sample-|code-generator|/generators' | sort -u | paste -sd,)
/build/openapi-gen --go-header-file hack/boilerplate/boilerplate.generatego.txt --output-file-base zz_generated.openapi \
	--output-package k8s.io/kubernetes/pkg/generated/openapi --report-filename /build/openapi.report --input-dirs "$tagged"
version=$(sed -n "s/.*'tag: \(v[0-9.]*\)'.*/\1/p" hack/lib/version.sh | head -1)
flags=
for package in k8s.io/kubernetes/vendor/k8s.io/client-go/pkg/version k8s.io/kubernetes/vendor/k8s.io/component-base/version; do
	flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=20"
done
go build -ldflags "-s -w $flags" -o /opt/kubernetes/ ./cmd/kubelet ./cmd/kube-apiserver ./cmd/kube-controller-manager \
	./cmd/kube-scheduler ./cmd/kube-proxy ./cmd/kubectl
touch /opt/kubernetes/done

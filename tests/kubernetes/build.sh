#!/bin/bash
# build.sh [node]: builds Kubernetes from Debian's source package, into /opt/kubernetes; `node`: its node tests as well. Runs
# inside the Debian root. Everything that it needs is vendored in the package, so Go fetches nothing.
set -euo pipefail
needed=(/opt/kubernetes/done ${1:+/opt/kubernetes/done-node})
ls "${needed[@]}" >/dev/null 2>&1 && exit 0
mkdir -p /build /opt/kubernetes
cd /build
apt-get update -qq
# The root's mirror has no other user, and apt's own may not enter every folder.
[ -d kubernetes-1.* ] || apt-get source -qq -o APT::Sandbox::User=root kubernetes >/dev/null
source=$(realpath kubernetes-1.*/)
export GOPATH=/build/go GO111MODULE=off CGO_ENABLED=0 HOME=/root
mkdir -p $GOPATH/src/k8s.io
ln -sfn "$source" $GOPATH/src/k8s.io/kubernetes
cd $GOPATH/src/k8s.io/kubernetes
build_servers() {
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
}

build_node_tests() {
	# Its node end-to-end tests, and the program that their images consist of. They read their assets from the source.
	cat >test/e2e/generated/bindata.go <<'G'
package generated

import "io/ioutil"

// Asset is a file of the source.
func Asset(name string) ([]byte, error) { return ioutil.ReadFile("/build/go/src/k8s.io/kubernetes/" + name) }

// AssetNames is for messages alone.
func AssetNames() []string { return nil }
G
	go test -c -ldflags "-s -w" -o /opt/kubernetes/e2e_node.test ./test/e2e_node
	go build -ldflags "-s -w" -o /opt/kubernetes/ ./test/images/agnhost ./test/images/nonewprivs ./vendor/github.com/onsi/ginkgo/ginkgo
	touch /opt/kubernetes/done-node
}

[ -e /opt/kubernetes/done ] || build_servers
[ -z "${1:-}" ] || [ -e /opt/kubernetes/done-node ] || build_node_tests

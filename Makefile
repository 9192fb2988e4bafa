# conex: targets for people and for CI. `make help` lists them.

HOST    := $(shell uname -m)-unknown-linux-gnu
# ARCH is Debian's name (arm64, amd64), TARGET Rust's.
TARGET_arm64 := aarch64-unknown-linux-gnu
TARGET_amd64 := x86_64-unknown-linux-gnu
# From the command line alone: kernel developers have ARCH in their environment.
ifeq ($(origin ARCH),command line)
TARGET  ?= $(or $(TARGET_$(ARCH)),$(error ARCH=$(ARCH): expected amd64 or arm64))
endif
TARGET  ?= $(HOST)
# Debian's linker, where it is another machine's.
ifneq ($(TARGET),$(HOST))
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER ?= aarch64-linux-gnu-gcc
endif
export TARGET
CARGO   ?= cargo
OUT     := target/$(TARGET)/release
CACHE   := .cache
PREFIX  ?= /usr/local
DESTDIR ?=
export CONEX_COMMIT ?= $(shell git rev-parse --short HEAD 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: suites bench-quick cross-check deps-cross first-hour fuzz docs book proto managers kubernetes hosts help build run shell check test unit conformance conformance-update bench install say deps deps-build deps-test deps-hosts deb deb-check forky clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 22

build: deps-build ## build the static release binaries
	$(CARGO) build --release --target $(TARGET) -p conex -p conex-tools -p containerd-shim-conex

run: build bundles/hello/rootfs/hello ## run the bundle hello: what a container looks like from inside
	@for ns in cgroup ipc mnt net pid time user uts; do echo "$$ns $$(readlink /proc/self/ns/$$ns)"; done >bundles/hello/rootfs/host-namespaces
	$(OUT)/conex run bundles/hello/

shell: build bundles/shell/rootfs/bin/busybox ## an interactive shell in the bundle shell
	$(OUT)/conex run bundles/shell/

bundles/hello/rootfs/hello: bundles/hello/src/main.rs bundles/hello/Cargo.toml
	$(CARGO) build --release --target $(TARGET) -p conex-hello
	mkdir -p bundles/hello/rootfs
	cp $(OUT)/conex-hello $@

bundles/shell/rootfs/bin/busybox: | deps-test
	mkdir -p $(@D)
	cp /bin/busybox $@ 2>/dev/null || cp /usr/bin/busybox $@
	for applet in $$($@ --list); do [ -e $(@D)/$$applet ] || ln -s busybox $(@D)/$$applet; done

check: ## formatting, lints, invariants
	$(CARGO) fmt --check
	$(CARGO) clippy --target $(TARGET) --all-targets -- -D warnings
	$(CARGO) clippy --target $(TARGET) -- -D warnings -D clippy::too_many_lines
	tests/invariants.sh

unit: deps-build ## unit tests
	$(CARGO) test --target $(TARGET) -p conex -p conex-tools -p conex-sys -p conex-plan -p conex-cgroup -p conex-acts -p conex-child -p conex-host -p conex-keeper -p containerd-shim-conex

test: say build deps-test check unit bundles/hello/rootfs/hello bundles/shell/rootfs/bin/busybox ## unit and integration tests on this machine
	CONEX=$(abspath $(OUT)/conex) SHIM=$(abspath $(OUT)/containerd-shim-conex-v2) BUSYBOX=$(abspath bundles/shell/rootfs/bin/busybox) tests/run.sh $(CARGO) test --no-fail-fast --release --target $(TARGET) -p conex-tests -- $(TESTS)

say:
	@echo "This takes about five minutes on two cores (one more to build the first time), needs root, and installs what is"
	@echo "missing of: gcc busybox-static runc mmdebstrap procps libseccomp-dev iproute2 containerd e2fsprogs strace (make deps does only that)."

forky: deps-test ## a Debian root with the newer peers and Go, for conformance and bench
	tests/forky/root.sh $(CACHE)/forky

conformance: build forky ## the OCI runtime-tools validation programs, against the expected list
	tests/conformance/all.sh $(CACHE) $(OUT)/conex

conformance-update: build forky ## run conex, runc and crun, and write docs/conformance.md
	UPDATE=1 tests/conformance/all.sh $(CACHE) $(OUT)/conex

bench: build forky bundles/shell/rootfs/bin/busybox ## conex, runc and crun against the kernel floor; the shims side by side
	$(CARGO) build --release --target $(TARGET) -p conex-tests
	tests/bench.sh $(CACHE) $(OUT)

bench-quick: build forky ## three ratios in less than two minutes; fails where one is 15 % worse than the last landed one
	$(CARGO) build --release --target $(TARGET) -p conex-tests
	tests/bench.sh $(CACHE) $(OUT) quick

first-hour: deps-test ## the README's commands and a walk through them, on a Debian where nothing is installed (UPDATE=1: writes docs/first-hour.md)
	tests/first-hour/run.sh $(CACHE)

proto: ## write the Rust types of proto/*.proto (needs protoc: protobuf-compiler)
	@tests/packages.sh protobuf-compiler:/usr/bin/protoc libprotobuf-dev:/usr/include/google/protobuf/any.proto
	$(CARGO) run -p conex-proto --example generate -- proto/src/generated

FUZZ_SECONDS ?= 600
fuzz: deps-build deps-fuzz ## the fuzz targets of fuzz/, FUZZ_SECONDS in all (600), FUZZ_TARGETS of them
	fuzz/run.sh $(FUZZ_SECONDS) $(FUZZ_TARGETS)

deps-fuzz:
	@tests/packages.sh g++:/usr/bin/g++ libseccomp-dev:/usr/include/seccomp.h

managers: build deps-test ## Docker, containerd and Podman of Debian forky with runc, conex and its shim; writes docs/managers.md
	tests/managers/run.sh $(CACHE) $(OUT) $(call program,shim) $(call program,integration)

kubernetes: build deps-test ## a whole Kubernetes 1.20 on runc, conex and its shim; writes docs/kubernetes-results.md (PARTS, LOAD_SECONDS, PROBES, NODE_TESTS)
	tests/kubernetes/run.sh $(CACHE) $(OUT)

suites: build deps-test ## the tests of runc, crun and containerd with their own runtime and with conex; writes docs/suites.md (SUITES="runc crun client cri")
	tests/suites/run.sh $(CACHE) $(OUT) $(SUITES)

# The test programs, as cargo built them.
program = $$($(CARGO) test --release --target $(TARGET) -p conex-tests --test $(1) --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))/\1/p')

hosts: build deps-test deps-hosts bundles/hello/rootfs/hello bundles/shell/rootfs/bin/busybox ## all tests on a cgroup v2 host with systemd (UML), on QEMU and with masked calls; writes docs/hosts.md
	$(CARGO) build --release --target $(TARGET) -p conex-tests
	tests/hosts/run.sh $(CACHE) $(OUT) $(call program,integration) $(call program,shim) $(HOSTS)

deps-lintian:
	@tests/packages.sh lintian:/usr/bin/lintian

deps-hosts:
	@tests/packages.sh qemu-system-x86:/usr/bin/qemu-system-x86_64 kmod:/usr/sbin/depmod python3:/usr/bin/python3

docs: ## write the completions for zsh and fish from the command table
	$(CARGO) run --release --target $(TARGET) -p conex-tests --bin gendocs -- .

book: deps-test ## docs/ as a book, in target/book
	packaging/book.sh $(CACHE)

cross-check: ## build for arm64 and try what the programs say there, in emulation (qemu-user-static)
	@$(MAKE) --no-print-directory build TARGET=$(TARGET_arm64)
	@tests/packages.sh qemu-user-static:/usr/bin/qemu-aarch64-static
	tests/cross.sh target/$(TARGET_arm64)/release

install: build ## install the binaries, man pages and completions (PREFIX, DESTDIR)
	install -D -m 755 $(OUT)/conex $(DESTDIR)$(PREFIX)/sbin/conex
	install -D -m 755 $(OUT)/conex-tools $(DESTDIR)$(PREFIX)/libexec/conex/conex-tools
	install -D -m 755 $(OUT)/containerd-shim-conex-v2 $(DESTDIR)$(PREFIX)/bin/containerd-shim-conex-v2
	for page in docs/man/*.8; do install -D -m 644 $$page $(DESTDIR)$(PREFIX)/share/man/man8/$$(basename $$page); done
	install -D -m 644 completions/conex.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/conex
	install -D -m 644 completions/_conex $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_conex
	install -D -m 644 completions/conex.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/conex.fish

deb: build ## a Debian package with the static binaries, man pages and completions, in target/
	packaging/deb.sh target

deb-check: deb deps-test deps-lintian ## ask lintian, install the package into fresh roots of bookworm and forky, run a container, remove it
	packaging/check.sh target/conex_*_$$(dpkg --print-architecture).deb $(CACHE)

deps: deps-build deps-test ## install the Debian packages that build and tests need, and nothing else (NO_INSTALL=1: only say which)

deps-build: $(if $(filter-out $(HOST),$(TARGET)),deps-cross)
	@command -v cc >/dev/null || tests/packages.sh gcc libc6-dev

# To build for arm64 elsewhere: Debian's linker and C library, and Rust's standard library where rustup keeps it.
deps-cross:
	@[ $(TARGET) = $(TARGET_arm64) ] || { echo "TARGET=$(TARGET): this machine builds for $(HOST) and $(TARGET_arm64)" >&2; exit 1; }
	@tests/packages.sh gcc-aarch64-linux-gnu:/usr/bin/aarch64-linux-gnu-gcc libc6-dev-arm64-cross:/usr/aarch64-linux-gnu/lib/libc.a
	@! command -v rustup >/dev/null || rustup --quiet target add $(TARGET)

deps-test:
	@tests/packages.sh busybox-static:/usr/bin/busybox runc:/usr/sbin/runc mmdebstrap:/usr/bin/mmdebstrap procps:/usr/bin/ps \
		libseccomp-dev:/usr/include/seccomp.h iproute2:/usr/sbin/ip containerd:/usr/bin/containerd e2fsprogs:/sbin/mke2fs strace:/usr/bin/strace squashfs-tools:/usr/bin/mksquashfs

clean: ## remove build output and caches
	$(CARGO) clean
	rm -rf $(CACHE) bundles/*/rootfs

# The menu. `make` alone prints it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
TARGET := $(CURDIR)/target

.PHONY: help
help: ## print this menu
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'

.PHONY: packages
packages: ## install the Debian packages that are missing
	@tests/packages.sh

.PHONY: tools
tools: packages ## build Kubernetes, etcd, containerd, CoreDNS and Helm from their pinned Go modules (once)
	@tests/kubernetes/build.sh all helm >/dev/null

.PHONY: build
build: packages ## build all programs
	$(CARGO) build --workspace --bins

.PHONY: test
test: ## everything CI checks; ends with where the time went
	@tests/run.sh

.PHONY: bench
bench: packages ## how long evidence takes to verify, and how much memory; joins of one and of fifty nodes; calls of a hundred nodes in each cloud; size of the operator
	cd attestation/bench && $(CARGO) bench --target-dir $(TARGET)/bench
	cd attestation/bench && $(CARGO) test --release --target-dir $(TARGET)/bench
	$(CARGO) build --release -p constellation-verifier -p constellation-bootstrapper
	$(CARGO) test --release -p constellation-tests --test join_process crowd -- --nocapture
	tests/models.sh aws azure google
	$(CARGO) test -p constellation-cloud-aws -p constellation-cloud-azure -p constellation-cloud-gcp --test life hundred -- --nocapture
	$(CARGO) build --release -p constellation-operator --features azure,gcp
	@stat -c 'the operator without AWS, released: %s bytes' $(TARGET)/release/constellation-operator

.PHONY: prove
prove: packages ## the join: its state machine with an attacker in it, and its symbolic models
	$(CARGO) test --release -p constellation-model --features prove
	@tests/symbolic.sh

.PHONY: mutants
mutants: packages ## change the code that decides on joins, place by place, and see a test fail; hours
	@tests/mutants.sh $(FILES)

.PHONY: miri
miri: packages ## parsers that call no C under Miri (nightly with its component miri); ten minutes and more
	cd attestation && CARGO_INCREMENTAL=0 MIRIFLAGS=-Zmiri-disable-isolation $(CARGO) +nightly miri test --target-dir $(TARGET)/miri \
	  -p constellation-attestation --lib -- tpm:: guest:: snp::tcb snp::policy snp::floors tdx::tcb tdx::policy reference:: result::
	cd attestation && CARGO_INCREMENTAL=0 MIRIFLAGS=-Zmiri-disable-isolation $(CARGO) +nightly miri test --target-dir $(TARGET)/miri \
	  -p constellation-attestation --test fuzz_smoke -- guest_ pe policy

.PHONY: soak
soak: packages ## thousands of fault schedules (SCHEDULES=N); hours
	@tests/run.sh soak

.PHONY: lint
lint: packages ## formatting and clippy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

.PHONY: generate
generate: ## regenerate CRDs and reference pages
	$(CARGO) run -q -p constellation-crds --bin crdgen
	$(CARGO) run -q -p constellation-attest --bin attestgen
	for page in metrics refusals; do \
	  $(CARGO) run -q -p constellation-operator --bin constellation-operator -- $$page >$(TARGET)/$$page.md; \
	  mv $(TARGET)/$$page.md docs/reference/$$page.md; \
	done

.PHONY: demo
demo: ## a local cluster of measured VMs through the operator, told on screen
	@tests/demo.sh

.PHONY: clean-demo
clean-demo: ## remove what a demo left behind
	@tests/demo.sh clean

.PHONY: quickstart
quickstart: ## the same story on the simulated provider, without VMs
	@tests/quickstart.sh

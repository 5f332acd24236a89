# What a person types. `make demo` shows the main job; `make test` is what CI runs.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

CARGO ?= cargo
SCRIPTS := $(wildcard tests/tools/*.sh) .ci/run

# End-to-end tests wait for servers more than they compute.
export RUST_TEST_THREADS ?= 4

.PHONY: help bench build deb demo setup lint test

help:
	@echo 'make build   both programs, in target/release'
	@echo 'make deb     a Debian package with both, in target/debian'
	@echo 'make demo    archive, drop a table, lose the server, restore: under a minute after the build'
	@echo 'make setup   what the tests need: PostgreSQL 13 to 18, Garage, moto'
	@echo 'make lint    formatting, clippy, documentation, shell scripts'
	@echo "make bench   the figures of docs/performance.md"
	@echo 'make test    setup, lint and every test'

build:
	$(CARGO) build --release --locked

deb: build
	$(CARGO) deb --no-build --locked --package walvault-daemon

demo:
	tests/tools/demo.sh

setup:
	tests/tools/setup.sh

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps
	shellcheck --external-sources $(SCRIPTS)

# The programs are built together with the tests that run them, so that dependencies are compiled
# once, with the same features.
test: setup lint
	$(CARGO) build --release --locked --workspace --bins --tests
	$(CARGO) test --release --locked --workspace --no-fail-fast

bench: build
	$(CARGO) bench --locked -p walvault-benches
	$(CARGO) build --release --locked -p walvault-benches
	benches/streaming.py
	benches/backup.py

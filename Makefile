# What a person types. `make demo` shows the main job; `make test` is what CI runs.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

CARGO ?= cargo
SCRIPTS := $(wildcard tests/tools/*.sh) .ci/run

# End-to-end tests wait for servers more than they compute.
export RUST_TEST_THREADS ?= 6

.PHONY: help bench build check deb demo deny e2e fuzz setup soak lint test

# Where tests/tools/setup.sh puts what it installs.
CACHE := $(or $(WALVAULT_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/walvault)

# Seconds for each target of `make fuzz`.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := $(patsubst fuzz/fuzz_targets/%.rs,%,$(wildcard fuzz/fuzz_targets/*.rs))

# Seconds for each test of `make soak` that leaves things to chance, and worlds for its simulation.
SOAK_SECONDS ?= 300
SOAK_WORLDS ?= 100000
SOAK_FAILOVERS ?= 25

help:
	@echo 'make build   both programs, in target/release'
	@echo 'make deb     a Debian package with both, in target/debian'
	@echo 'make demo    archive, drop a table, lose the server, restore: under a minute after the build'
	@echo 'make check   formatting, clippy and the unit tests that need no server: what to run while editing'
	@echo 'make e2e T=… the end-to-end tests whose names contain T, and the programs they run; after make setup'
	@echo 'make setup   what the tests need: PostgreSQL 13 to 18, Garage, moto'
	@echo 'make lint    formatting, clippy, documentation, shell scripts'
	@echo 'make deny    licences, sources and bans of dependencies, and whether each is used'
	@echo 'make fuzz    every decoder, FUZZ_SECONDS (60) each; what is found stays in fuzz/artifacts'
	@echo 'make soak    the simulation of SOAK_WORLDS (100000), then real faults for SOAK_SECONDS (300) each; prints seeds'
	@echo "make bench   the comparisons of docs/performance.md, on a machine at rest"
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
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --all-features --no-deps
	shellcheck --external-sources $(SCRIPTS)

# The programs are built together with the tests that run them, and without the benchmarks, whose
# dependencies ask for more features of others: so `make build` and `make test` compile those once.
TESTED := --workspace --exclude walvault-benches

# Debug builds, which compile fastest. Tests of other kinds start servers.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings
	$(CARGO) test --locked $(TESTED) --lib

e2e:
	@test -n '$(T)' || { echo "make e2e: name the tests, such as 'make e2e T=restore_instants::'" >&2; exit 1; }
	$(CARGO) build --locked $(TESTED) --bins
	$(CARGO) test --locked $(TESTED) --test end_to_end -- '$(T)'

# What setup installed is there: a test that misses it has failed, and is not skipped.
test soak: export WALVAULT_REQUIRE_SERVERS := 1

test: setup lint deny
	$(CARGO) build --release --locked $(TESTED) --bins --tests
	$(CARGO) test --release --locked $(TESTED) --no-fail-fast

# What a seed shows is repeated with WALVAULT_SEED=<seed> and the same command.
soak: setup
	$(CARGO) build --release --locked $(TESTED) --bins --tests
	WALVAULT_SEEDS=$(SOAK_WORLDS) $(CARGO) test --release --locked $(TESTED) --test simulation -- --nocapture
	WALVAULT_SOAK_SECONDS=$(SOAK_SECONDS) WALVAULT_SOAK_FAILOVERS=$(SOAK_FAILOVERS) \
	    $(CARGO) test --release --locked $(TESTED) --test end_to_end -- --nocapture faults::

bench: build
	tests/tools/setup.sh benches
	$(CARGO) bench --locked -p walvault-benches
	$(CARGO) build --release --locked -p walvault-benches
	$(CACHE)/bench-python/bin/python benches/all.py --json target/bench.json

# The database of advisories is on the Internet; where it cannot be had, the rest is checked, and that is said.
deny:
	$(CACHE)/cargo/bin/cargo-machete
	$(CACHE)/cargo/bin/cargo-deny --locked check bans licenses sources
	@if $(CACHE)/cargo/bin/cargo-deny fetch db 2>/dev/null; then $(CACHE)/cargo/bin/cargo-deny --locked check advisories; \
	else echo 'make deny: the database of advisories could not be fetched; advisories are not checked' >&2; fi

# Needs a nightly compiler and cargo-fuzz. `cargo test` runs the same functions over the same corpus on the stable one.
fuzz:
	@rustup run nightly rustc --version || { echo "make fuzz: no nightly compiler; 'rustup toolchain install nightly' brings one" >&2; exit 1; }
	@$(CARGO) fuzz --version || { echo "make fuzz: no cargo-fuzz; 'cargo install cargo-fuzz' brings it" >&2; exit 1; }
	for target in $(FUZZ_TARGETS); do \
	    mkdir -p "fuzz/grown/$$target"; \
	    $(CARGO) +nightly fuzz run "$$target" "fuzz/grown/$$target" "fuzz/corpus/$$target" -- -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -rss_limit_mb=1024; \
	done

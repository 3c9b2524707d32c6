# The everyday words. meson.build says how things are built; this says what to type.
BUILD ?= build
JOBS ?= $(shell nproc)
T ?=
KEEP ?=

ninja = ninja -C $(1) -j $(JOBS)
run_tests = T='$(T)' tools/run-tests

.DEFAULT_GOAL := all
.PHONY: all install deb deps deps-test deps-bench check test clients lint asan tsan demo bench soak fuzz-build fuzz fuzz-merge format clean help

all: deps ## build the programs into build/ (installs the packages they need first)
	@tools/configure $(BUILD)
	@$(call ninja,$(BUILD))

deps:
	@tools/install-deps build

deps-test:
	@tools/install-deps build test

deps-bench:
	@tools/install-deps build bench

check: all ## the unit tests alone: seconds (T=name runs what matches)
	@$(run_tests) --build $(BUILD) unit stress fuzz

test: deps-test all ## everything: unit, integration, end to end, lint (T=name runs what matches)
	@$(run_tests) --build $(BUILD)

clients: deps-test all ## clients that nobody here wrote, those of many GB too, newest from PyPI (CLIENTS=pinned: known to work)
	@ALL_CLIENTS=1 CLIENTS='$(CLIENTS)' T=test_clients tools/run-tests --build $(BUILD) e2e

lint: deps-test all ## clang-tidy, layers, banned functions, width of lines; sizes are advice
	@$(run_tests) --build $(BUILD) lint

asan: deps-test ## the tests under AddressSanitizer and UBSan (SUITES="unit integration" for more than the units)
	@tools/configure build-asan -Db_sanitize=address,undefined -Db_lundef=false -Dstatic_trap=true -Doptimization=1 -Dwerror=false
	@$(call ninja,build-asan)
	@$(run_tests) --build build-asan $(or $(SUITES),unit stress fuzz)

tsan: deps-test ## the stress programs (loop and workers) under ThreadSanitizer
	@tools/configure build-tsan -Db_sanitize=thread -Db_lundef=false -Doptimization=1
	@$(call ninja,build-tsan)
	@$(run_tests) --build build-tsan stress

install: all ## programs, services, manual pages and completion into /usr/local (DESTDIR=)
	@meson install -C $(BUILD) --no-rebuild --quiet

deb: deps ## the Debian package: build/deb/openreward_*.deb
	@tools/install-deps deb
	@tools/make-deb $(BUILD)

demo: all ## deploy two environments and run an agent's sessions (KEEP=1 leaves the platform running)
	@BUILD='$(BUILD)' KEEP='$(KEEP)' tools/demo

bench: deps-bench all ## measure, side by side with other runtimes
	@BUILD='$(BUILD)' bench/run

soak: deps-test all ## everything that can die does, under load, for ten minutes (SECONDS=600), and mixed use by clients that vanish
	@SOAK_SECONDS='$(or $(SECONDS),600)' tools/run-tests --build $(BUILD) soak

api-fuzz: deps-test all ## requests made from /openapi.json by schemathesis, for ten minutes (SECONDS=600)
	@T=test_schemathesis SCHEMATHESIS_SECONDS='$(or $(SECONDS),600)' tools/run-tests --build $(BUILD) e2e

fuzz-build:
	@CC=clang-14 tools/configure build-fuzz -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false
	@$(call ninja,build-fuzz)

fuzz: deps-test fuzz-build ## each target until it has run 10 million inputs or found nothing new for 5 minutes (SECONDS=60: no longer; T=name)
	@AT_ONCE='$(or $(AT_ONCE),$(JOBS))' tools/fuzz build-fuzz $(or $(SECONDS),0) '$(T)'

fuzz-merge: fuzz-build ## what `make fuzz` found into tests/fuzz/corpus, as far as it reaches something new
	@tools/fuzz --merge build-fuzz '$(T)'

format: deps-test ## what clang-format would change (advice)
	@git ls-files '*.c' '*.h' | xargs -r clang-format-14 --dry-run 2>&1 | grep -c 'clang-format-violations' || true

clean: ## remove everything that was built
	rm -rf $(BUILD) build-asan build-tsan build-fuzz

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Every verb is one line of `make`; what it does is in scripts/.
.DEFAULT_GOAL := help
.PHONY: help setup build test simulate format lint generate check bench bench-cores bench-rpc bench-codec bench-datastore conformance soak sanitize fuzz demo up clean

# `swift build` refuses a target that imports what its manifest does not name.
BUILD = swift build --explicit-target-dependency-import-check error

# The generator's files have a manner of their own.
SWIFT_FILES = git ls-files -z --cached --others --exclude-standard --deduplicate -- \
	'*.swift' ':!*.pb.swift' ':!*.rpc.swift'

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## Install what is missing: Debian packages, Python packages in .venv
	@scripts/setup

build: setup ## Build everything, for debugging
	$(BUILD)

test: setup ## Run all checks and tests: what CI runs
	@scripts/test

simulate: setup ## Run every core in worlds where everything breaks: SEEDS=1000 of them
	@scripts/simulate --seeds $(or $(SEEDS),1000)

format: ## Format the Swift files that people write
	@$(SWIFT_FILES) | xargs -0 swift format --in-place --parallel

lint: ## Check the style of what people write, and that documents quote what is tested
	@$(SWIFT_FILES) | xargs -0 swift format lint --strict --parallel
	@scripts/check-docs

generate: ## Make the code of every proto anew
	@scripts/generate.sh

check: setup lint ## Check what needs no tests: style, protos, generated code
	@scripts/check-protos
	@scripts/generate.sh --check

bench: setup ## Measure a stack of services that takes many small builds
	@scripts/bench

bench-cores: setup ## Measure the scheduler's and the allocator's cores alone
	@swift run -c release --static-swift-stdlib core-bench

bench-rpc: setup ## Measure the RPC library beside gRPC C++ and nghttpd
	@scripts/bench-rpc --instructions

bench-codec: setup ## Measure the messages' codec beside swift-protobuf and protobuf-c
	@scripts/bench-codec

bench-datastore: setup ## Measure the datastore-gateway beside Google's emulators, pgbench and SQLite
	@scripts/bench-datastore

conformance: setup ## Run protobuf's own conformance tests on our messages
	@scripts/conformance

soak: setup ## Break farms of real processes: MINUTES=30 over each store
	@scripts/soak $(or $(MINUTES),30)

sanitize: setup ## Run the RPC library's tests under the thread and the address sanitizer
	@scripts/sanitize

fuzz: setup ## Fuzz what strangers send: MINUTES=1 for each of seven targets
	@scripts/fuzz $(or $(MINUTES),1)

demo: setup ## Build real upstream projects on a local farm, and show it
	@demo/run

up: build ## Start a farm on this machine, until Ctrl-C
	@"$$(swift build --show-bin-path)/millrace" up

clean: ## Remove what was built
	rm -rf .build Fuzz/.build Interop/.build Benchmarks/.build Benchmarks/peers/*/*/.build .venv

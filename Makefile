# `make` lists what there is. Works as root and as any user.

.DEFAULT_GOAL := help
.PHONY: help demo test simulate reliability e2e lint bench bench-parts fuzz image deny build clean

# rustup's default place, for shells that have not been told
export PATH := $(PATH):$(HOME)/.cargo/bin
IMAGE ?= callferry:latest

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## build, then carry real captured calls from a SQLite PBX database to a receiver; ends by itself
	@target/release/callferry demo

build: ## build the release binary, target/release/callferry
	@scripts/install-missing.sh build
	cargo build --release --locked

test: ## install what tests need (apt), then format, lint, all tests against real database servers
	@scripts/install-missing.sh test
	@scripts/test.sh

reliability: ## kill databases, agent and receivers under thousands of calls, and print what was lost: nothing (8 minutes)
	@scripts/install-missing.sh test
	@scripts/reliability.sh

simulate: ## thousands of seeded storms in virtual time (tests/simulate.rs); SIM_SEEDS=20000 SIM_FIRST=1 for others
	@scripts/install-missing.sh build
	SIM_SEEDS=$${SIM_SEEDS:-5000} nice -n 10 cargo test --locked --test simulate -- --nocapture

e2e: ## provision a real Asterisk and call through it (root; a private root and network namespace, kept in target/e2e)
	@scripts/install-missing.sh build
	cargo build --locked
	@tests/e2e/run || [ $$? = 77 ]

lint: ## format check, clippy with warnings denied, shell scripts, rules and dashboards
	@scripts/install-missing.sh build
	@scripts/lint.sh

bench: ## measure the whole way on two cores: backlogs, live calls, a million calls of history (15 minutes; docs/performance.md)
	@scripts/install-missing.sh test
	cargo bench --locked --bench e2e

bench-parts: ## measure the pure parts: grouping, judging, building
	@scripts/install-missing.sh build
	cargo bench --locked --bench correlate

fuzz: ## fuzz readers and correlator, FUZZ_SECONDS=60 a target (installs cargo-fuzz: minutes)
	@command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
	@scripts/fuzz.sh

image: ## build the Docker image
	docker build --file docker/Dockerfile --tag $(IMAGE) .

deny: ## licences, bans, sources and known vulnerabilities of all dependencies (part of `make test`)
	@scripts/install-missing.sh deny
	@scripts/deny.sh

clean: ## remove what was built
	cargo clean

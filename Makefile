# What a newcomer types: `make demo`, `make test`. Everything lands in .venv; `make clean` takes it away.
export PATH := $(if $(PATH),$(PATH),/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PYTHON ?= python3
BIN := .venv/bin
DEMO_PACKAGES := python3:python3 python3-venv:- nft:nftables ip:iproute2
TEST_PACKAGES := $(DEMO_PACKAGES) ping:iputils-ping wg:wireguard-tools wireguard-go:wireguard-go conntrack:conntrack tmux:tmux miniupnpd:miniupnpd-nftables \
  '/usr/lib/postgresql/*/bin/initdb:postgresql'
BENCH_PACKAGES := $(DEMO_PACKAGES) ping:iputils-ping wg:wireguard-tools iperf3:iperf3 ethtool:ethtool openvpn:openvpn tincd:tinc \
  turnserver:coturn openssl:openssl go:golang-go
BENCH ?=

.PHONY: help demo test lint format dist bench clean system-demo system-test

help:
	@echo "make demo    machines behind NATs find each other, in namespaces on this machine (root)"
	@echo "make test    all tests; as root also those in real namespaces"
	@echo "make lint    format, rules, types, import contracts"
	@echo "make bench   all tunnels in turns, about an hour on a quiet machine (root); docs/benchmarks.md"
	@echo "make dist    the single binary, in dist/"

demo: .venv/.run
	$(BIN)/shadowmesh demo --once

test: .venv/.dev
	@packaging/system-packages $(TEST_PACKAGES)
	$(BIN)/pytest -q -n 2 --dist loadgroup -m "not lab and not root"
	@if [ "$$(id -u)" = 0 ]; then $(BIN)/pytest -q -m "lab or root"; \
	else echo "SKIPPED: the lab suite (pytest -m 'lab or root') needs root: run 'sudo make test'"; fi

# tests/bench/__main__.py tells what it takes: make bench BENCH="--rounds 1 --seconds 2"
bench: .venv/.run
	@packaging/system-packages $(BENCH_PACKAGES)
	$(BIN)/python tests/bench $(BENCH)

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

dist: .venv/.dev
	packaging/build-binary $(BIN)/python

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/.run: pyproject.toml
	@packaging/system-packages $(DEMO_PACKAGES)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing shadowmesh into .venv"
	@$(BIN)/python -m pip install -q -e .
	@touch $@

.venv/.dev: pyproject.toml
	@packaging/system-packages $(DEMO_PACKAGES)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing shadowmesh and its tools into .venv"
	@$(BIN)/python -m pip install -q -e ".[dev]"
	@touch $@ .venv/.run

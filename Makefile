# What a newcomer types: `make demo`, `make test`. Everything lands in .venv; `make clean` takes it away.
export PATH := $(if $(PATH),$(PATH),/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
unexport PYTHONDONTWRITEBYTECODE # or each of three pytest processes compiles all again
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PYTHON ?= python3
BIN := .venv/bin
NATIVE := hatch_build.py native/Cargo.toml native/Cargo.lock $(wildcard native/src/*.rs native/src/*/*.rs)
# rustup's proxy is there without a toolchain, too
CARGO := $(shell cargo --version >/dev/null 2>&1 && command -v cargo)
FIRST_BUILD := $(if $(CARGO), (building the native pump takes minutes the first time))
DEMO_PACKAGES := python3:python3 python3-venv:- nft:nftables ip:iproute2
TEST_PACKAGES := $(DEMO_PACKAGES) ping:iputils-ping wg:wireguard-tools wireguard-go:wireguard-go conntrack:conntrack tmux:tmux miniupnpd:miniupnpd-nftables \
  '/usr/lib/postgresql/*/bin/initdb:postgresql' chromium:chromium redis-server:redis-server
BENCH_PACKAGES := $(DEMO_PACKAGES) ping:iputils-ping wg:wireguard-tools iperf3:iperf3 ethtool:ethtool openvpn:openvpn tincd:tinc \
  turnserver:coturn openssl:openssl go:golang-go
BENCH ?=
PROVE ?=
LOAD ?=
SECONDS ?= 60
FAST := not lab and not root and not slow and not whole

.PHONY: help demo check test prove fuzz lint format dist bench load clean

help:
	@echo "make demo    machines behind NATs find each other, in namespaces on this machine (root)"
	@echo "make check   lint and the fast tests, a minute and a half: while working"
	@echo "make test    all tests; as root also those in real namespaces"
	@echo "make prove   what takes hours, one proof after another, resumable: docs/proofs.md (root)"
	@echo "make fuzz    the native pump's and relay's parsers, SECONDS=60 for each of five targets (needs cargo)"
	@echo "make lint    format, rules, types, import contracts"
	@echo "make bench   all tunnels in turns, over an hour on a quiet machine (root): docs/benchmarks.md"
	@echo "make load    a controller with 100, 1,000 and 5,000 members, some minutes on a quiet machine: docs/scale.md"
	@echo "make dist    the single binary, in dist/"

demo: .venv/.run
	$(BIN)/shadowmesh demo --once

check: lint
	@packaging/system-packages $(TEST_PACKAGES)
	$(BIN)/pytest -q -n 3 --dist loadgroup -m "$(FAST)"

# tests/all/__main__.py tells how: as root with the lab
test: .venv/.dev
	@packaging/system-packages $(TEST_PACKAGES)
	$(if $(CARGO),cd native && $(CARGO) test --quiet)
	$(BIN)/python tests/all

# tests/prove/__main__.py tells what it takes: make prove PROVE="-k world_b"
prove: .venv/.dev
	@packaging/system-packages $(TEST_PACKAGES)
	$(BIN)/python tests/prove $(PROVE)

fuzz:
	native/fuzz/run $(SECONDS)

# tests/bench/__main__.py tells what it takes: make bench BENCH="--rounds 1 --seconds 2"
bench: .venv/.run
	@packaging/system-packages $(BENCH_PACKAGES)
	$(BIN)/python tests/bench $(BENCH)

# tests/load/__main__.py tells what it takes: make load LOAD="-n 1000"
load: .venv/.dev
	$(BIN)/python tests/load $(LOAD)

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(if $(CARGO),cd native && $(CARGO) fmt --check && $(CARGO) clippy --quiet --all-targets --features python -- -D warnings)

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(if $(CARGO),cd native && $(CARGO) fmt)

dist: .venv/.dev
	packaging/build-binary $(BIN)/python

clean:
	rm -rf .venv build dist native/target shadowmesh/_native.abi3.so .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/.run: pyproject.toml $(NATIVE)
	@packaging/system-packages $(DEMO_PACKAGES)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing shadowmesh into .venv$(FIRST_BUILD)"
	@$(BIN)/python -m pip install -q -e .
	@$(BIN)/python -m shadowmesh.dataplane.pumps
	@touch $@

.venv/.dev: pyproject.toml $(NATIVE)
	@packaging/system-packages $(DEMO_PACKAGES)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing shadowmesh and its tools into .venv$(FIRST_BUILD)"
	@$(BIN)/python -m pip install -q -e ".[dev]"
	@$(BIN)/python -m shadowmesh.dataplane.pumps
	@touch $@ .venv/.run

# Two commands do all set-up on a fresh Debian machine that has git and Rust:
#   make demo   three nodes on this machine, the walk-through run visibly
#   make test   everything that CI runs
# Each installs what is missing by itself (root needed).

SHELL := /bin/bash
CARGO ?= cargo
PROFILE ?= dev
BIN_DIR := $(or $(CARGO_TARGET_DIR),target)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

.PHONY: setup build demo test test-long bench lint fmt sim clean-dev

setup:
	@bash scripts/setup.sh

build: setup
	$(CARGO) build --profile $(PROFILE) -p malha

demo: build
	@MALHA=$(BIN_DIR)/malha bash scripts/demo.sh

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	@bash scripts/deny.sh

test: setup
	@bash scripts/test.sh

test-long: build
	@MALHA=$(BIN_DIR)/malha bash tests/long/idle_twenty_minutes.sh

bench: setup
	$(CARGO) build --release -p malha --examples --bins
	@MALHA=$(or $(CARGO_TARGET_DIR),target)/release/malha bash benches/run.sh

fmt:
	$(CARGO) fmt --all

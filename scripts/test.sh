#!/usr/bin/env bash
# Everything CI runs, in the order that fails fastest.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in fmt clippy; do
	cargo "$tool" --version >/dev/null 2>&1 || rustup component add "${tool/fmt/rustfmt}"
done

step() { printf '\n=== %s (%ss)\n' "$1" "$SECONDS"; }

# Lints are read off the build itself: as a pass of their own they would compile every dependency twice.
export RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS='-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__'
# There are no examples in the docs to be run; --all-targets leaves that step out.
all=(--workspace --all-targets --quiet)

step format
cargo fmt --all --check
step dependencies
bash scripts/deny.sh
step 'build and lints'
cargo test "${all[@]}" --no-run
step tests
cargo test "${all[@]}" -- --test-threads=2
step done

#!/usr/bin/env bash
# Runs the benchmarks: see benches/ratios/main.rs and docs/benchmarks.md. Needs root.
#   ONLY=traffic,names,speed,memory   some parts only      ROUNDS=7 SECS=1   rounds of each comparison
set -euo pipefail
cd "$(dirname "$0")/.."
MALHA=$(realpath "${MALHA:?path of the malha binary}")
examples=$(dirname "$MALHA")/examples
images=$(mktemp -d)
trap 'rm -rf "$images"' EXIT
bash scripts/images.sh "$images" "$examples/netload"
"$examples/ratios" "$MALHA" "$examples/netload" "$images/bench.tar"
